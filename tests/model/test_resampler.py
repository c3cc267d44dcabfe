"""The resampler: golden outputs, the plain formula, small views, parameter names."""

import json

import numpy as np
import pytest
import torch
from golden_recipe import GOLDEN, fill_
from safetensors import safe_open
from torch import nn

from benchmarks import resampler as benchmark
from benchmarks.plain_resampler import pooled_regions
from sicog.model.regions import bins_of, pool_regions, pooling_map
from sicog.model.resampler import Resampler, sine_cosine_table


def fresh(grid=4, width=32, vision_width=16, heads=2, **kwargs):
    torch.manual_seed(0)
    resampler = Resampler(query_grid=grid, width=width, vision_width=vision_width, n_heads=heads, **kwargs)
    resampler.init_weights()
    nn.init.normal_(resampler.attn.in_proj_bias)  # zero at the start: it would not show here
    return resampler


def plain(resampler, features_PD, rows, columns):
    """The formula as it is written: pool key and value of every region, then ordinary multi-head attention."""
    grid, width = resampler.query_grid, resampler.query.shape[1]
    table = resampler.pos_embed.T.reshape(1, width, grid, grid)
    p = nn.functional.interpolate(table, size=(rows, columns), mode="bicubic", align_corners=False)[0]
    v = resampler.ln_kv(resampler.kv_proj(features_PD)).T.reshape(width, rows, columns)
    q = resampler.ln_q(resampler.query) + resampler.pos_embed
    attention = nn.MultiheadAttention(width, resampler.attn.n_heads)
    attention.load_state_dict(resampler.attn.state_dict())
    pooled = [pooled_regions(x, grid, bins_of(rows, columns)) for x in (v + p, v)]
    triples = zip(q[:, None], *pooled, strict=True)
    out = [attention(query, key, value, need_weights=False)[0] for query, key, value in triples]
    return resampler.ln_post(torch.cat(out)) @ resampler.proj


def test_agrees_with_the_golden_outputs():
    resampler = Resampler(query_grid=12, width=256, vision_width=64, n_heads=2)
    resampler.init_weights()
    fill_(resampler.state_dict(), "resampler_standalone", {})
    with safe_open(GOLDEN / "resampler.safetensors", "pt") as golden:
        cases = json.loads(golden.metadata()["cases"])
        maps = [np.random.RandomState(c["seed"]).standard_normal((1, c["h"] * c["w"], 64)) for c in cases]
        x_PD = torch.from_numpy(np.concatenate([m[0] for m in maps]).astype("float32"))
        with torch.no_grad():
            out_VQE = resampler(x_PD, torch.tensor([(c["h"], c["w"]) for c in cases]))
        for i in range(len(cases)):
            torch.testing.assert_close(out_VQE[i, :, ::8], golden.get_tensor(f"output.{i}"), atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [(4, 4), (9, 5), (2, 3), (1, 1), (1, 13), (3, 11)])
def test_equals_the_plain_formula(size):
    resampler = fresh()
    x_PD = torch.randn(size[0] * size[1], 16)
    with torch.no_grad():
        out = resampler(x_PD, torch.tensor([size]))[0]
        torch.testing.assert_close(out, plain(resampler, x_PD, *size), atol=2e-5, rtol=1e-4)


def test_gradients_equal_the_plain_formula():
    resampler, grads = fresh(), []
    x_PD = torch.randn(15, 16)
    weight_QE = torch.randn(16, 32)
    for compute in (lambda: resampler(x_PD, torch.tensor([[3, 5]]))[0], lambda: plain_differentiable(resampler, x_PD)):
        resampler.zero_grad()
        (compute() * weight_QE).sum().backward()
        grads.append({n: p.grad.clone() for n, p in resampler.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], atol=1e-4, rtol=1e-3, msg=name)


def plain_differentiable(resampler, x_PD):
    """`plain` with the resampler's own attention parameters in the graph."""
    attn = resampler.attn

    class Functional(nn.Module):
        def forward(self, query, key, value, **_):
            q, k, v = query[:, None], key[:, None], value[:, None]
            return nn.functional.multi_head_attention_forward(
                q, k, v, q.shape[-1], attn.n_heads, attn.in_proj_weight, attn.in_proj_bias, None, None, False, 0.0,
                attn.out_proj.weight, attn.out_proj.bias,
            )[0].flatten(1), None  # fmt: skip

        def load_state_dict(self, *_):
            return None

    original = nn.MultiheadAttention
    nn.MultiheadAttention = lambda *_: Functional()
    try:
        return plain(resampler, x_PD, 3, 5)
    finally:
        nn.MultiheadAttention = original


def test_views_are_independent_and_keep_their_order():
    resampler, sizes = fresh(), [(3, 5), (2, 2), (5, 3), (3, 5)]
    x_PD = torch.randn(sum(h * w for h, w in sizes), 16)
    with torch.no_grad():
        together = resampler(x_PD, torch.tensor(sizes))
        parts = x_PD.split([h * w for h, w in sizes])
        alone = [resampler(part, torch.tensor([size])) for part, size in zip(parts, sizes, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=1e-5)


def test_training_after_inference_mode():
    resampler, x_PD, size = fresh(), torch.randn(77, 16), torch.tensor([[7, 11]])
    with torch.inference_mode():
        expected = resampler(x_PD, size)
    out = resampler(x_PD, size)
    out.sum().backward()
    torch.testing.assert_close(out.detach(), expected)


def test_bfloat16_stays_near_float32():
    x_PD, size = torch.randn(30, 16), torch.tensor([[5, 3], [5, 3]])
    with torch.no_grad():
        expected, out = fresh()(x_PD, size), fresh().bfloat16()(x_PD.bfloat16(), size)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, atol=0.15, rtol=0.05)


def test_pool_shape_follows_the_aspect():
    ratios = [(100, 57), (100, 70), (100, 86), (100, 115), (100, 141), (100, 173), (100, 174)]
    assert [bins_of(rows, columns) for rows, columns in ratios] == [
        (4, 2), (3, 2), (4, 3), (3, 3), (3, 4), (2, 3), (2, 4),
    ]  # fmt: skip


def test_region_weights_sum_to_one_only_from_twelve_patches_up():
    torch.testing.assert_close(pooling_map(24, 12, 3).sum(1), torch.ones(36))
    assert pooling_map(5, 12, 3).sum(1).min() < 1


def test_bfloat16_borders_differ_only_for_unfriendly_sizes():
    assert torch.equal(pooling_map(24, 12, 3), pooling_map(24, 12, 3, "bfloat16"))
    assert not torch.equal(pooling_map(53, 12, 3), pooling_map(53, 12, 3, "bfloat16"))
    x_PD = torch.randn(53 * 7, 16)
    out = [fresh(12, regions_dtype=d)(x_PD, torch.tensor([[53, 7]])) for d in ("float32", "bfloat16")]
    assert not torch.equal(*out)


@pytest.mark.parametrize("columns", range(41, 72, 5))
def test_bfloat16_borders_give_the_plain_pooling_of_rounded_boxes(columns):
    map_EYX = torch.randn(3, 14, columns)
    want_QBE = pooled_regions(map_EYX, 12, bins_of(14, columns), torch.bfloat16)
    map_YXE = map_EYX.permute(1, 2, 0).contiguous()
    torch.testing.assert_close(pool_regions(map_YXE, 12, "bfloat16"), want_QBE, atol=1e-5, rtol=1e-5)
    assert (pool_regions(map_YXE, 12) - want_QBE).abs().max() > 1e-3


def test_the_benchmark_s_plain_way_is_held_to_roi_align(monkeypatch):
    benchmark.check_pooling([(9, 14), (4, 4)], 4)
    wrong = lambda *arguments: pooling_map(*arguments, "bfloat16").roll(1, 0)  # noqa: E731
    monkeypatch.setattr(benchmark, "pooling_map", wrong)
    with pytest.raises(AssertionError, match=r"pooling of \(9, 14\) differs from RoIAlign"):
        benchmark.check_pooling([(9, 14)], 4)


def test_no_projection_between_equal_widths():
    resampler = fresh(width=32, vision_width=32)
    assert "kv_proj.weight" not in resampler.state_dict()
    assert resampler(torch.randn(6, 32), torch.tensor([[2, 3]])).shape == (1, 16, 32)


def test_fresh_weights():
    resampler = Resampler(query_grid=4, width=32, vision_width=16, n_heads=2)
    resampler.init_weights()
    assert torch.equal(resampler.pos_embed, sine_cosine_table(4, 32))
    assert resampler.attn.in_proj_bias.abs().max() == 0
    assert resampler.pos_embed.requires_grad
    assert resampler.ln_post.eps == 1e-6


def test_autocast_leaves_nothing_behind_for_later_calls():
    """What is cached by shape is float32, in whatever precision a shape was first seen."""
    features, sizes = torch.randn(9 * 13, 16), torch.tensor([[9, 13]])
    with torch.autocast("cpu", torch.bfloat16):
        fresh()(features, sizes)
    assert fresh()(features, sizes).dtype == torch.float32
