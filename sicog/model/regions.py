"""The resampler's region pooling as two fixed linear maps per view shape (RoIAlign on a uniform grid is separable).

A view of h x w patches is divided into G x G equal boxes, each pooled to ph x pw bins by torchvision's legacy RoIAlign
(aligned=False, sampling_ratio=-1, spatial_scale 1). Bilinear interpolation, the mean over samples and the rule for
samples outside the map are products of a vertical and a horizontal part, so pooling is `rows_RY @ map @ columns_SX^T`.

Shapes: Y x X patches of a view, G x G regions (Q of them), B = ph * pw bins of a region, R = G * ph, S = G * pw.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import nn

# (bins down, bins across) in the original's order. The first wins ties.
_BIN_SHAPES = ((2, 4), (2, 3), (3, 4), (3, 3), (4, 2), (3, 2), (4, 3))


def bins_of(rows: int, columns: int) -> tuple[int, int]:
    """(bins down, bins across) of a region: the shape nearest in log aspect to the view's."""
    aspect = math.log(columns / rows)
    return min(_BIN_SHAPES, key=lambda s: abs(aspect - math.log(s[1] / s[0])))


@lru_cache(maxsize=512)
@torch.inference_mode(False)  # cached for later calls, and autograd refuses to save tensors of inference mode
def pooling_map(length: int, n_regions: int, n_bins: int, coordinates: str = "float32") -> torch.Tensor:
    """float32 [n_regions * n_bins, length]: pooling along one side of a map of `length` patches.

    coordinates: "bfloat16" rounds the borders of the regions as the original did.
    A region is at least 1 wide. So with fewer than `n_regions` patches, neighbouring regions overlap. At the far end,
    samples outside the map count as zero, and the weights of a bin sum to less than 1.
    """
    borders = torch.arange(n_regions + 1, dtype=torch.float32, device="cpu") * length / n_regions
    borders = borders.to(getattr(torch, coordinates)).float()
    result = torch.zeros(n_regions * n_bins, length, device="cpu")
    for region in range(n_regions):
        start = float(borders[region])
        bin_size = max(float(borders[region + 1]) - start, 1.0) / n_bins
        n_samples = math.ceil(bin_size)
        for b in range(n_bins):
            for k in range(n_samples):
                at = start + (b + (k + 0.5) / n_samples) * bin_size
                for index, weight in _bilinear(at, length):
                    result[region * n_bins + b, index] += weight / n_samples
    return result


@lru_cache(maxsize=512)
@torch.inference_mode(False)
def region_maps(
    rows: int, columns: int, grid: int, coordinates: str, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pooling of a view as two products, with results ordered by region: ([R, Y], [G * B, ph * X]).

    The second product takes the ph pooled lines of a row of regions at once. So the bins of a region come out together,
    and no copy is needed.
    """
    down, across = bins_of(rows, columns)
    columns_GSX = pooling_map(columns, grid, across, coordinates).view(grid, 1, across, 1, columns)
    lines = torch.eye(down, device="cpu").view(1, down, 1, down, 1)
    blocks_MK = (columns_GSX * lines).view(grid * down * across, down * columns)
    return pooling_map(rows, grid, down, coordinates).to(device, dtype), blocks_MK.to(device, dtype)


def pool_regions(map_YXF: torch.Tensor, grid: int, coordinates: str = "float32") -> torch.Tensor:
    """[Y, X, F] -> [Q, B, F]: the bins of each region, F channels each."""
    rows, columns, width = map_YXF.shape
    rows_RY, blocks_MK = region_maps(rows, columns, grid, coordinates, map_YXF.dtype, map_YXF.device)
    lines_GKF = (rows_RY @ map_YXF.flatten(1)).view(grid, -1, width)
    return torch.bmm(blocks_MK.expand(grid, -1, -1), lines_GKF).view(grid * grid, -1, width)


@lru_cache(maxsize=512)
@torch.inference_mode(False)
@torch.autocast("cpu", enabled=False)  # cached for later calls, which may use another precision
def position_map(rows: int, columns: int, grid: int, coordinates: str, device: torch.device) -> torch.Tensor:
    """float32 [Q * B, G * G]: a position table of G x G, resized to a view's shape (bicubic) and pooled to its bins."""
    table = torch.eye(grid**2, device="cpu").view(1, grid**2, grid, grid)
    map_NYX = nn.functional.interpolate(table, size=(rows, columns), mode="bicubic", align_corners=False)[0]
    return pool_regions(map_NYX.permute(1, 2, 0).contiguous(), grid, coordinates).flatten(0, 1).to(device)


def _bilinear(at: float, length: int) -> tuple[tuple[int, float], ...]:
    """The patches a sample at coordinate `at` reads, with weights; patch centres lie on the integers."""
    if at < -1 or at > length:
        return ()
    at = max(at, 0.0)
    low = int(at)
    if low >= length - 1:
        return ((length - 1, 1.0),)
    return (low, 1 - (at - low)), (low + 1, at - low)
