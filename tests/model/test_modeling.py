"""The whole model: golden logits and losses, the one masked write, the loss head, generation, round trips."""

import copy
import json

import pytest
import torch
from golden_recipe import COMMA, GOLDEN, NEWLINE, PLACEHOLDER, draw_image, draw_token_ids, golden_model
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForImageTextToText, DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sicog.model import SicogConfig, SicogForConditionalGeneration, SicogImageProcessor
from sicog.model.layout import image_tokens

VOCAB, HOLE = 64, 63


def tiny_config(**overrides):
    text = {"model_type": "qwen2", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": VOCAB, "tie_word_embeddings": False}
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    fields = {
        "vision_config": {**vision, "image_size": 28, "patch_size": 14},
        "text_config": {**text, **heads},
        "scale": 28,
        "query_grid": 2,
        "image_token_id": HOLE,
        "row_separator_id": 10,
        "slice_separator_id": 11,
    }
    return SicogConfig(**{**fields, **overrides})


def tiny_model(**overrides):
    torch.manual_seed(0)
    return SicogForConditionalGeneration(tiny_config(**overrides)).eval()


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def block(grid):
    return list(image_tokens(grid, 2, image_token_id=HOLE, row_separator_id=10, slice_separator_id=11))


def pixels(grids, seed=1):
    """Random images: all slices 2x2 patches, thumbnails 2x1."""
    sizes = [size for c, r in grids for size in [(2, 2)] * (c * r) + [(2, 1)]]
    generator = torch.Generator().manual_seed(seed)
    return {
        "pixel_values": torch.randn(sum(h * w for h, w in sizes), 588, generator=generator),
        "view_sizes": torch.tensor(sizes),
        "image_grids": torch.tensor(grids),
    }


def pad(rows, side="right"):
    width = max(map(len, rows))
    place = (lambda r: r + [0] * (width - len(r))) if side == "right" else (lambda r: [0] * (width - len(r)) + r)
    return {
        "input_ids": torch.tensor([place(r) for r in rows]),
        "attention_mask": torch.tensor([place([1] * len(r)) for r in rows]),
    }


GOLDEN_CASES = ["single_small", "wide", "text_only", "batch"]
GOLDEN_PATHS = ["right", "left", "packed", "packed with a mask", "packed, flash", "flash", "uint8"]
MIXED = ("text_only", "wide", "single_small")  # in one batch


def golden_batch(cases, path="right"):
    """(the model's inputs and labels of these cases' rows, bool [B, T]: which positions are no padding)."""
    processor = SicogImageProcessor(normalize_on="device" if path == "uint8" else "host")
    rows, labels, images = [], [], []
    for sample in (sample for case in cases for sample in case["samples"]):
        before, after = draw_token_ids(sample["token_seed"], sample["n_before"], sample["n_after"])
        visual = ()
        if sample["width"]:
            image = processor.prepare(draw_image(sample["width"], sample["height"], sample["image_seed"]))
            images.append(image)
            ids = {"image_token_id": PLACEHOLDER, "row_separator_id": NEWLINE, "slice_separator_id": COMMA}
            visual = image_tokens(image.grid, 12, **ids)
        rows.append([*before, *visual, *after])
        n = len(after) // 2
        labels.append([-100] * (len(rows[-1]) - n) + after[len(after) - n :])
    batch = packed(rows, path) if path.startswith("packed") else pad(rows, "left" if path == "left" else "right")
    valid = batch["attention_mask"].bool() if batch.get("attention_mask", torch.ones(1)).ndim == 2 else None
    valid = torch.ones_like(batch["input_ids"], dtype=torch.bool) if valid is None else valid
    batch["labels"] = torch.full_like(batch["input_ids"], -100)
    batch["labels"][valid] = torch.tensor(sum(labels, []))
    if images:
        batch["pixel_values"] = torch.cat([torch.from_numpy(i.pixels) for i in images])
        batch["view_sizes"] = torch.tensor([s for i in images for s in i.view_sizes])
        batch["image_grids"] = torch.tensor([i.grid for i in images])
    return batch, valid


def packed(rows, path):
    """All rows in one, told apart by their positions or by a block-diagonal mask too."""
    batch = {
        "input_ids": torch.tensor([sum(rows, [])]),
        "position_ids": torch.tensor([[i for row in rows for i in range(len(row))]]),
    }
    if path == "packed with a mask":
        batch["attention_mask"] = (
            torch.block_diag(*(torch.ones(len(r), len(r)) for r in rows)).tril().bool()[None, None]
        )
    return batch


flash_calls = []


def flash(module, query, key, value, mask, *, scaling=None, is_causal=True, cu_seq_lens_q=None, position_ids=None, **_):
    """A stand-in for the kernel, which needs CUDA: attends within the rows that borders or positions tell apart."""
    flash_calls.append(type(module).__name__)
    n = query.shape[2]
    starts = torch.zeros(len(query), n, dtype=torch.long)
    if cu_seq_lens_q is not None:
        starts[0, cu_seq_lens_q[1:-1].long()] = 1
    elif mask is None:
        starts += position_ids.eq(0)
    row_BT = starts.cumsum(1)
    may = row_BT[:, :, None] == row_BT[:, None]
    may = may.tril() if cu_seq_lens_q is None else may
    if mask is not None:
        assert mask.ndim == 2  # padding, as the kernel takes it
        may = may & mask[:, None].bool() | torch.eye(n, dtype=torch.bool)
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    attend = torch.nn.functional.scaled_dot_product_attention
    return attend(query, key, value, may[:, None], scale=scaling).transpose(1, 2), None


def golden_figures(names):
    """What the original gave for these cases: tensors of all valid positions, row after row; the mean loss."""
    with safe_open(GOLDEN / "model.safetensors", "pt") as golden:
        by_name = {c["name"]: c for c in json.loads(golden.metadata()["cases"])}
        cases = [by_name[name] for name in names]
        masks = [golden.get_tensor(f"{name}.attention_mask").bool() for name in names]
        want = {
            k: torch.cat([golden.get_tensor(f"{name}.{k}")[mask] for name, mask in zip(names, masks, strict=True)])
            for k in ("inputs_embeds", "logits", "logsumexp", "labels")
        }
        want["probe"] = golden.get_tensor("probe_token_ids")
    counts = [sum(case["supervised"]) for case in cases]
    loss = sum(case["loss"] * n for case, n in zip(cases, counts, strict=True)) / sum(counts)
    return cases, want, loss


def computed(model, batch, valid):
    """(embeddings, logits) of the valid positions, and the loss."""
    labels, seen = batch.pop("labels"), []
    hook = model.language_model.base_model.register_forward_pre_hook(
        lambda _m, _a, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    with torch.no_grad():
        logits = model(**batch, use_cache=False).logits[valid]
        hook.remove()
        loss = model(**batch, labels=labels).loss
    return seen[0][valid], logits, loss.item()


@pytest.fixture
def on_path(monkeypatch):
    """A function that sets a model's attention and loss head."""

    def set_path(model, path, head="auto"):
        monkeypatch.setattr(model.config, "loss_head", head)
        if "flash" in path:
            monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "flash_attention_2", flash)
            for config in (model.config.text_config, model.config.vision_config):
                monkeypatch.setattr(config, "_attn_implementation_internal", "flash_attention_2")

    return set_path


@pytest.mark.parametrize("head", ["chunked", "plain"])
@pytest.mark.parametrize(
    ("names", "path"),
    [
        *(((name,), "right") for name in GOLDEN_CASES),
        *((("batch",), path) for path in GOLDEN_PATHS[1:]),
        *((MIXED, path) for path in ("right", "packed")),
    ],
)
def test_agrees_with_the_golden_figures(names, path, head, on_path):
    cases, want, want_loss = golden_figures(names)
    batch, valid = golden_batch(cases, path)
    assert valid.sum() == sum(sum(case["sequence_lengths"]) for case in cases)
    assert torch.equal(batch["labels"][valid], want["labels"])
    on_path(golden_model(), path, head)
    flash_calls.clear()
    embeds, logits, loss = computed(golden_model(), batch, valid)
    assert set(flash_calls) == ({"ViewAttention", "Qwen2Attention"} if "flash" in path else set())
    torch.testing.assert_close(embeds[:, ::16], want["inputs_embeds"], atol=1e-4, rtol=0)
    torch.testing.assert_close(logits[:, want["probe"]], want["logits"], atol=1e-3, rtol=0)
    torch.testing.assert_close(logits.logsumexp(-1), want["logsumexp"], atol=1e-3, rtol=0)
    assert abs(loss - want_loss) < 1e-4


def rounded(model):
    """The model in float32, its weights and all that its innermost modules give rounded to bfloat16."""
    model = copy.deepcopy(model).bfloat16().float()
    for module in model.modules():
        if not [*module.children()]:
            module.register_forward_hook(
                lambda _m, _a, out: out.bfloat16().float() if isinstance(out, torch.Tensor) else None
            )
    return model


@pytest.fixture(scope="module")
def rounding_errors():
    """What rounding alone does to the golden figures: of embeddings, logits and their logsumexp, root mean square."""
    cases, want, want_loss = golden_figures(("batch",))
    batch, valid = golden_batch(cases)
    return errors(want, want_loss, *computed(rounded(golden_model()), batch, valid))


def errors(want, want_loss, embeds, logits, loss):
    logits = logits.float()
    found = {
        "inputs_embeds": embeds[:, ::16].float(),
        "logits": logits[:, want["probe"]],
        "logsumexp": logits.logsumexp(-1),
    }
    apart = {name: float((x - want[name]).square().mean().sqrt()) for name, x in found.items()}
    return apart, abs(loss - want_loss)


@pytest.mark.parametrize("path", GOLDEN_PATHS)
def test_bfloat16_is_as_near_to_the_golden_figures_as_rounding_lets_it(path, on_path, rounding_errors):
    cases, want, want_loss = golden_figures(("batch",))
    batch, valid = golden_batch(cases, path)
    model = copy.deepcopy(golden_model()).bfloat16()
    on_path(model, path)
    apart, loss_apart = errors(want, want_loss, *computed(model, batch, valid))
    for name, error in apart.items():
        assert error <= 2 * rounding_errors[0][name], name
    # A mean over the 45 supervised positions, of errors like those of the logits.
    assert loss_apart <= 3 * rounding_errors[0]["logits"]


@pytest.mark.parametrize("token", [HOLE, VOCAB, 10**6])
def test_placeholder_may_lie_inside_or_outside_the_table(model, token):
    other = tiny_model(image_token_id=token)
    other.load_state_dict(model.state_dict())
    ids = [1, 2, *block((2, 1)), 3]
    batch = {**pad([ids]), **pixels([(2, 1)]), "labels": torch.tensor([ids])}
    batch["labels"][batch["labels"] == HOLE] = -100
    expected = model(**batch).loss
    batch["input_ids"] = batch["input_ids"].masked_fill(batch["input_ids"] == HOLE, token)
    torch.testing.assert_close(other(**batch).loss, expected)


def test_wrong_counts_are_refused(model):
    batch = {**pad([[1, *block((0, 0)), 2]]), **pixels([(0, 0), (0, 0)])}
    with pytest.raises(ValueError, match="4 image placeholders but 8 image features"):
        model(**batch)
    with pytest.raises(ValueError, match="4 image placeholders but 0 image features"):
        model(**pad([[1, *block((0, 0)), 2]]))
    with pytest.raises(ValueError, match="describe 3 views, but view_sizes has 1"):
        model.encode_images(torch.randn(2, 588), torch.tensor([[1, 2]]), torch.tensor([[2, 1]]))
    with pytest.raises(ValueError, match="need view_sizes"):
        model(**pad([[1]]), pixel_values=torch.randn(2, 588))


def test_several_images_fill_their_own_places(model):
    grids = [(2, 1), (0, 0)]
    both = pixels(grids)
    together = model.encode_images(**both)
    cut = 2 * 4 + 2
    first = model.encode_images(both["pixel_values"][:cut], both["view_sizes"][:3], both["image_grids"][:1])
    second = model.encode_images(both["pixel_values"][cut:], both["view_sizes"][3:], both["image_grids"][1:])
    torch.testing.assert_close(together, torch.cat([first, second]), atol=1e-5, rtol=1e-4)
    one_row = {**pad([[1, *block(grids[0]), 2, *block(grids[1]), 3]]), **both}
    assert model(**one_row).logits.shape == (1, len(one_row["input_ids"][0]), VOCAB)


def test_precomputed_features_give_the_same_logits(model):
    batch, images = pad([[1, *block((2, 1)), 3]]), pixels([(2, 1)])
    features = model.encode_images(**images)
    torch.testing.assert_close(model(**batch, image_features=features).logits, model(**batch, **images).logits)


def test_loss_and_gradients_equal_the_plain_head():
    model = tiny_model()
    rows = [[1, *block((2, 1)), 3, 4, 5], [6, 7, 8]]
    batch = {**pad(rows), **pixels([(2, 1)])}
    labels = torch.full_like(batch["input_ids"], -100)
    labels[0, -3:], labels[1, 1:3] = torch.tensor([3, 4, 5]), torch.tensor([7, 8])
    loss = model(**batch, labels=labels).loss
    loss.backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    logits = model.get_output_embeddings()(
        model.language_model.base_model(
            inputs_embeds=model._embed(batch["input_ids"], model.encode_images(**pixels([(2, 1)])), checked=True),
            attention_mask=batch["attention_mask"],
        ).last_hidden_state
    )
    plain = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    plain.backward()
    torch.testing.assert_close(loss, plain)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(grads[name], parameter.grad, atol=1e-6, rtol=1e-4, msg=name)
    total = model(**batch, labels=labels, num_items_in_batch=10).loss
    torch.testing.assert_close(total, plain * 5 / 10)


def test_text_alone_trains_every_part():
    model = tiny_model().train()
    ids = torch.tensor([[1, 2, 3, 4]])
    torch.testing.assert_close(model(input_ids=ids, labels=ids).loss, model.eval()(input_ids=ids, labels=ids).loss)
    model(input_ids=ids, labels=ids).loss.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert model.resampler.proj.grad.abs().max() == 0


def test_logits_to_keep_and_the_placeholder_is_never_generated(model):
    batch = pad([[1, 2, 3, 4]])
    full, last = model(**batch).logits, model(**batch, logits_to_keep=1).logits
    torch.testing.assert_close(full[:, -1:], last)
    assert torch.isinf(last[..., HOLE]).all()
    assert torch.isfinite(last[..., :HOLE]).all()


def test_packed_rows_equal_separate_rows(model):
    rows = [[1, *block((0, 0)), 3, 4], [6, 7, 8, 9, 5]]
    labels = [[-100] * 5 + [3, 4], [-100, 7, 8, 9, 5]]
    images = pixels([(0, 0)])
    apart = [
        model(
            input_ids=torch.tensor([r]), labels=torch.tensor([y]), num_items_in_batch=6, **(images if HOLE in r else {})
        )
        for r, y in zip(rows, labels, strict=True)
    ]
    together = model(
        input_ids=torch.tensor([sum(rows, [])]),
        labels=torch.tensor([sum(labels, [])]),
        position_ids=torch.tensor([[*range(7), *range(5)]]),
        num_items_in_batch=6,
        **images,
    )
    torch.testing.assert_close(together.loss, apart[0].loss + apart[1].loss, atol=1e-5, rtol=1e-5)


GREEDY = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0, "eos_token_id": None}


def test_left_padded_batches_generate_what_single_rows_do(model):
    rows = [[1, *block((2, 1)), 3], [6, 7], [5, *block((0, 0)), 9, *block((1, 2)), 8]]
    grids = [[(2, 1)], [], [(0, 0), (1, 2)]]
    batch = {**pad(rows, "left"), **pixels(sum(grids, []))}
    out = model.generate(**batch, **GREEDY)[:, batch["input_ids"].shape[1] :]
    features = model.encode_images(**pixels(sum(grids, [])))
    start = 0
    for i, (row, own) in enumerate(zip(rows, grids, strict=True)):
        n = row.count(HOLE)
        extra = {"image_features": features[start : start + n]} if own else {}
        start += n
        assert torch.equal(model.generate(**pad([row]), **extra, **GREEDY)[0, len(row) :], out[i])
        assert torch.equal(model.generate(**pad([row]), **extra, **GREEDY, use_cache=False)[0, len(row) :], out[i])


def turns():
    """(a first turn about an image and a second about another, the pixels of both)."""
    return [1, *block((2, 1)), 3], [4, *block((0, 0)), 5, 6], pixels([(2, 1)], seed=1), pixels([(0, 0)], seed=2)


def joined(*images):
    return {name: torch.cat([x[name] for x in images]) for name in images[0]}


def test_an_image_after_a_cached_turn(model):
    first, second, one, two = turns()
    whole = model(**pad([first + second]), **joined(one, two)).logits[:, len(first) :]
    cache = DynamicCache()
    model(**pad([first]), **one, past_key_values=cache, use_cache=True)
    later = model(input_ids=torch.tensor([second]), **two, past_key_values=cache, use_cache=True).logits
    torch.testing.assert_close(later, whole, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="0 image placeholders but 4 image features"):
        model(input_ids=torch.tensor([[1]]), **two, past_key_values=cache)


@pytest.mark.parametrize("again", [True, False])  # are the pixels of the first turn handed in again?
def test_generating_after_a_cached_turn(model, again):
    first, second, one, two = turns()
    want = model.generate(**pad([first + second]), **joined(one, two), **GREEDY)
    cache = DynamicCache()
    model(**pad([first]), **one, past_key_values=cache, use_cache=True)
    images = joined(one, two) if again else two
    assert torch.equal(model.generate(**pad([first + second]), **images, **GREEDY, past_key_values=cache), want)


def test_a_prompt_in_pieces(model):
    """Text in pieces gives the same; features belong to the whole prompt, so with images it is refused, not guessed."""
    text, image = pad([[1, 2, 3, 4, 5, 6, 7]]), {**pad([[1, *block((2, 1)), 3]]), **pixels([(2, 1)])}
    want = model.generate(**text, **GREEDY)
    assert torch.equal(model.generate(**text, **GREEDY, prefill_chunk_size=3), want)
    with pytest.raises(ValueError, match="image placeholders but"):
        model.generate(**image, **GREEDY, prefill_chunk_size=3)


def test_images_are_encoded_once_for_several_sequences(model):
    rows = [[1, *block((2, 1)), 3], [6, 7], [5, *block((0, 0)), 9]]
    batch = {**pad(rows, "left"), **pixels([(2, 1), (0, 0)])}
    calls = []
    hook = model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    torch.manual_seed(0)
    sampled = model.generate(**batch, **{**GREEDY, "do_sample": True}, num_return_sequences=3)
    hook.remove()
    assert len(calls) == 1
    assert sampled.shape[0] == 9
    beams = model.generate(**batch, **GREEDY, num_beams=3, num_return_sequences=3)
    best = model.generate(**batch, **GREEDY, num_beams=3)
    assert torch.equal(beams[::3], best)


@pytest.mark.parametrize("tied", [False, True])
def test_round_trip(tmp_path, tied):
    text = {**tiny_config().text_config.to_dict(), "tie_word_embeddings": tied}
    model = tiny_model(text_config=text)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    assert isinstance(AutoConfig.from_pretrained(tmp_path), SicogConfig)
    loaded, info = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(loaded, SicogForConditionalGeneration)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert {n: p.requires_grad for n, p in loaded.named_parameters()} == {
        n: p.requires_grad for n, p in model.named_parameters()
    }
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    batch = {**pad([[1, *block((2, 1)), 3]]), **pixels([(2, 1)])}
    assert torch.equal(model(**batch).logits, loaded.eval()(**batch).logits)
    assert (loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight) == tied


def test_saved_names_are_the_parts_own(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert {"vision_tower.embeddings.class_embedding", "resampler.attn.in_proj_weight"} <= names
    assert {"vision_tower.post_layernorm.weight", "language_model.model.embed_tokens.weight"} <= names


def test_gradient_checkpointing_trains(model):
    batch = {**pad([[1, *block((2, 1)), 3]]), **pixels([(2, 1)])}
    batch["labels"] = batch["input_ids"].masked_fill(batch["input_ids"] == HOLE, -100)
    trained = tiny_model().train()
    trained.gradient_checkpointing_enable({"use_reentrant": False})
    loss = trained(**batch).loss
    loss.backward()
    torch.testing.assert_close(loss, model(**batch).loss)
    assert trained.vision_tower.embeddings.class_embedding.grad is not None


def test_bfloat16_runs():
    model = tiny_model().to(torch.bfloat16)
    batch = {**pad([[1, *block((2, 1)), 3]]), **pixels([(2, 1)])}
    assert model(**batch).logits.dtype == torch.bfloat16


def test_config_mistakes():
    with pytest.raises(ValueError, match="outside the vocabulary"):
        tiny_config(row_separator_id=VOCAB)
    with pytest.raises(ValueError, match="does not divide"):
        tiny_config(resampler_heads=3)
    assert tiny_config(image_token_id=None).image_token_id == VOCAB


def test_the_mini_size_builds():
    text = {**tiny_config().text_config.to_dict(), "hidden_size": 192, "num_attention_heads": 3}
    vision = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 112, "patch_size": 14}
    model = tiny_model(text_config=text, vision_config=vision, scale=112, query_grid=4, resampler_heads=3)
    features = model.encode_images(torch.randn(64, 588), torch.tensor([[8, 8]]), torch.tensor([[0, 0]]))
    assert features.shape == (16, 192)


def test_uint8_patches_give_the_features_of_normalised_ones():
    model = tiny_model(image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4])
    images = [draw_image(60, 40, 1), draw_image(20, 20, 2)]
    features = []
    for normalize_on in ("host", "device"):
        fields = {
            "image_mean": model.config.image_mean,
            "image_std": model.config.image_std,
            "normalize_on": normalize_on,
        }
        batch = SicogImageProcessor(scale=28, **fields)(images, return_tensors="pt")
        with torch.inference_mode():
            features.append(model.encode_images(**batch))
        assert batch["pixel_values"].dtype == (torch.uint8 if normalize_on == "device" else torch.float32)
    torch.testing.assert_close(*features, atol=1e-6, rtol=1e-6)
    model.encode_images(**batch).sum().backward()  # after inference mode
