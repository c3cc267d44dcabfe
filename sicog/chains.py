"""Render and parse "Step k: heading" texts: Chain-of-Description (5 steps) and Chain-of-Thought (4 steps).

`parse(render(bodies)) == bodies`. The body of a step is everything between its heading line and the heading of the
next step. Paragraphs and blank lines inside a body are kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Chain:
    """The headings of a chain, in order."""

    name: str
    headings: tuple[str, ...]


COD = Chain(
    "chain-of-description",
    (
        "Extract the salient content of the image.",
        "Describe the details of each instance.",
        "Describe relations and spatial organization.",
        "Look at the marginal content of the image.",
        "Organize all observations into a detailed, cohesive description.",
    ),
)
COT = Chain(
    "chain-of-thought",
    (
        "Clarify the task objective.",
        "Extract the crucial visual information from the image.",
        "Generate detailed reasoning to solve the task.",
        "Conclude the task with an answer.",
    ),
)
# The user's question for each step, when a chain-of-description becomes a conversation.
COD_QUESTIONS = (
    "What are the most important things in this image?",
    "What do they look like in detail?",
    "How are they arranged, and how do they relate to each other?",
    "What else is there in the background or at the edges?",
    "Please put all of this together into one detailed description of the image.",
)

_STEP_LINE = re.compile(r"^Step (\d+):", re.MULTILINE)


class ChainError(ValueError):
    """A text that is not a valid chain. The message says where it differs."""


def render(chain: Chain, bodies: Sequence[str]) -> str:
    """The chain's text: blocks `Step k: heading`, newline, body, separated by a blank line.

    Raises `ChainError` when the number of bodies is wrong, a body is empty or has white space at its ends,
    or a line of it could be taken for a step's heading.
    """
    if len(bodies) != len(chain.headings):
        raise ChainError(f"a {chain.name} has {len(chain.headings)} steps, got {len(bodies)}")
    for k, body in enumerate(bodies, 1):
        if not body or body != body.strip():
            raise ChainError(f"step {k} is empty or has white space at its ends: {body[:80]!r}")
        if _STEP_LINE.search(body):
            raise ChainError(f"step {k} holds a line that reads like a heading: {body[:80]!r}")
    return "\n\n".join(
        f"Step {k}: {heading}\n{body}" for k, (heading, body) in enumerate(zip(chain.headings, bodies, strict=True), 1)
    )


def parse(chain: Chain, text: str) -> tuple[str, ...]:
    """The bodies of the chain's steps.

    A heading is a line that starts with `Step k:`. Its wording is free, because models paraphrase it.
    Raises `ChainError` when steps are missing, repeated, out of order or empty, or when text stands before step 1.
    """
    marks = list(_STEP_LINE.finditer(text))
    numbers = [int(m.group(1)) for m in marks]
    if numbers != list(range(1, len(chain.headings) + 1)):
        raise ChainError(f"expected steps 1 to {len(chain.headings)} in order, found {numbers or 'none'}")
    if before := text[: marks[0].start()].strip():
        raise ChainError(f"text before step 1: {before[:80]!r}")
    ends = [m.start() for m in marks[1:]] + [len(text)]
    bodies = []
    for mark, end in zip(marks, ends, strict=True):
        _heading, _, body = text[mark.end() : end].partition("\n")
        if not (body := body.strip()):
            raise ChainError(f"step {mark.group(1)} is empty")
        bodies.append(body)
    return tuple(bodies)
