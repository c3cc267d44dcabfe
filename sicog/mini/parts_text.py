"""What the mini language model learns to read and write: conversations about scenes that are told in words.

A scene is told as a list of things, as a detailed description, as a grid of cells in words, or in the very layout of an
image: one position for each visual feature, filled with the mean direction of the words that say what lies there
(`Telling.cells`). A projector that maps features to such mixtures of words is understood at once.
No pixel is involved, and scenes hold no held-out pair.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from sicog.mini.cells import coverage
from sicog.mini.questions import QUESTION_TYPES, BalancedDraw, question_text
from sicog.mini.reasoning import cot_text
from sicog.mini.scene import LABELLED, Scene, choose, digest, draw_scene
from sicog.mini.text import (
    BRIEF_INSTRUCTIONS,
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
SCALE = 112  # the slicing scale the layouts imitate
NOTHING = "nothing"
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


class Conversations:
    """Conversation number `index` of a split; the answers of its questions are balanced over the calls."""

    def __init__(self, seed: int, split: str, query_grid: int, plan_grid: Callable[..., tuple[int, int]]) -> None:
        self.seed, self.split, self.query_grid, self.plan_grid = seed, split, query_grid, plan_grid
        self.questions = BalancedDraw(name_held_out=False)

    def scene(self, index: int) -> Scene:
        """The scene: none holds a held-out pair."""
        return draw_scene(self.seed, self.split, index, LABELLED)

    def __call__(self, index: int) -> Conversation:
        scene, rng = self.scene(index), random.Random(digest(self.seed, self.split, index, "conversation"))
        return Conversation(self.tell(scene, rng), tuple(self.tasks(scene, rng)))

    def tell(self, scene: Scene, rng: random.Random) -> Telling:
        """Seven in ten as cells; the others in words."""
        kind = rng.random()
        if kind < 0.7:
            # The thumbnail alone is what alignment shows of large images too.
            grid = self.plan_grid(scene.width, scene.height) if rng.random() < 0.8 else (0, 0)
            size = (scene.width, scene.height) if grid != (0, 0) else (SCALE, SCALE)
            return Telling(size=size, cells=feature_cells(scene, grid, self.query_grid))
        if kind < 0.8:
            return Telling(detailed_description(scene))
        if kind < 0.9:
            things = [f"{a(full_name(t))} {place(scene, t)}" for t in scene.things]
            return Telling(f"{'; '.join(rng.sample(things, len(things)))}; {scene.background}")
        return Telling(text_grid(scene, self.query_grid))

    def tasks(self, scene: Scene, rng: random.Random) -> list[tuple[str, str]]:
        """A chain of description, chains of thought, or bare answers, at times with a caption, in any order."""
        kind = rng.random()
        if kind < 0.1:
            return [(CAPTIONING.style("cod").template, cod_caption(scene))]
        if kind < 0.4:
            return [self.question(scene, rng, "cot") for _ in range(rng.choice((1, 2, 3)))]
        tasks = [self.question(scene, rng, "direct") for _ in range(rng.choice((4, 5, 6)))]
        if kind < 0.55:
            tasks.append((choose(BRIEF_INSTRUCTIONS, scene.id, "instruction"), brief_caption(scene)))
        elif kind < 0.65:
            tasks.append((CAPTIONING.style("dd").template, detailed_description(scene)))
        return rng.sample(tasks, len(tasks))

    def question(self, scene: Scene, rng: random.Random, style: str) -> tuple[str, str]:
        """A question of any type in the prompt of the style, with its chain or its bare answer."""
        question, key = self.questions.draw(scene, rng.choice(QUESTION_TYPES)), f"{scene.id}-{rng.random()}"
        words = question_text(question, key)
        prompt = REASONING.prompt(Query(id=key, task="reasoning", question=words), style)
        return prompt, cot_text(scene, question, key) if style == "cot" else question.answer


def feature_cells(scene: Scene, grid: tuple[int, int], query_grid: int) -> tuple[Cell, ...]:
    """The cells in the order of an image's features: the stitched slices (if any) row by row, then the thumbnail.

    Slices do not show how large the whole image is, so they name no sizes.
    """
    columns, rows = grid
    slices = _cells(scene, columns * query_grid, rows * query_grid, sized=False) if columns * rows else ()
    return slices + _cells(scene, query_grid, query_grid, sized=True)


def _cells(scene: Scene, columns: int, rows: int, *, sized: bool) -> tuple[Cell, ...]:
    words = [t.attributes if sized else (t.colour, t.shape) for t in scene.things]
    ground = scene.background.split()
    cells = []
    for share in coverage(scene, columns, rows).reshape(columns * rows, -1):
        weights = [min(1.0, float(s) / FULL) if s >= FAINT else 0.0 for s in share]
        total = max(1.0, sum(weights))
        cell = [(w, weight / total / math.sqrt(3)) for ws, weight in zip(words, weights, strict=True) for w in ws]
        cell += [(w, (1 - sum(weights) / total) / math.sqrt(3)) for w in ground]
        cells.append(tuple((word, weight) for word, weight in cell if weight > 0))
    return tuple(cells)


def text_grid(scene: Scene, n: int) -> str:
    """The scene as n rows of n cells in words, and its background."""
    lines = []
    for row in coverage(scene, n, n):
        names = [full_name(scene.things[int(c.argmax())]) if c.max() >= FULL / 2 else NOTHING for c in row]
        lines.append(", ".join(names))
    return "\n".join([*lines, scene.background])
