"""Training text of the mini language model: conversations about scenes that are described in words.

A scene is given as a list of things, as a detailed description, or in the layout of an image. In the layout, each
visual feature has one position with the mean embedding of the words for its content (`SceneText.cells`). So the model
understands a projector that maps features to such mixtures of words. No pixels are used.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from sicog.mini.cells import coverage
from sicog.mini.questions import BalancedDraw, question_text
from sicog.mini.reasoning import cot_text
from sicog.mini.scene import Scene, SceneRules, digest, draw_scene
from sicog.mini.text import (
    BRIEF_INSTRUCTIONS,
    PLACED_INSTRUCTIONS,
    a,
    brief_caption,
    cod_caption,
    detailed_description,
    full_name,
    place,
)
from sicog.records import Query, Turn
from sicog.tasks import CAPTIONING, REASONING

SPLIT = "parts-text"
SCENES = SceneRules(held_out_share=0.35)  # about the share of held-out pairs of unrestricted scenes
SCALE = 112  # slicing scale of the layouts
FAINT, FULL = 0.04, 0.4  # minimum share of a cell for a thing; from the second share on the thing fills the cell

Cell = tuple[tuple[str, float], ...]  # words with their weights


@dataclass(frozen=True)
class SceneText:
    """A scene in words, or as cells in the order of visual features (then `size` is the image's)."""

    text: str = ""
    size: tuple[int, int] | None = None
    cells: tuple[Cell, ...] = ()


@dataclass(frozen=True)
class Conversation:
    """A scene in the first user turn, and the tasks about it as (prompt, answer)."""

    telling: SceneText
    tasks: tuple[tuple[str, str], ...]

    @property
    def turns(self) -> list[Turn]:
        """Return alternating turns of user and assistant; a scene in words comes before the first prompt."""
        turns = []
        for k, (prompt, answer) in enumerate(self.tasks):
            text = f"{self.telling.text}\n{prompt}" if k == 0 and self.telling.text else prompt
            at = (0,) if k == 0 and self.telling.size else ()
            turns += [Turn(role="user", text=text, images_at=at), Turn(role="assistant", text=answer)]
        return turns


# Kinds of questions in the order in which they enter the training; the newest is sampled twice as often.
CURRICULUM = ("attribute", "count", "exist", "relation", "compare")
NEXT_AFTER = 0.03  # share of the training
# Shares of the tasks from a share of the training on: first perception, then reasoning, which needs more training.
PHASES = (
    (0.0, {"cod": 0.06, "dd": 0.3, "brief": 0.08, "cot": 0.16, "direct": 0.4}),
    (0.14, {"cod": 0.04, "dd": 0.06, "brief": 0.02, "cot": 0.64, "direct": 0.24}),
)


class Conversations:
    """Conversation number `index` of a split; the answers of its questions are balanced over the calls."""

    def __init__(self, seed: int, split: str, query_grid: int, plan_grid: Callable[..., tuple[int, int]]) -> None:
        self.seed, self.split, self.query_grid, self.plan_grid = seed, split, query_grid, plan_grid
        self.questions = BalancedDraw(name_held_out=True)

    def scene(self, index: int) -> Scene:
        """Return the scene. It may have held-out pairs: a language model knows all words."""
        return draw_scene(self.seed, self.split, index, SCENES)

    def __call__(self, index: int, progress: float = 1.0) -> Conversation:
        """Return a conversation. progress: finished share of the training, which determines the tasks."""
        scene, rng = self.scene(index), random.Random(digest(self.seed, self.split, index, "conversation"))
        return Conversation(self.scene_text(scene, rng, progress), tuple(self.tasks(scene, rng, progress)))

    def scene_text(self, scene: Scene, rng: random.Random, progress: float) -> SceneText:
        """Return a scene: nine of ten as cells, fewer at the end, the others in words."""
        kind, in_cells = rng.random(), 0.9 if progress < PHASES[-1][0] else 0.75
        if kind < in_cells:
            return self.cells_text(scene, rng)
        if kind < (1 + in_cells) / 2:
            return SceneText(detailed_description(scene))
        things = [f"{a(full_name(t))} {place(scene, t)}" for t in scene.things]
        return SceneText(f"{'; '.join(rng.sample(things, len(things)))}; {scene.background}")

    def cells_text(self, scene: Scene, rng: random.Random) -> SceneText:
        """Return a scene in the image's layout, sometimes only the thumbnail, as alignment shows large images."""
        grid = self.plan_grid(scene.width, scene.height) if rng.random() < 0.8 else (0, 0)
        size = (scene.width, scene.height) if grid != (0, 0) else (SCALE, SCALE)
        return SceneText(size=size, cells=feature_cells(scene, grid, self.query_grid))

    def tasks(self, scene: Scene, rng: random.Random, progress: float) -> list[tuple[str, str]]:
        """Return a caption of one kind, one or two chains of thought, or several bare answers."""
        shares = next(shares for start, shares in reversed(PHASES) if progress >= start)
        kind = rng.choices(list(shares), list(shares.values()))[0]
        if kind == "cod":
            return [(CAPTIONING.style("cod").template, cod_caption(scene))]
        if kind == "dd":
            return [(CAPTIONING.style("dd").template, detailed_description(scene))]
        if kind == "brief":
            placed = rng.random() < 0.5
            prompt = rng.choice(PLACED_INSTRUCTIONS if placed else BRIEF_INSTRUCTIONS)
            return [(prompt, brief_caption(scene, placed=placed))]
        known = CURRICULUM[: 1 + int(progress / NEXT_AFTER)]
        types = (*known, known[-1]) if len(known) < len(CURRICULUM) else known
        number = rng.choice((1, 2, 3)) if kind == "cot" else rng.choice((6, 8, 10))
        return [self.question(scene, rng.choice(types), kind) for _ in range(number)]

    def question(self, scene: Scene, type_: str, style: str) -> tuple[str, str]:
        """Return a question of the type in the prompt of the style, with its chain or its bare answer."""
        question = self.questions.draw(scene, type_)
        prompt = REASONING.prompt(Query(id=scene.id, task="reasoning", question=question_text(question)), style)
        return prompt, cot_text(scene, question) if style == "cot" else question.answer


def feature_cells(scene: Scene, grid: tuple[int, int], query_grid: int) -> tuple[Cell, ...]:
    """Return the cells in the order of an image's features: stitched slices (if any) row by row, then the thumbnail.

    Slices do not show the size of the whole image or their position in it, so they have no size and place words.
    """
    columns, rows = grid
    slices = _cells(scene, columns * query_grid, rows * query_grid, sized=False) if columns * rows else ()
    return slices + _cells(scene, query_grid, query_grid, sized=True)


def _cells(scene: Scene, columns: int, rows: int, *, sized: bool) -> tuple[Cell, ...]:
    words = [(*t.attributes, *scene.region(t).split()) if sized else (t.colour, t.shape) for t in scene.things]
    ground = scene.background.split()
    cells = []
    for share in coverage(scene, columns, rows).reshape(columns * rows, -1):
        weights = [min(1.0, float(s) / FULL) if s >= FAINT else 0.0 for s in share]
        total = max(1.0, sum(weights))
        cell = [(w, weight / total / math.sqrt(3)) for ws, weight in zip(words, weights, strict=True) for w in ws]
        cell += [(w, (1 - sum(weights) / total) / math.sqrt(3)) for w in ground]
        cells.append(tuple((word, weight) for word, weight in cell if weight > 0))
    return tuple(cells)
