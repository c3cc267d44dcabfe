"""Packed rows: documents see neither each other nor each other's images; losses and gradients are as padded."""

import copy

import pytest
import torch
from model.test_modeling import HOLE, block, pad, pixels, tiny_config, tiny_model
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sicog.model import SicogForConditionalGeneration
from sicog.model.kernels import document_attention
from sicog.model.kernels.document_attention import DOCUMENTS, attend_within_documents
from sicog.model.kernels.loss_head import positions_before_targets

LLAMA = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 64}
TEXT = [[5, 6, 7], [9], [8, 7, 6, 5, 4, 3, 2]]
IMAGES = [(0, 0), (2, 1), (1, 2)]
# An image in one row, text only, and two images in one row.
MIXED = [[1, *block(IMAGES[0]), 3, 4], [6, 7, 8, 9, 5], [2, *block(IMAGES[1]), 3, *block(IMAGES[2]), 12, 13]]


def labels_of(rows):
    """The last two positions of each row are supervised; a row of one has no target."""
    return [[-100] * max(1, len(r) - 2) + r[max(1, len(r) - 2) :] for r in rows]


def flat(rows):
    return torch.tensor([sum(rows, [])])


def packed_batch(rows):
    borders = torch.tensor([0, *map(len, rows)]).cumsum(0).int()
    batch = {"input_ids": flat(rows), "labels": flat(labels_of(rows)), "document_borders": borders}
    return {**batch, **(pixels(IMAGES) if rows is MIXED else {})}


def padded_batch(rows):
    width = max(map(len, rows))
    labels = torch.tensor([y + [-100] * (width - len(y)) for y in labels_of(rows)])
    return {**pad(rows), "labels": labels, **(pixels(IMAGES) if rows is MIXED else {})}


def loss_and_gradients(model, batch):
    model.zero_grad()
    loss = model(**batch, num_items_in_batch=5).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def kernel(query, key, value, ends, ends_k, longest, longest_k, *, scale, window_size, enable_gqa):
    """A stand-in for torch's kernel, which needs CUDA."""
    assert ends is ends_k and ends.dtype == torch.int32 and longest == longest_k == int(ends.diff().max())
    assert window_size == (-1, 0) and enable_gqa and query.dtype == key.dtype == value.dtype
    attend = torch.nn.functional.scaled_dot_product_attention
    parts = zip(*(x.transpose(0, 1).split(ends.diff().tolist(), dim=1) for x in (query, key, value)), strict=True)
    outs = [attend(q, k, v, is_causal=True, scale=scale, enable_gqa=True) for q, k, v in parts]
    return torch.cat(outs, dim=1).transpose(0, 1)


def flash(module, query, key, value, mask, *, scaling, cu_seq_lens_q, max_length_q, **_):
    """A stand-in for flash-attn as Transformers calls it."""
    assert mask is None
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    options = {"scale": scaling, "window_size": (-1, 0), "enable_gqa": True}
    return kernel(q, k, v, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q, **options)[None], None


@pytest.mark.parametrize("rows", [MIXED, TEXT], ids=["images", "text only"])
@pytest.mark.parametrize("way", ["documents", "varlen", "flash", "not switched", "eager", "checkpointing"])
@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_packed_rows_give_the_losses_and_gradients_of_padded_ones(monkeypatch, rows, way, family):
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": False}
    model = tiny_model(**({"text_config": {**LLAMA, **heads}} if family == "llama" else {})).train()
    wanted, gradients = loss_and_gradients(model, padded_batch(rows))
    assert gradients["vision_tower.embeddings.patch_embedding.weight"].any() == (rows is MIXED)
    if way not in ("not switched", "eager", "flash"):
        attend_within_documents(model)
        assert model.language_model.config._attn_implementation == DOCUMENTS
    if way == "varlen":
        monkeypatch.setattr(document_attention, "has_varlen", lambda x: True)
        monkeypatch.setattr(document_attention, "varlen_attn", kernel)
    if way == "flash":
        monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "flash_attention_2", flash)
        monkeypatch.setattr(model.language_model.config, "_attn_implementation_internal", "flash_attention_2")
        attend_within_documents(model)  # stays flash
    if way == "eager":
        model.language_model.config._attn_implementation = "eager"
    if way == "checkpointing":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    found, packed = loss_and_gradients(model, packed_batch(rows))
    assert found == pytest.approx(wanted, abs=1e-5)
    # A batch without images touches the vision side too: its gradients are there, and are 0.
    assert packed.keys() == gradients.keys()
    for name in gradients:
        torch.testing.assert_close(packed[name], gradients[name], atol=1e-5, rtol=1e-4)


def test_no_dense_mask_is_made(monkeypatch):
    """Neither by Transformers, which would find the documents by their positions, nor by us."""
    model = tiny_model()
    attend_within_documents(model)
    masks = []
    for layer in model.language_model.model.layers:
        layer.register_forward_pre_hook(lambda _m, _a, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True)
    model(**packed_batch(MIXED))
    assert len(masks) == 2 and all(mask.numel() == 1 for mask in masks)


def test_a_document_does_not_see_another():
    model = tiny_model()
    attend_within_documents(model)
    batch = packed_batch(TEXT)
    batch.pop("labels")
    before = model(**batch).logits
    batch["input_ids"] = batch["input_ids"].clone()
    batch["input_ids"][0, 1] = 30
    after = model(**batch).logits
    assert torch.equal(before[0, 3:], after[0, 3:]) and not torch.equal(before[0, 2], after[0, 2])


def test_a_switched_model_reads_padded_rows_and_generates_as_before():
    model = tiny_model()
    switched = copy.deepcopy(model)
    attend_within_documents(switched)
    for side in ("left", "right"):
        batch = pad(TEXT, side)
        torch.testing.assert_close(model(**batch).logits, switched(**batch).logits)
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    batch = pad(TEXT, "left")
    assert torch.equal(model.generate(**batch, **options), switched.generate(**batch, **options))


def test_the_switch_is_not_saved(tmp_path):
    model = tiny_model()
    attend_within_documents(model)
    model.save_pretrained(tmp_path)
    assert DOCUMENTS not in (tmp_path / "config.json").read_text()
    again = SicogForConditionalGeneration.from_pretrained(tmp_path)
    assert again.language_model.config._attn_implementation == "sdpa"


def test_sliding_windows_are_left_to_transformers():
    text = tiny_config().text_config.to_dict() | {"use_sliding_window": True, "sliding_window": 2}
    text |= {"max_window_layers": 0, "layer_types": ["sliding_attention"] * 2}
    model = tiny_model(text_config=text)
    attend_within_documents(model)
    assert model.language_model.config._attn_implementation == "sdpa"
    wanted, _ = loss_and_gradients(model, padded_batch(TEXT))
    assert loss_and_gradients(model, packed_batch(TEXT))[0] == pytest.approx(wanted, abs=1e-5)


def test_bfloat16_autocast_keeps_the_loss():
    model = tiny_model()
    attend_within_documents(model)
    with torch.autocast("cpu", torch.bfloat16):
        losses = [model(**batch(MIXED)).loss.item() for batch in (packed_batch, padded_batch)]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


@pytest.mark.parametrize("borders", [[0, 4], [1, 11], [0, 5, 5, 11], [11]])
def test_borders_that_do_not_cover_the_row_are_refused(borders):
    batch = packed_batch(TEXT) | {"document_borders": torch.tensor(borders)}
    with pytest.raises(ValueError, match="must rise from 0"):
        tiny_model()(**batch)


def test_a_mask_or_a_cache_beside_borders_is_refused():
    batch = packed_batch(TEXT)
    for extra in ({"attention_mask": torch.ones_like(batch["input_ids"])}, {"use_cache": True}):
        with pytest.raises(ValueError, match="with attention_mask or a cache"):
            tiny_model()(**batch, **extra)
    assert HOLE not in sum(TEXT, [])


def positions(batch):
    """As collators give them."""
    images = batch["input_ids"].flatten().eq(HOLE).nonzero()[:, 0]
    return {"image_positions": images, "supervised_positions": positions_before_targets(batch["labels"])}


@pytest.mark.parametrize("rows", [MIXED, TEXT], ids=["images", "text only"])
@pytest.mark.parametrize("make", [packed_batch, padded_batch])
def test_known_positions_give_the_same_as_looking_for_them(rows, make):
    model = tiny_model().train()
    batch = make(rows)
    known = {**batch, **positions(batch)}
    for name in ("view_sizes", "image_grids", "document_borders"):  # as a trainer keeps them on the host
        if name in known:
            known[name] = known[name].numpy()
    expected, found = loss_and_gradients(model, batch), loss_and_gradients(model, known)
    assert found[0] == expected[0] and found[1].keys() == expected[1].keys()
    assert all(torch.equal(found[1][name], expected[1][name]) for name in expected[1])
    with torch.no_grad():
        log_probs = [model(**inputs, wants_log_probs=True).document_log_probs for inputs in (batch, known)]
    assert torch.equal(*log_probs)
    if rows is MIXED:
        with pytest.raises(ValueError, match="image placeholders but"):
            model(**{**known, "image_positions": known["image_positions"][1:]})
