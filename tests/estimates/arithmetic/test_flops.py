"""flops.py and memory.py against PyTorch's own counter and against the tensors that autograd keeps."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sicog.estimates.arithmetic.flops import (
    PARTS,
    ROWS,
    Work,
    forward_flops,
    model_of,
    parameters,
    row_cost,
    training_flops,
    work_of,
)
from sicog.estimates.arithmetic.memory import activations, states, states_without_deepspeed
from sicog.model import SicogConfig, SicogForConditionalGeneration
from sicog.model.lengths import RowLengths
from sicog.training.parts import set_trainable

FULL_SIZE = Path(__file__).parents[3] / "recipes" / "configs" / "sicog-7b.json"


def addmm_flops(_, a_shape, b_shape, **__):
    """The counter does not know the in-place product that sums the head's gradient."""
    return 2 * a_shape[0] * a_shape[1] * b_shape[1]


def small_config(**fields):
    vision = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 2}
    text = {"model_type": "qwen2", "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 700, "tie_word_embeddings": False}
    return SicogConfig(
        vision_config={**vision, "image_size": 112, "patch_size": 14},
        text_config={**text, **heads},
        scale=112,
        image_token_id=699,
        row_separator_id=10,
        slice_separator_id=11,
        **(fields or {"query_grid": 4, "resampler_heads": 6}),
    )


MLP = {"projector_type": "mlp"}
CASES = [({}, (300, 200), (3, 2)), ({}, (100, 100), (0, 0)), (MLP, (300, 200), (0, 0))]


def full_size(layers=None, **more):
    fields = {**json.loads(FULL_SIZE.read_text()), **more}
    if layers:
        fields["text_config"]["num_hidden_layers"] = layers
        fields["vision_config"]["num_hidden_layers"] = layers + 1
    return SicogConfig.from_dict(fields)


def batch(config: SicogConfig, work: Work, grid, dtype=torch.float32):
    """A row that is exactly this work."""
    ids = torch.full((1, work.positions), 5)
    ids[0, : len(work.views) * config.query_grid**2] = config.image_token_id
    labels = torch.full_like(ids, -100)
    labels[0, work.positions - work.supervised :] = 7
    pixels = torch.randn(sum(h * w for h, w in work.views), 588, dtype=dtype)
    sizes = {"view_sizes": torch.tensor(work.views), "image_grids": torch.tensor([grid])}
    return {"input_ids": ids, "labels": labels, "pixel_values": pixels, **sizes}


@pytest.mark.parametrize("trainable", [PARTS, ("projector",), ("language_model",), ("projector", "language_model")])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("fields", "size", "grid"), CASES)
def test_training_agrees_with_the_flop_counter(trainable, checkpointing, fields, size, grid):
    config = small_config(**fields)
    work = work_of(config, size, 60)
    model = SicogForConditionalGeneration(config).train()
    set_trainable(model, trainable)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.disable_input_require_grads()
    with (
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: addmm_flops}) as counter,
    ):
        model(**batch(config, work, grid)).loss.backward()
    ours = sum(training_flops(config, work, trainable, checkpointing=checkpointing).values())
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_full_width_agrees_with_the_flop_counter():
    """One layer of each transformer at full width, on the meta device, part by part."""
    config = full_size(layers=1)
    work, model = work_of(config, (1024, 768), 500), model_of(config)

    def counted(run):
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops()

    sizes, n_patches = torch.tensor(work.views), sum(h * w for h, w in work.views)
    width = config.text_config.hidden_size
    with torch.device("meta"), torch.no_grad():
        pixels, features = torch.empty(n_patches, 588), torch.empty(n_patches, 1024)
        hidden = torch.empty(1, work.positions, width)
        mask = torch.empty(1, 1, work.positions, work.positions, dtype=torch.bool)  # given, it is not worked out
    ours = forward_flops(config, work)
    tower = counted(lambda: model.vision_tower(pixels, sizes))
    projector = counted(lambda: model.resampler(features, sizes))
    blocks = counted(
        lambda: model.language_model.base_model(inputs_embeds=hidden, attention_mask=mask, use_cache=False)
    )
    head = counted(lambda: model.get_output_embeddings()(hidden[:, : work.supervised]))
    assert ours["vision tower"] == pytest.approx(tower, rel=0.02)
    assert ours["projector"] == pytest.approx(projector, rel=0.02)
    assert ours["language model blocks"] + ours["attention scores"] == pytest.approx(blocks, rel=0.02)
    assert ours["loss head"] == pytest.approx(head, rel=0.02)


@pytest.mark.parametrize("fields", [{}, MLP])
@pytest.mark.parametrize("trainable", [PARTS, ("projector",)])
def test_training_the_whole_at_full_width_agrees_with_the_flop_counter(fields, trainable):
    """One layer of each transformer, forward and backward, on the meta device."""
    config = full_size(layers=1, loss_head="plain", **fields)  # the others choose positions by their labels' values
    work = work_of(config, (1024, 768), 500)
    work = replace(work, supervised=work.positions - 1)
    with torch.device("meta"):
        model = SicogForConditionalGeneration(config).train()
        pixels = torch.empty(sum(h * w for h, w in work.views), 588)
        ids = torch.zeros(1, work.positions, dtype=torch.long)
        mask = torch.empty(1, 1, work.positions, work.positions, dtype=torch.bool)
    set_trainable(model, trainable)
    grid = torch.tensor([(0, 0) if fields else (3, 2)])
    with FlopCounterMode(display=False) as counter:
        features = model.encode_images(pixels, torch.tensor(work.views), grid)
        # Counting placeholders needs their values.
        embeds = model.get_input_embeddings()(ids).masked_scatter(ids[..., None].eq(0), features)
        model(inputs_embeds=embeds, attention_mask=mask, labels=ids).loss.backward()
    ours = sum(training_flops(config, work, trainable).values())
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_the_limits_of_the_measures():
    """All text supervised, scores over all pairs: 72 TFLOP at 7 views and 500 tokens; 54 samples/s aligned."""
    config = full_size()
    work = work_of(config, (1024, 768), 500)
    assert (len(work.views), work.positions) == (7, 1533)
    assert sum(training_flops(config, work).values()) == pytest.approx(72e12, rel=0.01)
    one_view = work_of(config, (336, 336), 50)
    assert one_view.positions == 194
    assert 312e12 / sum(training_flops(config, one_view, ("projector",)).values()) == pytest.approx(54, rel=0.03)
    assert parameters(config)["projector"] == 68_963_328
    assert parameters(config)["language_model"] == 7_615_616_512


def test_text_alone_and_unsliced():
    config = small_config()
    text = forward_flops(config, work_of(config, None, 20))
    assert text[ROWS[0]] == text[ROWS[1]] == 0 < text[ROWS[2]]
    assert len(work_of(config, (300, 200), 20, slicing=False).views) == 1


def kept_by_autograd(model, inputs):
    """Bytes that autograd keeps, beside parameters, by part; `other` is the loss head and what joins the parts."""
    seen, sizes, part = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}, ["other"]
    kept = []

    def pack(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            sizes[part[0]] = sizes.get(part[0], 0) + storage.nbytes()
            kept.append(x)
        return x

    modules = zip(PARTS, (model.vision_tower, model.resampler, model.language_model.base_model), strict=True)
    for name, module in modules:
        module.register_forward_pre_hook(lambda *_, name=name: part.__setitem__(0, name))
        module.register_forward_hook(lambda *_: part.__setitem__(0, "other"))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = model(**inputs).loss
    assert loss.requires_grad
    return sizes


@pytest.mark.parametrize(
    ("trainable", "fields", "size", "grid"),
    [
        *((trainable, *case) for trainable in (PARTS, ("projector",)) for case in CASES),
        (("vision_tower", "language_model"), *CASES[-1]),
    ],
)
def test_activations_are_what_autograd_keeps(trainable, fields, size, grid):
    config = small_config(**fields)
    work = work_of(config, size, 60)
    model = SicogForConditionalGeneration(config).to(torch.bfloat16)
    set_trainable(model, trainable)
    kept = kept_by_autograd(model, batch(config, work, grid, torch.bfloat16))
    ours = activations(config, work, trainable)
    assert ours["vision_tower"] == pytest.approx(kept.get("vision_tower", 0), rel=0.05)
    assert ours["projector"] == pytest.approx(kept["projector"], rel=0.02 if fields else 0.2)
    assert ours["language_model"] == pytest.approx(kept["language_model"], rel=0.05)
    checkpointed = (activations(config, work, trainable, checkpointing=level) for level in ("full", "selective"))
    full, selective = (sum(parts.values()) for parts in checkpointed)
    assert full < min(selective, sum(ours.values()))


def test_selective_checkpointing_keeps_half():
    """Measured on two CPU cores: 241 MiB after the forward pass where all of it was 463, and 29 with full."""
    text = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 4, "vocab_size": 12000}
    config = SicogConfig(
        text_config={"model_type": "qwen2", "num_attention_heads": 14, "num_key_value_heads": 2, **text}
    )
    levels = ("none", "selective", "full")
    work = work_of(config, None, 2048)
    mib = [activations(config, work, checkpointing=level)["language_model"] / 2**20 for level in levels]
    assert mib[0] == pytest.approx(463, rel=0.1) and mib[1] - mib[2] == pytest.approx(241 - 29, rel=0.1)


def test_states_by_zero_stage():
    config = full_size()
    whole = states(config, PARTS)
    assert whole.total == pytest.approx(16 * 7_975_489_024, rel=0.01)
    by_stage = [states(config, PARTS, zero_stage=z, devices=32) for z in range(4)]
    assert by_stage[1].optimizer == whole.optimizer / 32 and by_stage[1].gradients == whole.gradients
    assert by_stage[2].gradients == whole.gradients / 32 and by_stage[2].weights == whole.weights
    assert by_stage[3].total == pytest.approx(whole.total / 32)
    assert states(config, ("projector",)).optimizer == 12 * 68_963_328


def test_states_without_deepspeed():
    config = full_size()
    whole = states_without_deepspeed(config, PARTS)
    assert whole.total == pytest.approx(16 * 7_975_489_024, rel=0.01)
    aligning = states_without_deepspeed(config, ("projector",))
    assert (aligning.gradients, aligning.optimizer) == (4 * 68_963_328, 8 * 68_963_328)
    assert aligning.weights == whole.weights == 2 * states(config, PARTS).weights
    assert states_without_deepspeed(config, PARTS, shards=32).total == pytest.approx(whole.total / 32)


@pytest.mark.parametrize("trainable", [("projector",), PARTS])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_cost_of_a_row_is_what_training_on_it_counts(trainable, checkpointing):
    """Exact for text; within 3 % with the views of real image sizes."""
    config = full_size()
    cost = row_cost(config, trainable, checkpointing=checkpointing)

    def both(work):
        views = [h * w for h, w in work.views]
        sizes = (work.positions, work.supervised, len(views), sum(views))
        counted = sum(training_flops(config, work, trainable, checkpointing=checkpointing).values())
        return cost.of(RowLengths(*(np.array([n], dtype=np.int32) for n in sizes)))[0], counted

    for n, supervised in ((1, 0), (700, 650), (4000, 12)):
        ours, counted = both(Work((), 0, n, supervised))
        assert ours == pytest.approx(counted, rel=1e-9)
    for size in ((640, 480), (1024, 768), (300, 200), (1500, 400)):
        for slicing in (True, False):
            ours, counted = both(work_of(config, size, 300, slicing=slicing, supervised=200))
            assert ours == pytest.approx(counted, rel=0.03)
