"""The resampler, 7 views at the full width, forward and backward, against the plain formula one view at a time.

The plain way is the direct formula: pool keys and values of every region, project them, then multi-head attention with
a batch of queries. Outputs and gradients agree within 1e-4 of their size. Both ways share the pooling matrices, so
these are first compared with a sample-by-sample RoIAlign.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.plain_resampler import pooled_regions
from benchmarks.timing import arguments, compare, report
from sicog.model.regions import bins_of, pooling_map
from sicog.model.resampler import Resampler

# (rows, columns) in patches: an image of 4:3 in 3 x 2 slices with its thumbnail, and the native square.
CASES = {"3x2 slices of 4:3": [(25, 22)] * 6 + [(20, 27)]}


def plain(resampler: Resampler, features_PD: torch.Tensor, sizes: list[tuple[int, int]]) -> torch.Tensor:
    """[V, Q, E], one view after another."""
    parts = features_PD.split([h * w for h, w in sizes])
    return torch.stack([plain_view(resampler, part, *size) for part, size in zip(parts, sizes, strict=True)])


def plain_view(resampler: Resampler, features_PD: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """[P, D] of one view -> [Q, E]."""
    grid, width, attn = resampler.query_grid, resampler.query.shape[1], resampler.attn
    table = resampler.pos_embed.T.reshape(1, width, grid, grid)
    positions_EYX = nn.functional.interpolate(table, size=(rows, columns), mode="bicubic", align_corners=False)[0]
    values_PE = resampler.ln_kv(resampler.kv_proj(features_PD))
    keys_PE = values_PE + positions_EYX.flatten(1).T
    key_BQE, value_BQE = (pool(x.view(rows, columns, width), grid) for x in (keys_PE, values_PE))
    query_1QE = (resampler.ln_q(resampler.query) + resampler.pos_embed)[None]
    out_1QE, _ = nn.functional.multi_head_attention_forward(
        query_1QE, key_BQE, value_BQE, width, attn.n_heads, attn.in_proj_weight, attn.in_proj_bias, None, None, False,
        0.0, attn.out_proj.weight, attn.out_proj.bias, need_weights=False,
    )  # fmt: skip
    return resampler.ln_post(out_1QE[0]) @ resampler.proj


def pool(map_YXE: torch.Tensor, grid: int) -> torch.Tensor:
    """[Y, X, E] -> [B, Q, E]: the bins of every region."""
    rows, columns, width = map_YXE.shape
    down, across = bins_of(rows, columns)
    lines_RXE = torch.tensordot(pooling_map(rows, grid, down), map_YXE, 1)
    bins_SRE = torch.tensordot(pooling_map(columns, grid, across), lines_RXE, ([1], [1]))
    return bins_SRE.view(grid, across, grid, down, width).permute(3, 1, 2, 0, 4).reshape(-1, grid * grid, width)


def check_pooling(sizes: list[tuple[int, int]], grid: int) -> None:
    """Assert that `pool` gives what RoIAlign gives, sample by sample, for views of each of these sizes."""
    for size in set(sizes):
        map_EYX = torch.randn(4, *size)
        want_QBE = pooled_regions(map_EYX, grid, bins_of(*size))
        got_QBE = pool(map_EYX.permute(1, 2, 0).contiguous(), grid).transpose(0, 1)
        difference = _difference(want_QBE, got_QBE)
        assert difference <= 1e-5, f"pooling of {size} differs from RoIAlign by {difference}"


def check(resampler: Resampler, features_PD: torch.Tensor, sizes: list[tuple[int, int]]) -> tuple[float, float]:
    """Largest differences of outputs and of gradients, each relative to the largest value of its tensor."""
    results = []
    for run in (plain, lambda r, x, s: r(x, torch.tensor(s))):
        resampler.zero_grad()
        x_PD = features_PD.clone().requires_grad_()
        out_VQE = run(resampler, x_PD, sizes)
        out_VQE.square().sum().backward()
        gradients = {n: p.grad.clone() for n, p in resampler.named_parameters() if p.grad is not None}
        results.append((out_VQE.detach(), {**gradients, "features": x_PD.grad}))
    (out, gradients), (our_out, our_gradients) = results
    gradient = max(_difference(gradients[n], our_gradients[n]) for n in gradients)
    difference = _difference(out, our_out)
    assert difference <= 1e-4 and gradient <= 1e-4, f"outputs differ by {difference}, gradients by {gradient}"
    return difference, gradient


def _difference(want: Any, got: Any) -> float:
    return float((want - got).abs().max() / want.abs().max())


def with_backward(run: Callable[[], torch.Tensor]) -> Callable[[], None]:
    return lambda: run().square().sum().backward()


def main() -> None:
    options = arguments(__doc__ or "")
    torch.manual_seed(0)
    width, vision_width = (64, 32) if options.smoke else (3584, 1024)
    resampler = Resampler(query_grid=12, width=width, vision_width=vision_width, n_heads=max(width // 128, 2))
    resampler.init_weights()
    nn.init.normal_(resampler.attn.in_proj_bias, std=0.02)
    rows = []
    for name, sizes in (
        {**CASES, "squares": [(24, 24)] * 2, "small": [(5, 9)] * 2}.items() if options.smoke else CASES.items()
    ):
        check_pooling(sizes, resampler.query_grid)
        x_PD = torch.randn(sum(h * w for h, w in sizes), vision_width)
        difference, gradient = check(resampler, x_PD, sizes)
        view_sizes = torch.tensor(sizes)
        ways = (
            lambda x=x_PD, s=sizes: plain(resampler, x, s),
            lambda x=x_PD, s=view_sizes: resampler(x, s),
        )
        with torch.no_grad():
            forward = compare(*ways, repeats=options.repeats, warm_up=False)
        both = compare(*map(with_backward, ways), repeats=options.repeats, warm_up=False)
        for passes, timed in (("forward", forward), ("forward and backward", both)):
            rows.append(
                {
                    "figure": "P3",
                    "views": name,
                    "passes": passes,
                    "plain s": timed.plain_s,
                    "ours s": timed.ours_s,
                    "ratio": timed.ratio,
                    "output difference": difference,
                    "gradient difference": gradient,
                }
            )
    report(f"resampler, width {width}", rows, options.out)


if __name__ == "__main__":
    main()
