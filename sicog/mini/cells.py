"""Which thing lies on which cell of a grid over a scene: what patches are labelled with, and what text grids say."""

from __future__ import annotations

import numpy as np

from sicog.mini.scene import Scene


def coverage(scene: Scene, columns: int, rows: int) -> np.ndarray:
    """float32 [rows, columns, things]: the share of each cell that lies in the box of each thing."""
    boxes = np.array([t.box for t in scene.things], dtype=np.float32).reshape(-1, 4)
    across = _overlap(boxes[:, 0] / scene.width, boxes[:, 2] / scene.width, columns)
    down = _overlap(boxes[:, 1] / scene.height, boxes[:, 3] / scene.height, rows)
    return down[:, None, :] * across[None, :, :]


def _overlap(low: np.ndarray, high: np.ndarray, n: int) -> np.ndarray:
    """[n, things]: the share of each of n equal parts of [0, 1] that lies between low and high."""
    edges = np.arange(n + 1, dtype=np.float32)[:, None] / n
    inside = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
    return np.maximum(inside, 0) * n
