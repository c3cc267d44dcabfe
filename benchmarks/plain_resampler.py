"""The resampler's formula written directly, sample by sample; only the parameter names are ours.

It is slow on purpose. Ours and the benchmark's plain way are compared with it.
"""

from __future__ import annotations

import math
from itertools import product

import torch

Box = tuple[float, float, float, float]


def roi_align(map_EYX: torch.Tensor, box: Box, bins: tuple[int, int]) -> torch.Tensor:
    """torchvision's legacy RoIAlign of one box (x1, y1, x2, y2), sample by sample: [E, bins down, bins across]."""
    (x1, y1, x2, y2), (ph, pw) = box, bins
    height, width = map_EYX.shape[1:]
    bin_w, bin_h = max(x2 - x1, 1.0) / pw, max(y2 - y1, 1.0) / ph
    gx, gy = math.ceil(bin_w), math.ceil(bin_h)
    out = torch.zeros(map_EYX.shape[0], ph, pw)
    for i, j in product(range(ph), range(pw)):
        for a, b in product(range(gy), range(gx)):
            y, x = y1 + i * bin_h + (a + 0.5) * bin_h / gy, x1 + j * bin_w + (b + 0.5) * bin_w / gx
            if y < -1 or y > height or x < -1 or x > width:
                continue
            y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
            y0, x0 = int(y), int(x)
            yn, xn = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
            fy, fx = y - y0, x - x0
            top = map_EYX[:, y0, x0] * (1 - fx) + map_EYX[:, y0, xn] * fx
            bottom = map_EYX[:, yn, x0] * (1 - fx) + map_EYX[:, yn, xn] * fx
            out[:, i, j] += (top * (1 - fy) + bottom * fy) / (gx * gy)
    return out


def pooled_regions(
    map_EYX: torch.Tensor, grid: int, bins: tuple[int, int], dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """[Q, B, E]: the bins of every region, row by row. dtype: rounds the borders of the regions."""
    rows, columns = map_EYX.shape[1:]
    down, across = (torch.tensor([k * n / grid for k in range(grid + 1)]).to(dtype).tolist() for n in (rows, columns))
    boxes = [(across[j], down[i], across[j + 1], down[i + 1]) for i, j in product(range(grid), range(grid))]
    return torch.stack([roi_align(map_EYX, box, bins).flatten(1).T for box in boxes])
