"""The vision tower: golden features, batching, freezing, import of ordinary CLIP weights."""

import json

import pytest
import torch
from golden_recipe import GOLDEN, draw_image, golden_model
from safetensors import safe_open
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sicog.model import SicogImageProcessor, vision_tower
from sicog.model.kernels import document_attention
from sicog.model.vision_tower import VisionTower


def tiny_config(**overrides):
    fields = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    return CLIPVisionConfig(**{**fields, "image_size": 56, "patch_size": 14, **overrides})


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(0)
    return VisionTower(tiny_config()).eval()


def patches(*sizes):
    torch.manual_seed(1)
    return torch.randn(sum(h * w for h, w in sizes), 588), torch.tensor(sizes)


def test_agrees_with_the_golden_features():
    processor, tower = SicogImageProcessor(), golden_model().vision_tower
    with safe_open(GOLDEN / "vision_tower.safetensors", "pt") as golden:
        for i, case in enumerate(json.loads(golden.metadata()["cases"])):
            image = processor.prepare(draw_image(case["width"], case["height"], case["image_seed"]))
            assert [list(s) for s in image.view_sizes] == case["patch_sizes"]
            with torch.no_grad():
                features = tower(torch.from_numpy(image.pixels), torch.tensor(image.view_sizes))
            for view, part in enumerate(features.split([h * w for h, w in image.view_sizes])):
                torch.testing.assert_close(part[:, ::8], golden.get_tensor(f"{i}.{view}"), atol=1e-4, rtol=0)


def test_a_native_view_is_what_clip_computes(tower):
    clip = CLIPVisionModel(tiny_config()).eval()
    clip.load_state_dict(tower.state_dict())
    pixels_13YX = torch.randn(1, 3, 56, 56)
    flat_PK = pixels_13YX.reshape(3, 4, 14, 4, 14).permute(1, 3, 0, 2, 4).reshape(16, 588)
    with torch.no_grad():
        expected = clip(pixels_13YX, output_hidden_states=True).hidden_states[-2][0, 1:]
        torch.testing.assert_close(tower(flat_PK, torch.tensor([[4, 4]])), expected, atol=1e-5, rtol=1e-5)


def test_views_do_not_see_each_other(tower):
    sizes = [(3, 5), (2, 2), (5, 3), (3, 5), (1, 1)]
    x_PK, view_sizes = patches(*sizes)
    with torch.no_grad():
        together = tower(x_PK, view_sizes)
        alone = [
            tower(part, size[None])
            for part, size in zip(x_PK.split([h * w for h, w in sizes]), view_sizes, strict=True)
        ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_one_view_at_a_time():
    tower, sizes = VisionTower(tiny_config()), [(3, 5), (2, 2), (5, 3), (3, 5)]
    x_PK, view_sizes = patches(*sizes)
    weight_PC = torch.randn(len(x_PK), 32)
    parts = zip(x_PK.split([h * w for h, w in sizes]), view_sizes, strict=True)
    grads = []
    for features in (tower(x_PK, view_sizes), torch.cat([tower(part, size[None]) for part, size in parts])):
        tower.zero_grad()
        (features * weight_PC).sum().backward()
        grads.append({n: p.grad.clone() for n, p in tower.named_parameters() if p.grad is not None})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], atol=1e-5, rtol=1e-4, msg=name)


def test_flash_attention_gets_all_views_as_one_row_with_their_borders(monkeypatch):
    """The kernel itself needs CUDA; a stand-in attends within the borders it is handed."""
    calls = []

    def flash(module, query, key, value, mask, *, cu_seq_lens_q, max_length_q, scaling, is_causal, **_):
        assert mask is None and not is_causal and cu_seq_lens_q.dtype == torch.int32 and len(query) == 1
        calls.append((cu_seq_lens_q.tolist(), max_length_q))
        lengths = cu_seq_lens_q.diff().tolist()
        parts = zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True)
        attend = torch.nn.functional.scaled_dot_product_attention
        return torch.cat([attend(q, k, v, scale=scaling) for q, k, v in parts], dim=2).transpose(1, 2), None

    torch.manual_seed(0)
    tower, batch = VisionTower(tiny_config()).eval(), patches((3, 5), (2, 2), (5, 3), (1, 1))
    with torch.no_grad():
        expected = tower(*batch)
        monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "flash_attention_2", flash)
        monkeypatch.setattr(tower.config, "_attn_implementation_internal", "flash_attention_2")
        torch.testing.assert_close(tower(*batch), expected, atol=1e-6, rtol=1e-5)
    assert calls == [([0, 2, 7, 23, 39], 16)] * tower.n_run


def test_torchs_kernel_gets_all_views_at_once_where_there_is_no_flash_attention(monkeypatch):
    calls = []

    def kernel(query, key, value, borders, borders_k, longest, longest_k, *, scale):
        assert borders is borders_k and borders.dtype == torch.int32 and longest == longest_k
        calls.append((borders.tolist(), longest))
        parts = zip(
            *(x.transpose(0, 1).split(borders.diff().tolist(), dim=1) for x in (query, key, value)), strict=True
        )
        attend = torch.nn.functional.scaled_dot_product_attention
        return torch.cat([attend(q, k, v, scale=scale) for q, k, v in parts], dim=1).transpose(0, 1)

    torch.manual_seed(0)
    tower, batch = VisionTower(tiny_config()), patches((3, 5), (2, 2), (5, 3), (1, 1))
    with torch.no_grad():
        expected = tower(*batch)
        monkeypatch.setattr(vision_tower, "has_varlen", lambda x: True)
        monkeypatch.setattr(document_attention, "varlen_attn", kernel)
        torch.testing.assert_close(tower(*batch), expected, atol=1e-6, rtol=1e-5)
        assert calls == [([0, 2, 7, 23, 39], 16)] * tower.n_run
        monkeypatch.setattr(tower.config, "attention_dropout", 0.1)  # which this kernel does not have
        tower(*batch)
        assert len(calls) == tower.n_run
        tower.eval()(*batch)
        assert len(calls) == 2 * tower.n_run


def test_bfloat16_stays_near_float32(tower):
    x_PK, view_sizes = patches((3, 5), (2, 2))
    half = VisionTower(tiny_config()).bfloat16().eval()
    half.load_state_dict(tower.state_dict())
    with torch.no_grad():
        expected, features = tower(x_PK, view_sizes), half(x_PK, view_sizes)
    assert features.dtype == torch.bfloat16
    torch.testing.assert_close(features.float(), expected, atol=0.1, rtol=0.05)


def test_training_after_inference_mode(tower):
    """What is kept from one batch to the next must serve both."""
    batch = patches((2, 7), (7, 2))
    with torch.inference_mode():
        expected = tower(*batch)
    features = tower(*batch)
    features.sum().backward()
    torch.testing.assert_close(features.detach(), expected)


def test_every_parameter_is_used_once_whatever_the_shapes(tower):
    """ZeRO-3 needs the same module calls on every rank."""
    calls = []
    hooks = [m.register_forward_hook(lambda *_, n=n: calls.append(n)) for n, m in tower.named_modules() if n]
    with torch.no_grad():
        tower(*patches((1, 1)))
        few = list(calls)
        calls.clear()
        tower(*patches((3, 5), (2, 2), (5, 3), (4, 4)))
    for hook in hooks:
        hook.remove()
    assert few == calls


def test_the_unused_top_is_frozen_and_not_run():
    tower = VisionTower(tiny_config())
    for parameter in (*tower.encoder.layers[-1].parameters(), *tower.post_layernorm.parameters()):
        assert not parameter.requires_grad
        torch.nn.init.constant_(parameter, torch.nan)
    tower(*patches((2, 3))).sum().backward()
    missing = [n for n, p in tower.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


def test_gradient_checkpointing_gives_the_same_gradients():
    tower = VisionTower(tiny_config()).train()
    grads = []
    for _ in range(2):
        tower.zero_grad()
        tower(*patches((2, 3), (3, 2))).square().sum().backward()
        grads.append(tower.encoder.layers[0].self_attn.q_proj.weight.grad.clone())
        tower.gradient_checkpointing_enable({"use_reentrant": False})
    torch.testing.assert_close(*grads)


def test_wrong_sizes_are_refused(tower):
    x_PK, _ = patches((2, 3))
    with pytest.raises(ValueError, match="describe 4 patches but there are 6"):
        tower(x_PK, torch.tensor([[2, 2]]))
    with pytest.raises(ValueError, match="at least one patch"):
        tower(x_PK, torch.tensor([[0, 6]]))
    with pytest.raises(ValueError, match="normalised patches, got torch.uint8"):
        tower(x_PK.to(torch.uint8), torch.tensor([[2, 3]]))
    with pytest.raises(ValueError, match="needs more layers"):
        VisionTower(tiny_config(), select_layer=-4)


@pytest.mark.parametrize("n_layers", [2, 4])
def test_select_layer_counts_from_the_end(n_layers):
    assert VisionTower(tiny_config(num_hidden_layers=n_layers)).n_run == n_layers - 1
