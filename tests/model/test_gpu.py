"""On a CUDA device: the vision tower's golden features, uint8 pixels, and the loss head against the plain one."""

import copy
import json

import pytest
import torch
from golden_recipe import GOLDEN, draw_image, golden_model
from safetensors import safe_open
from torch import nn

from sicog.model import SicogImageProcessor
from sicog.model.kernels import loss_head
from sicog.model.kernels.loss_head import causal_loss
from sicog.model.pixels import normalise_pixels

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"


@pytest.fixture(scope="module", autouse=True)
def no_tf32():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.fixture(scope="module")
def model():
    return copy.deepcopy(golden_model()).to(DEVICE)


def golden_views(tower, dtype):
    """(features, golden ones) of every view of every case."""
    processor = SicogImageProcessor()
    with safe_open(GOLDEN / "vision_tower.safetensors", "pt") as golden, torch.no_grad():
        for i, case in enumerate(json.loads(golden.metadata()["cases"])):
            image = processor.prepare(draw_image(case["width"], case["height"], case["image_seed"]))
            pixels = torch.from_numpy(image.pixels).to(DEVICE, dtype)
            features = tower(pixels, torch.tensor(image.view_sizes)).float().cpu()
            for view, part in enumerate(features.split([h * w for h, w in image.view_sizes])):
                yield part[:, ::8], golden.get_tensor(f"{i}.{view}")


def test_golden_features_in_float32(model):
    for found, wanted in golden_views(model.vision_tower, torch.float32):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("attention", ["sdpa", "flash_attention_2"])
def test_golden_features_in_bfloat16(model, attention):
    """Flash attention knows no float32. Two roundings are a few parts in a thousand; another view's features are 1."""
    if attention == "flash_attention_2":
        pytest.importorskip("flash_attn")
    tower = copy.deepcopy(model.vision_tower).bfloat16()
    tower.config._attn_implementation = attention
    for found, wanted in golden_views(tower, torch.bfloat16):
        assert (found - wanted).norm() < 0.02 * wanted.norm()


def test_uint8_pixels_on_the_device_equal_floats_from_the_host(model):
    image = draw_image(900, 500, 3)
    raw, floats = (SicogImageProcessor(normalize_on=where).prepare(image) for where in ("device", "host"))
    raw_PK, floats_PK = torch.from_numpy(raw.pixels).to(DEVICE), torch.from_numpy(floats.pixels).to(DEVICE)
    assert raw_PK.dtype == torch.uint8 and raw_PK.nbytes * 4 == floats_PK.nbytes
    # A fused multiply-add rounds once, so the last bit may differ.
    on_device_PK = normalise_pixels(raw_PK, model.config.image_mean, model.config.image_std)
    torch.testing.assert_close(on_device_PK, floats_PK, atol=1e-6, rtol=0)
    sizes, grids = torch.tensor(raw.view_sizes), torch.tensor([raw.grid])
    with torch.no_grad():
        ours, plain = (model.encode_images(x_PK, sizes, grids) for x_PK in (raw_PK, floats_PK))
    torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_the_chunked_loss_head_equals_the_plain_one(monkeypatch, dtype, limit):
    rows, positions, width, vocabulary = 2, 300, 64, 1000
    monkeypatch.setattr(loss_head, "_CHUNK_BYTES_GPU", 50 * 4 * vocabulary)  # a few chunks, the last one not full
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, positions, width, generator=generator).to(DEVICE, dtype)
    labels = torch.randint(vocabulary, (rows, positions), generator=generator)
    labels = labels.masked_fill(torch.rand(rows, positions, generator=generator) < 0.5, -100).to(DEVICE)
    head = nn.Linear(width, vocabulary, bias=False)
    head.weight.data = torch.randn(vocabulary, width, generator=generator) * 0.2
    head = head.to(DEVICE, dtype)
    found = []
    for kind in ("plain", "chunked"):
        leaf = hidden.clone().requires_grad_()
        loss = causal_loss(head, leaf, labels, None, kind)
        found.append((loss.detach(), *torch.autograd.grad(loss, (leaf, head.weight))))
    for plain, ours in zip(*found, strict=True):
        assert ours.dtype == plain.dtype
        assert (ours.float() - plain.float()).norm() <= limit * plain.float().norm()
