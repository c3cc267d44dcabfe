"""The tasks, captioning, reasoning and text, as values of one code path: prompts by style, and what to compare.

A style is a way to ask (`cod`, `dd`, `cot`, `direct`, `text`); the prompts are those that warm-up data is written with
and that generation uses: one spelling for both. `text` is instructions without an image, which preserve the language
model's ability: their answers are compared whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sicog.chains import COD, COT, Chain, ChainError, parse
from sicog.records import Query

STEP_BY_STEP = "Answer the question step-by-step."
SHORT_ANSWER = "Answer the question using a single word or phrase."


@dataclass(frozen=True)
class Style:
    """How a query becomes a prompt. `template` may hold `{question}`; `chain` is the form of the answer, if any."""

    name: str
    template: str
    chain: Chain | None = None

    def asked(self, prompt: str) -> bool:
        """Whether a prompt can be one of this style."""
        before, holds_question, after = self.template.partition("{question}")
        if not holds_question:
            return prompt == self.template
        return prompt.startswith(before) and prompt.endswith(after)


@dataclass(frozen=True)
class TaskSpec:
    """A task: its styles by name, and whether its answers are short enough to vote on."""

    name: str
    styles: Mapping[str, Style]
    votes: bool

    def __post_init__(self) -> None:
        if wrong := [name for name, style in self.styles.items() if style.name != name]:
            raise ValueError(f"task {self.name}: the style listed as {wrong[0]!r} has another name")

    @property
    def asks_the_row(self) -> bool:
        """Whether every style asks the row's own question; else a row needs an image, and may do without a question."""
        return all("{question}" in style.template for style in self.styles.values())

    def style(self, name: str) -> Style:
        """The style of that name. Raises `ValueError` naming the known ones."""
        if name not in self.styles:
            raise ValueError(f"unknown {self.name} style {name!r}; known: {', '.join(self.styles)}")
        return self.styles[name]

    @property
    def plain_style(self) -> str:
        """The first style without a chain: how the task is asked in the end. Raises `ValueError` when there is none."""
        for name, style in self.styles.items():
            if style.chain is None:
                return name
        raise ValueError(f"task {self.name} has chains only; name the style")

    def prompt(self, query: Query, style: str) -> str:
        """The user's text for this query in this style (without any image marker)."""
        spec = self.style(style)
        if "{question}" not in spec.template:
            return spec.template
        question = bare_question(query.question)
        if not question:
            raise ValueError(f"query {query.id} has no question, which style {style!r} needs: give one")
        return spec.template.replace("{question}", question)

    def compared(self, text: str, style: str) -> str:
        """What self-consistency compares: the body of the last step of a chain, else the whole text, stripped.

        Raises `ChainError` when the text is not the chain that the style asks for, or empty.
        """
        chain = self.style(style).chain
        body = parse(chain, text)[-1] if chain else text.strip()
        if not body:
            raise ChainError("the text is empty")
        return body


def _styles(*styles: Style) -> Mapping[str, Style]:
    return MappingProxyType({s.name: s for s in styles})


CAPTION_REQUEST = "Please generate a detailed caption of this image."

CAPTIONING = TaskSpec(
    "captioning",
    _styles(
        Style("cod", f"{CAPTION_REQUEST} Describe the image step-by-step.", COD),
        Style("cod-conv", "{question} Describe the image step-by-step.", COD),
        Style("dd", f"{CAPTION_REQUEST} Be as descriptive as possible."),
    ),
    votes=False,
)
REASONING = TaskSpec(
    "reasoning",
    _styles(
        Style("cot", "{question} " + STEP_BY_STEP, COT),
        Style("direct", "{question} " + SHORT_ANSWER),
        Style("plain", "{question}"),
    ),
    votes=True,
)
TEXT = TaskSpec("text", _styles(Style("text", "{question}")), votes=False)


class _Tasks(dict[str, TaskSpec]):
    def __missing__(self, name: str) -> TaskSpec:
        raise ValueError(f"unknown task {name!r}; known: {', '.join(self)} (`tasks.add_task` adds another)")


_TASKS = _Tasks({t.name: t for t in (CAPTIONING, REASONING, TEXT)})
TASKS: Mapping[str, TaskSpec] = _TASKS  # an unknown name raises `ValueError`


def add_task(task: TaskSpec) -> None:
    """Make a task known to all steps of this process. Raises `ValueError` when another task has that name.

    Worker processes import the main script again, so it may be added there; the tasks of a SLURM array do not.
    """
    if _TASKS.setdefault(task.name, task) != task:
        raise ValueError(f"there is a task {task.name!r} already, and it is another one; give yours another name")


def bare_question(question: str) -> str:
    """The question without the sentences that ask for a form of answer, stripped."""
    return question.replace(STEP_BY_STEP, "").replace(SHORT_ANSWER, "").strip()
