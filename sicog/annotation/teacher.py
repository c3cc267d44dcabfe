"""The teacher: a model that sees the image and rewrites each caption as a five-step Chain-of-Description.

It gets one request per row, or two when the first answer is unusable. Both kinds of examples are made from the same
answer. A row with an unusable answer becomes `Failed` with a reason; error texts never become data.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

import yaml
from pydantic import Field

from sicog.chains import COD, ChainError, parse, render
from sicog.config import Config, validate
from sicog.data.image_folder import ImageFolder
from sicog.data.images import ImageProblem
from sicog.formats import Row, RowError, caption_of, first_question, image_names
from sicog.records import AnnotatedRow, Dropped, Failed, Record
from sicog.remote.client import BadImage, Client, Message, NoAnswer, Request
from sicog.remote.config import EndpointConfig
from sicog.remote.image_parts import Picture
from sicog.remote.store import Answer
from sicog.stages.shard import Outcome
from sicog.tasks import bare_question

STEP = "annotate"
_JUDGED_FROM = 200
_HEADING = re.compile(r"^Step (\d+):(.*)$", re.MULTILINE)
_REFUSAL = re.compile(
    r"(i('m| am) (so |very )?(sorry|unable)|sorry,|my apologies|i apologi[sz]e|as an ai\b|"
    r"i (can('|no)t|can not|won't|will not) (help|assist|comply|see|view|process|describe|provide|do|fulfill))",
    re.IGNORECASE,
)


class TeacherConfig(Config):
    """The annotating model, its prompt, and the limits of accepted answers."""

    volatile: ClassVar[frozenset[str]] = frozenset({"max_failed_share", "expected_answer_tokens"})
    endpoint: EndpointConfig
    prompt: str = "cod-v1"
    """Version of the prompt, the name of its file in sicog/annotation/prompts."""
    temperature: float = Field(default=0.2, ge=0)
    max_tokens: int = Field(default=2048, ge=1)
    """Maximum tokens of an answer."""
    max_side: int = Field(default=1024, ge=1)
    """Maximum pixels of an image's longer side; larger images are scaled down."""
    min_step_chars: int = Field(default=8, ge=1)
    """Minimum characters of each step; a shorter answer is refused."""
    max_step_chars: int = Field(default=3000, ge=1)
    """Maximum characters of each step."""
    min_chars: int = Field(default=80, ge=1)
    """Minimum characters of all five steps together."""
    max_chars: int = Field(default=8000, ge=1)
    """Maximum characters of all five steps together."""
    max_failed_share: float = Field(default=0.1, ge=0, le=1)
    """Maximum share of failed rows; the run stops above it. Shares are of at least 200 rows."""
    expected_answer_tokens: int = Field(default=600, ge=1)
    """Tokens per answer that `--estimate` assumes while no answers are stored."""


class Prompt(Config):
    """A prompt file: version, instruction, bodies of an example answer, the row's part, and the retry text."""

    version: str
    system: str
    example: tuple[str, ...]
    user: str
    again: str

    def instruction(self) -> str:
        """Return the system message with the example answer."""
        return self.system.format(example=render(COD, self.example)).strip()


def prompt_file(name: str) -> Path:
    """Return the file of a prompt. Raises `ValueError` with the known names."""
    folder = Path(str(files("sicog.annotation") / "prompts"))
    if not re.fullmatch(r"[\w-]+", name) or not (folder / f"{name}.yaml").is_file():
        raise ValueError(
            f"unknown prompt {name!r}. Use one of: {', '.join(sorted(p.stem for p in folder.glob('*.yaml')))}"
        )
    return folder / f"{name}.yaml"


def load_prompt(name: str) -> Prompt:
    """Load a prompt by its name. Raises `ValueError`."""
    path = prompt_file(name)
    return validate(Prompt, yaml.safe_load(path.read_text(encoding="utf-8")), str(path))


class CaptionRow(Record):
    """A user's row for the teacher, with the original row."""

    images: tuple[str, ...]
    question: str
    caption: str
    row: Row


@dataclass(frozen=True)
class CaptionRowParser:
    """Parses a row of the user's file; refuses now what later steps would refuse, before it is paid."""

    needs_question: bool

    def __call__(self, row: Row, row_id: str) -> CaptionRow:
        images, question = image_names(row), first_question(row)
        if not images:
            raise RowError("no_image", "a caption row needs an image")
        if self.needs_question and not bare_question(question):
            raise RowError("no_question", "the row has no question in its first human turn; use prompts=task")
        return CaptionRow(id=row_id, images=images, question=question, caption=caption_of(row), row=row)


class BadAnswer(Exception):  # noqa: N818 - an outcome of one row
    """An unusable answer; `reason` is the snake_case word for `Failed`, the text is sent to the teacher."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def checked_bodies(answer: Answer, config: TeacherConfig) -> tuple[str, ...]:
    """Return the bodies of the five steps. Raises `BadAnswer` for any other answer."""
    text = answer.text.replace("\r\n", "\n").strip()
    if answer.refusal or _REFUSAL.match(text):
        raise BadAnswer("refusal", f"it refuses: {text[:200] or answer.finish_reason}")
    if not text:
        raise BadAnswer("empty_answer", "it is empty")
    if answer.finish_reason == "length":
        raise BadAnswer("cut_answer", f"it is longer than {config.max_tokens} tokens and was cut off")
    try:
        bodies = parse(COD, text)
    except ChainError as error:
        raise BadAnswer("chain", str(error)) from error
    for (number, found), heading in zip(_HEADING.findall(text), COD.headings, strict=True):
        if _heading_words(found) != _heading_words(heading):  # otherwise text on the heading's line would be lost
            raise BadAnswer("heading", f"the heading of step {number} is {found.strip()[:100]!r}, not {heading!r}")
    for number, body in enumerate(bodies, 1):
        if _REFUSAL.match(body):
            raise BadAnswer("refusal", f"step {number} refuses: {body[:200]}")
        _check_length(f"step {number}", len(body), config.min_step_chars, config.max_step_chars)
    _check_length("the answer without its headings", sum(map(len, bodies)), config.min_chars, config.max_chars)
    return bodies


def _heading_words(heading: str) -> str:
    return " ".join(re.findall(r"\w+", heading.casefold()))


def _check_length(what: str, n: int, low: int, high: int) -> None:
    if not low <= n <= high:
        raise BadAnswer("length", f"{what} has {n} characters, allowed are {low} to {high}")


def request_for(row: CaptionRow, pictures: Sequence[Picture], config: TeacherConfig, prompt: Prompt) -> Request:
    """Return the teacher's request for a row."""
    text = prompt.user.format(question=row.question or "Describe the image.", caption=row.caption)
    messages = (Message("system", (prompt.instruction(),)), Message("user", (text, *pictures)))
    return Request(messages, config.temperature, config.max_tokens, prompt.version)


def retry_request(request: Request, answer: Answer, reason: str, prompt: Prompt) -> Request:
    """Return the request again, with the bad answer and its fault."""
    said = (
        Message("assistant", (answer.text.strip() or "(no answer)",)),
        Message("user", (prompt.again.format(reason=reason),)),
    )
    return Request((*request.messages, *said), request.temperature, request.max_tokens, request.version)


@dataclass
class Teacher:
    """Process of the stage: sends a block of rows at once; outcomes are in the order of the rows."""

    config: TeacherConfig
    client: Client
    images: ImageFolder

    def __post_init__(self) -> None:
        self.prompt = load_prompt(self.config.prompt)
        self.done = 0
        self.failed: Counter[str] = Counter()

    def __call__(self, block: Sequence[CaptionRow]) -> list[Outcome]:
        return self.client.run([self._outcome(row) for row in block])

    async def _outcome(self, row: CaptionRow) -> Outcome:
        try:
            pictures = row_pictures(row, self.images, self.config.max_side)
            bodies = await self._bodies(request_for(row, pictures, self.config, self.prompt))
        except ImageProblem as problem:
            return Dropped(id=row.id, step=STEP, reason=problem.reason, detail=str(problem))
        except BadImage as error:
            return Dropped(id=row.id, step=STEP, reason="image_broken", detail=str(error))
        except (BadAnswer, NoAnswer) as error:
            self._count_failure(error.reason, str(error))
            return Failed(id=row.id, step=STEP, reason=error.reason, detail=str(error))
        self.done += 1
        own = {"id": row.id, "cod_caption": render(COD, bodies), "dd_caption": bodies[-1]}
        return [AnnotatedRow.model_validate({**row.row, **own})]

    async def _bodies(self, request: Request) -> tuple[str, ...]:
        answer = await self.client.ask(request)
        try:
            return checked_bodies(answer, self.config)
        except BadAnswer as error:
            second = await self.client.ask(retry_request(request, answer, str(error), self.prompt))
        return checked_bodies(second, self.config)

    def _count_failure(self, reason: str, detail: str) -> None:
        self.failed[reason] += 1
        n, rows = self.failed.total(), self.done + self.failed.total()
        if n > self.config.max_failed_share * max(rows, _JUDGED_FROM):
            listed = ", ".join(f"{r} {k}" for r, k in self.failed.most_common())
            error = ValueError(
                f"{n} of the first {rows} rows failed ({listed}; the last: {detail}), more than "
                f"{self.config.max_failed_share:.0%}. Check that the model fits the task, or raise "
                f"teacher.max_failed_share, and run again; stored answers are reused"
            )
            self.client.stop(error)
            raise error

    def status(self) -> str:
        """Return the status for the progress bar."""
        return f"{self.client.status()}, {self.failed.total()} failed"


def row_pictures(row: CaptionRow, images: ImageFolder, max_side: int) -> list[Picture]:
    """Return the row's images. Raises `ImageProblem`."""
    return [Picture(images.find(name), max_side) for name in row.images]
