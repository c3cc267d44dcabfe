"""The vision tower at full width, views of several sizes, against padding with a dense mask and eager attention.

The original embeds views one by one, pads all to the longest of the batch and masks. Both ways run the same few layers
(of 24), so the figure shows only padding, mask and attention. The original also runs the unused last layer, which is
not counted here (4 %). Features and gradients agree within 1e-4 of their size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionConfig

from benchmarks.timing import arguments, compare, report
from sicog.model.views import ViewGroups
from sicog.model.vision_tower import VisionTower

# (rows, columns) in patches of a batch's views.
CASES = {
    "4:3, wide and small": [(25, 22)] * 6 + [(20, 27)] + [(12, 41)] * 3 + [(7, 71)] + [(15, 15)],
}


def plain(tower: VisionTower, pixels_PK: torch.Tensor, sizes: list[tuple[int, int]]) -> torch.Tensor:
    """[P, C]: embed one view at a time, pad, mask, run, cut."""
    parts = pixels_PK.split([h * w for h, w in sizes])
    views = [tower.pre_layrnorm(tower.embeddings(p, ViewGroups([s]))) for p, s in zip(parts, sizes, strict=True)]
    x_VLC = nn.utils.rnn.pad_sequence(views, batch_first=True)
    lengths = torch.tensor([len(v) for v in views])
    padded_VL = torch.arange(x_VLC.shape[1]) >= lengths[:, None]
    length = x_VLC.shape[1]
    mask_V1LL = torch.zeros(len(views), 1, length, length)
    mask_V1LL.masked_fill_(padded_VL[:, None, None], torch.finfo(torch.float32).min)
    for layer in tower.encoder.layers[: tower.n_run]:
        x_VLC = plain_layer(layer, x_VLC, mask_V1LL)
    return torch.cat([x_LC[1:n] for x_LC, n in zip(x_VLC, lengths.tolist(), strict=True)])


def plain_layer(layer: Any, x_VLC: torch.Tensor, mask_V1LL: torch.Tensor) -> torch.Tensor:
    """One layer with attention as it is written."""
    attn, views, length = layer.self_attn, len(x_VLC), x_VLC.shape[1]
    h_VLC = layer.layer_norm1(x_VLC)
    q, k, v = (
        p(h_VLC).view(views, length, attn.num_heads, -1).transpose(1, 2)
        for p in (attn.q_proj, attn.k_proj, attn.v_proj)
    )
    weights_VHLL = (q * attn.scale @ k.transpose(-1, -2) + mask_V1LL).softmax(-1)
    x_VLC = x_VLC + attn.out_proj((weights_VHLL @ v).transpose(1, 2).flatten(2))
    return x_VLC + layer.mlp(layer.layer_norm2(x_VLC))


def check(tower: VisionTower, pixels_PK: torch.Tensor, sizes: list[tuple[int, int]]) -> tuple[float, float]:
    """Largest differences of features and of gradients, each relative to the largest value of its tensor."""
    results = []
    for run in (plain, lambda t, x, s: t(x, torch.tensor(s))):
        tower.zero_grad()
        out_PC = run(tower, pixels_PK, sizes)
        out_PC.square().mean().backward()
        gradients = {n: p.grad.clone() for n, p in tower.named_parameters() if p.grad is not None}
        results.append((out_PC.detach(), gradients))
    (out, gradients), (our_out, our_gradients) = results
    # The key bias shifts all scores of a query equally, so its gradient is only rounding.
    names = [n for n in gradients if not n.endswith("k_proj.bias")]
    gradient = max(_difference(gradients[n], our_gradients[n]) for n in names)
    difference = _difference(out, our_out)
    assert difference <= 1e-4 and gradient <= 1e-4, f"features differ by {difference}, gradients by {gradient}"
    return difference, gradient


def _difference(want: torch.Tensor, got: torch.Tensor) -> float:
    return float((want - got).abs().max() / want.abs().max())


def with_backward(run: Callable[[], torch.Tensor]) -> Callable[[], None]:
    return lambda: run().square().mean().backward()


def main() -> None:
    options = arguments(__doc__ or "")
    torch.manual_seed(0)
    sizes = (64, 128, 2) if options.smoke else (1024, 4096, 16)
    fields = dict(zip(("hidden_size", "intermediate_size", "num_attention_heads"), sizes, strict=True))
    tower = VisionTower(CLIPVisionConfig(**fields, num_hidden_layers=3, image_size=336, patch_size=14))
    rows = []
    for name, views in CASES.items():
        views = [(h // 3, w // 3) for h, w in views] if options.smoke else views
        x_PK = torch.randn(sum(h * w for h, w in views), 588)
        difference, gradient = check(tower, x_PK, views)
        view_sizes = torch.tensor(views)
        ways = (lambda x=x_PK, v=views: plain(tower, x, v), lambda x=x_PK, v=view_sizes: tower(x, v))
        with torch.no_grad():
            forward = compare(*ways, repeats=options.repeats, warm_up=False)
        both = compare(*map(with_backward, ways), repeats=options.repeats, warm_up=False)
        for passes, timed in (("forward", forward), ("forward and backward", both)):
            rows.append(
                {
                    "views": f"{name} ({len(views)})",
                    "passes": passes,
                    "plain s": timed.plain_s,
                    "ours s": timed.ours_s,
                    "ratio": timed.ratio,
                    "feature difference": difference,
                    "gradient difference": gradient,
                }
            )
    report(f"vision tower, width {sizes[0]}, {tower.n_run} layers", rows, options.out)


if __name__ == "__main__":
    main()
