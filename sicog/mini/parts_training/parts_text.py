"""What the mini language model learns to read and write: conversations about scenes that are told in words.

A scene is told as a list of things, as a detailed description, or in the very layout of an image: one position for each
visual feature, filled with the mean direction of the words that say what lies there (`Telling.cells`). A projector that
maps features to such mixtures of words is understood at once. No pixel is involved.
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
SCENES = SceneRules(held_out_share=0.35)  # about as many held-out pairs as a draw without rules would give
SCALE = 112  # the slicing scale the layouts imitate
FAINT, FULL = 0.04, 0.4  # a thing with less of a cell is not in it; from this share on it is all that is in it

Cell = tuple[tuple[str, float], ...]  # words with their weights


@dataclass(frozen=True)
class Telling:
    """How a scene is told: in words, or (then `size` is the image's) as cells in the order of visual features."""

    text: str = ""
    size: tuple[int, int] | None = None
    cells: tuple[Cell, ...] = ()


@dataclass(frozen=True)
class Conversation:
    """A scene told in the first user turn, and the tasks that follow as (prompt, answer)."""

    telling: Telling
    tasks: tuple[tuple[str, str], ...]

    @property
    def turns(self) -> list[Turn]:
        """User and assistant in alternation; a telling in words stands before the first prompt."""
        turns = []
        for k, (prompt, answer) in enumerate(self.tasks):
            text = f"{self.telling.text}\n{prompt}" if k == 0 and self.telling.text else prompt
            at = (0,) if k == 0 and self.telling.size else ()
            turns += [Turn(role="user", text=text, images_at=at), Turn(role="assistant", text=answer)]
        return turns


# Kinds of questions in the order in which they enter the training; each is drawn twice as often while it is the newest.
CURRICULUM = ("attribute", "count", "exist", "relation", "compare")
NEXT_AFTER = 0.03  # of the training
# Shares of the tasks from a share of the training on: first what is where, then what follows from it, which takes more.
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
        """The scene. It may hold held-out pairs: a language model knows all words; no labelled image shows one."""
        return draw_scene(self.seed, self.split, index, SCENES)

    def __call__(self, index: int, progress: float = 1.0) -> Conversation:
        """`progress`: the share of the training that is done, which decides what is asked."""
        scene, rng = self.scene(index), random.Random(digest(self.seed, self.split, index, "conversation"))
        return Conversation(self.tell(scene, rng, progress), tuple(self.tasks(scene, rng, progress)))

    def tell(self, scene: Scene, rng: random.Random, progress: float) -> Telling:
        """Nine in ten as cells, at the end fewer; the others in words."""
        kind, in_cells = rng.random(), 0.9 if progress < PHASES[-1][0] else 0.75
        if kind < in_cells:
            return self.as_cells(scene, rng)
        if kind < (1 + in_cells) / 2:
            return Telling(detailed_description(scene))
        things = [f"{a(full_name(t))} {place(scene, t)}" for t in scene.things]
        return Telling(f"{'; '.join(rng.sample(things, len(things)))}; {scene.background}")

    def as_cells(self, scene: Scene, rng: random.Random) -> Telling:
        """In the layout of the image; at times the thumbnail alone, which is what alignment shows of large images."""
        grid = self.plan_grid(scene.width, scene.height) if rng.random() < 0.8 else (0, 0)
        size = (scene.width, scene.height) if grid != (0, 0) else (SCALE, SCALE)
        return Telling(size=size, cells=feature_cells(scene, grid, self.query_grid))

    def tasks(self, scene: Scene, rng: random.Random, progress: float) -> list[tuple[str, str]]:
        """A caption of one kind, one or two chains of thought, or several bare answers."""
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
        """A question of the type in the prompt of the style, with its chain or its bare answer."""
        question = self.questions.draw(scene, type_)
        prompt = REASONING.prompt(Query(id=scene.id, task="reasoning", question=question_text(question)), style)
        return prompt, cot_text(scene, question) if style == "cot" else question.answer


def feature_cells(scene: Scene, grid: tuple[int, int], query_grid: int) -> tuple[Cell, ...]:
    """The cells in the order of an image's features: the stitched slices (if any) row by row, then the thumbnail.

    Slices do not show how large the whole image is nor where they lie in it, so they name no sizes and no places.
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
