"""Coverage of grid cells by the things of a scene, for labels of patches and for text grids."""

from __future__ import annotations

import numpy as np

from sicog.mini.scene import Scene


def coverage(scene: Scene, columns: int, rows: int) -> np.ndarray:
    """Return float32 [rows, columns, things]: the share of each cell inside the box of each thing."""
    boxes = np.array([t.box for t in scene.things], dtype=np.float32).reshape(-1, 4)
    across = _overlap(boxes[:, 0] / scene.width, boxes[:, 2] / scene.width, columns)
    down = _overlap(boxes[:, 1] / scene.height, boxes[:, 3] / scene.height, rows)
    return down[:, None, :] * across[None, :, :]


def _overlap(low: np.ndarray, high: np.ndarray, n: int) -> np.ndarray:
    """Return [n, things]: the share of each of n equal parts of [0, 1] between low and high."""
    edges = np.arange(n + 1, dtype=np.float32)[:, None] / n
    inside = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
    return np.maximum(inside, 0) * n
