"""Linear probe of the mini vision tower, on the pooled features of things.

Shapes: N things, C tower width, P patches of a view.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from sicog.mini.cells import coverage
from sicog.mini.render import render_scene
from sicog.mini.scene import COLOURS, REGIONS, SHAPES, SIZES, Scene, SceneRules, draw_scene
from sicog.model.image_processing import SicogImageProcessor
from sicog.model.vision_tower import VisionTower

PROBED = {"colour": COLOURS, "shape": SHAPES, "size": SIZES, "region": REGIONS}
SCENES = SceneRules(held_out_share=0.25)
_AT_A_TIME = 32  # scenes
_UPDATES = 60  # steps of L-BFGS; more steps do not change the third decimal
_PENALTY = 1e-3


def probe_tower(
    tower: VisionTower, scale: int, seed: int, *, fitted: int = 3000, tested: int = 1000
) -> dict[str, float]:
    """Return the accuracy of a softmax regression on things of `tested` scenes, fitted on `fitted` other scenes.

    The features of a thing are the mean over the patches of the whole image, weighted by each patch's share inside the
    thing's box. `all`: colour, shape and size together; `held_out`: the same for held-out pairs, which appear neither
    in the tower's training nor in the labels of any split.
    """
    x_NC, labels_N = thing_features(tower, scale, [draw_scene(seed, "probe-fitted", i, SCENES) for i in range(fitted)])
    xs_NC, truths_N = thing_features(tower, scale, [draw_scene(seed, "probe-tested", i, SCENES) for i in range(tested)])
    mean, spread = x_NC.mean(0), x_NC.std(0) + 1e-6
    x_NC, xs_NC = (x_NC - mean) / spread, (xs_NC - mean) / spread
    right = {k: _predict(x_NC, labels_N[k], len(v), xs_NC) == truths_N[k] for k, v in PROBED.items()}
    together = right["colour"] & right["shape"] & right["size"]
    held_out = together[truths_N["held_out"]]
    return {
        **{name: float(r.float().mean()) for name, r in right.items()},
        "all": float(together.float().mean()),
        "held_out": float(held_out.float().mean()),
        "things": len(xs_NC),
    }


@torch.no_grad()
def thing_features(
    tower: VisionTower, scale: int, scenes: Sequence[Scene]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return pooled features float32 [N, C] of the scenes' things; labels int64 [N] by name; `held_out` bool [N]."""
    processor = SicogImageProcessor(scale=scale, patch_size=14)
    pooled, found = [], []
    for start in range(0, len(scenes), _AT_A_TIME):
        part = scenes[start : start + _AT_A_TIME]
        views = [_whole_view(processor, scene) for scene in part]
        sizes = torch.tensor([size for _, size in views])
        pixels = torch.from_numpy(np.concatenate([pixels for pixels, _ in views]))
        features_PC = tower(pixels.to(tower.device), sizes).cpu()
        of_scene = features_PC.split([h * w for h, w in sizes.tolist()])
        for scene, x_PC, (h, w) in zip(part, of_scene, sizes.tolist(), strict=True):
            share = torch.from_numpy(coverage(scene, w, h)).reshape(h * w, -1)
            pooled.append((share / share.sum(0)).T @ x_PC)
            found += [(scene, thing) for thing in scene.things]
    labels = {
        "colour": [COLOURS.index(t.colour) for _, t in found],
        "shape": [SHAPES.index(t.shape) for _, t in found],
        "size": [SIZES.index(t.size) for _, t in found],
        "region": [REGIONS.index(s.region(t)) for s, t in found],
    }
    flags = torch.tensor([t.held_out for _, t in found])
    return torch.cat(pooled), {**{k: torch.tensor(v) for k, v in labels.items()}, "held_out": flags}


def _whole_view(processor: SicogImageProcessor, scene: Scene) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the pixels of the view with the whole image, and its size (rows, columns) in patches."""
    prepared = processor.prepare(render_scene(scene))
    rows, columns = prepared.view_sizes[-1]
    return prepared.pixels[-rows * columns :], (rows, columns)


def _predict(x_NC: torch.Tensor, labels_N: torch.Tensor, values: int, xs_NC: torch.Tensor) -> torch.Tensor:
    head = nn.Linear(x_NC.shape[1], values)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=_UPDATES, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(head(x_NC), labels_N) + _PENALTY * head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        return head(xs_NC).argmax(1)
