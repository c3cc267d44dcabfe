"""Train the mini vision tower: linear heads predict the content of each patch from the projector's input layer.

The heads are discarded, like CLIP's text side. Scenes have no held-out pairs.
Shapes: P patches of all views of a batch, K values of a patch, C tower width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import CLIPVisionConfig, CLIPVisionModel

from sicog.mini.cells import coverage
from sicog.mini.parts_training.fit import device, fit, optimizers
from sicog.mini.parts_training.parts_config import VisionPartConfig
from sicog.mini.render import render_scene
from sicog.mini.scene import BACKGROUNDS, COLOURS, LABELLED, REGIONS, SHAPES, SIZES, Scene, draw_scene
from sicog.model.image_processing import SicogImageProcessor
from sicog.model.vision_tower import VisionTower

SPLIT = "parts-vision"
PATCH = 14
SELECT_LAYER = -2
IGNORED = -100
# A patch belongs to a thing if at least the first share is inside its box, and to none below the second share. Patches
# between them have no label, because a star or a cross fills little of its box.
COVERED, BARE = 0.4, 0.05
SEEN_ENOUGH = 0.5  # minimum share of a thing in the view for a shape label
# Labels of every patch, with their number of values. The value after the last name means: nothing here.
HEADS = {
    "colour": len(COLOURS) + 1,
    "shape": len(SHAPES) + 1,
    "size": len(SIZES) + 1,
    "region": len(REGIONS) + 1,
    "background": len(BACKGROUNDS),
}


@dataclass(frozen=True)
class PatchBatch:
    """pixels [P, K], view sizes int [V, 2] (rows, columns), labels int [P] by head."""

    pixels: torch.Tensor
    view_sizes: torch.Tensor
    labels: dict[str, torch.Tensor]

    def to(self, device: torch.device) -> PatchBatch:
        """Return the batch on a device. View sizes stay on the CPU, where the tower uses them."""
        labels = {name: values.to(device) for name, values in self.labels.items()}
        return PatchBatch(self.pixels.to(device), self.view_sizes, labels)


def train_vision(config: VisionPartConfig, seed: int, state: Path, workers: int = 0) -> CLIPVisionModel:
    """Train the tower; returns it as an ordinary CLIP vision model on the CPU."""
    torch.manual_seed(seed)
    tower = VisionTower(vision_config(config), SELECT_LAYER).train()
    heads = nn.ModuleDict({name: nn.Linear(config.width, n) for name, n in HEADS.items()})
    on = device()  # initialise on the CPU, so that weights are equal on every device
    tower, heads = tower.to(on), heads.to(on)
    parts = nn.ModuleDict({"tower": tower, "heads": heads})

    def loss_of(batch: PatchBatch) -> torch.Tensor:
        batch = batch.to(on)
        with torch.autocast(on.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            features_PC = tower(batch.pixels, batch.view_sizes)
            losses = (
                nn.functional.cross_entropy(head(features_PC), batch.labels[name], ignore_index=IGNORED)
                for name, head in heads.items()
            )
            return torch.stack(list(losses)).sum()

    loader = DataLoader(SceneBatches(config, seed), batch_size=None, num_workers=workers)
    fit(
        parts,
        optimizers(parts.named_parameters(), config.learning_rate, config.matrix_learning_rate),
        loader,
        loss_of,
        steps=config.steps,
        name="vision tower",
        state=state,
    )
    clip = CLIPVisionModel(vision_config(config))
    clip.load_state_dict(tower.state_dict())  # a copy on the CPU
    return clip.eval()


def vision_config(config: VisionPartConfig) -> CLIPVisionConfig:
    """Return a small CLIP vision config: heads of 32, positions for a square view of the slicing scale."""
    return CLIPVisionConfig(
        hidden_size=config.width,
        intermediate_size=config.mlp_width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.width // 32,
        image_size=config.scale,
        patch_size=PATCH,
        projection_dim=config.width,
    )


class SceneBatches(IterableDataset):
    """`steps` batches of fresh scenes, the same with any number of workers."""

    def __init__(self, config: VisionPartConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.processor = SicogImageProcessor(scale=config.scale, patch_size=PATCH)

    def __iter__(self) -> Iterator[PatchBatch]:
        worker = torch.utils.data.get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in range(first, self.config.steps, stride):
            yield self.batch(step)

    def scenes(self, step: int) -> list[Scene]:
        """Return the scenes of a step, without held-out pairs."""
        n = self.config.images_per_step
        return [draw_scene(self.seed, SPLIT, step * n + i, LABELLED) for i in range(n)]

    def batch(self, step: int) -> PatchBatch:
        """Return all views of a step's scenes: slices and thumbnail, as the model sees them."""
        pixels, labels = [], []
        sizes: list[tuple[int, int]] = []
        for scene in self.scenes(step):
            prepared = self.processor.prepare(render_scene(scene))
            pixels.append(prepared.pixels)
            sizes += prepared.view_sizes
            labels += view_labels(scene, prepared.view_sizes, prepared.grid)
        return PatchBatch(
            torch.from_numpy(np.concatenate(pixels)),
            torch.tensor(sizes),
            {name: torch.from_numpy(np.concatenate([view[name] for view in labels])) for name in HEADS},
        )


def view_labels(
    scene: Scene, view_sizes: tuple[tuple[int, int], ...], grid: tuple[int, int]
) -> list[dict[str, np.ndarray]]:
    """Return the labels of each view's patches by head, in view order: slices row-major, then the thumbnail."""
    found = []
    (columns, rows), (height, width) = grid, view_sizes[0]
    if columns * rows:
        whole = coverage(scene, columns * width, rows * height)
        for r in range(rows):
            for c in range(columns):
                part = whole[r * height : (r + 1) * height, c * width : (c + 1) * width]
                seen = part.sum((0, 1)) / whole.sum((0, 1))
                # A slice does not show the image's size or its own position, so only thumbnails get these labels.
                found.append(_labels(scene, part, seen, sized=False))
    height, width = view_sizes[-1]
    found.append(_labels(scene, coverage(scene, width, height), np.ones(len(scene.things)), sized=True))
    return found


def _labels(scene: Scene, share: np.ndarray, seen: np.ndarray, *, sized: bool) -> dict[str, np.ndarray]:
    share = share.reshape(-1, share.shape[-1])
    most, n = share.max(1), len(scene.things)
    owner = np.where(most >= COVERED, share.argmax(1), np.where(most < BARE, n, n + 1))

    def labels(values: list[int], nothing: int) -> np.ndarray:
        return np.array([*values, nothing, IGNORED], dtype=np.int64)[owner]

    shapes = [SHAPES.index(t.shape) if s >= SEEN_ENOUGH else IGNORED for t, s in zip(scene.things, seen, strict=True)]
    sizes = [SIZES.index(t.size) if sized else IGNORED for t in scene.things]
    regions = [REGIONS.index(scene.region(t)) if sized else IGNORED for t in scene.things]
    return {
        "colour": labels([COLOURS.index(t.colour) for t in scene.things], len(COLOURS)),
        "shape": labels(shapes, len(SHAPES)),
        "size": labels(sizes, len(SIZES)),
        "region": labels(regions, len(REGIONS)),
        "background": np.full(len(owner), BACKGROUNDS.index(scene.background), dtype=np.int64),
    }
