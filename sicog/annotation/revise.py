"""Convert annotated rows to warm-up examples: a chain (CoD, CoT) and a plain answer (DD, short) per annotation.

Captions: rows in ALLaVA format; a teacher writes their `cod_caption`, unless it exists. Reasoning: LLaVA-CoT rows with
four tagged sections. The two outputs are independent: a row that fails in one may still appear in the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ValidationError, model_validator

from sicog.annotation.estimate import estimate
from sicog.annotation.teacher import STEP, CaptionRowParser, Teacher, TeacherConfig, prompt_file
from sicog.chains import COD, COT, ChainError, parse, render
from sicog.config import Config
from sicog.config.validation import first_validation_message
from sicog.data.image_folder import ImageFolder
from sicog.data.images import ImageProblem
from sicog.data.rows.cache import cache_folder
from sicog.data.rows.users_rows import open_users_rows
from sicog.formats import (
    Row,
    RowError,
    ensure_marker,
    first_question,
    image_names,
    other_keys,
    parse_example,
    tagged_sections,
)
from sicog.records import AnnotatedRow, Dropped, Example, Query, Turn
from sicog.remote.client import open_client
from sicog.stages.config import StageOptions
from sicog.stages.provenance import write_run_json
from sicog.stages.reader import FolderSource, Source
from sicog.stages.runner import Stage, run_stage
from sicog.stages.shard import Outcome
from sicog.stages.storage import is_finished
from sicog.tasks import CAPTIONING, REASONING, bare_question

COT_TAGS = ("SUMMARY", "CAPTION", "REASONING", "CONCLUSION")
_ANNOTATIONS = ("cod_caption", "dd_caption")


class ReviseConfig(Config):
    """Converts annotated rows, or captions with a teacher, to two kinds of examples: chains and plain answers."""

    volatile: ClassVar[frozenset[str]] = frozenset({"workers", "max_dropped_share"})
    of_rows: ClassVar[tuple[str, ...]] = ("input",)
    task: Literal["captioning", "reasoning"]
    """`captioning` reads captions, `reasoning` LLaVA-CoT rows."""
    input: Path
    """Input rows: a JSON list, or JSONL."""
    chain_dir: Path
    """Output folder of Chain-of-Description or Chain-of-Thought examples."""
    plain_dir: Path
    """Output folder of detailed descriptions or short answers."""
    image_folder: Path | None = None
    """Folder of the images, or a .tar of them. When given, rows with an unusable image are dropped now."""
    image_roots: tuple[Path, ...] = ()
    prompts: Literal["task", "row"] = "task"
    """`task`: the prompts of generation. `row`: the row's own question (with step-by-step added for a chain)."""
    max_dropped_share: float = 0.05
    teacher: TeacherConfig | None = None
    """The model that writes the `cod_caption` of each row; null if the rows have it."""
    teacher_dir: Path | None = None
    """Folder of the teacher's rows and stored answers; null: `chain_dir` with "-teacher"."""

    @model_validator(mode="after")
    def _check_teacher(self) -> ReviseConfig:
        if self.teacher and self.task != "captioning":
            raise ValueError(
                "teacher works only for captions; reasoning rows must be annotated already (LLaVA-CoT). "
                "Set teacher: null"
            )
        if self.teacher and self.image_folder is None:
            raise ValueError("image_folder is missing, but the teacher needs the images. Set image_folder")
        return self

    def teacher_folder(self) -> Path:
        """Return the folder of the teacher's rows and answers."""
        return self.teacher_dir or self.chain_dir.with_name(f"{self.chain_dir.name}-teacher")

    def answers(self) -> Path:
        """Return the folder of the teacher's stored answers."""
        assert self.teacher
        return self.teacher.endpoint.answers or self.teacher_folder() / "answers"


def revise(config: ReviseConfig) -> tuple[Path, Path]:
    """Write both datasets of `Example` records; returns (chain_dir, plain_dir)."""
    folders = {"chain": config.chain_dir, "plain": config.plain_dir}
    finished = all(is_finished(folder) for folder in folders.values())
    images = _images(config) if config.image_folder and not finished else None  # may be missing when all is done
    if config.teacher and not finished:
        config.teacher.endpoint.check()  # before anything is written
        for form, folder in folders.items():  # claim both folders before anything is paid
            write_run_json(folder, step=_step(config, form), config=config, inputs=_inputs(config))
        assert images is not None  # guaranteed by the config
        _annotate(config, config.teacher, images)
    return _write(config, "chain", config.chain_dir, images), _write(config, "plain", config.plain_dir, images)


def print_estimate(config: ReviseConfig) -> None:
    """Print the estimated cost of the teacher. Sends and writes nothing."""
    if not config.teacher:
        raise ValueError("teacher is missing, so there is nothing to estimate. Set teacher.endpoint.model")
    needs_question = config.prompts == "row"
    found = estimate(config.teacher, config.input, _images(config), config.answers(), needs_question)
    for line in found.lines(config.teacher):
        print(line)


def _annotate(config: ReviseConfig, teacher: TeacherConfig, images: ImageFolder) -> Path:
    """Write the teacher's rows as a dataset of `AnnotatedRow`; its shards can be read as annotated rows."""
    with open_client(teacher.endpoint, config.answers()) as client:
        process = Teacher(teacher, client, images)
        return run_stage(
            Stage(
                step=STEP,
                out_dir=config.teacher_folder() / "rows",
                source=open_users_rows(config.input, CaptionRowParser(config.prompts == "row"), step=STEP),
                process=process,
                inputs=_inputs(config),
                limits_failed=False,
                status=process.status,
            ),
            config,
            StageOptions.of(config, block_size=1024),
        )


def _images(config: ReviseConfig) -> ImageFolder:
    return ImageFolder(config.image_folder, config.image_roots, cache=cache_folder())


def _step(config: ReviseConfig, form: str) -> str:
    return f"revise-{config.task}-{form}"


def _inputs(config: ReviseConfig) -> dict[str, Path]:
    prompt = {"prompt": prompt_file(config.teacher.prompt)} if config.teacher else {}
    return {"annotations": config.input, **prompt}


def _write(config: ReviseConfig, form: str, out_dir: Path, images: ImageFolder | None) -> Path:
    parsers: dict[tuple[str, str], Callable[[Row, str, str], Example]] = {
        ("captioning", "chain"): cod_example,
        ("captioning", "plain"): dd_example,
        ("reasoning", "chain"): cot_example,
        ("reasoning", "plain"): short_example,
    }
    parser = _Parser(parsers[config.task, form], config.prompts)
    source: Source[Example]
    if config.teacher:
        source = _Annotated(FolderSource(config.teacher_folder() / "rows", AnnotatedRow), parser, f"revise-{form}")
    else:
        source = open_users_rows(config.input, parser, step=f"revise-{form}")
    return run_stage(
        Stage(
            step=_step(config, form),
            out_dir=out_dir,
            source=source,
            process=_Keep(images),
            inputs=_inputs(config),
        ),
        config,
        StageOptions.of(config, block_size=256),
    )


@dataclass(frozen=True)
class _Annotated:
    """The teacher's rows, each converted to an example."""

    rows: FolderSource[AnnotatedRow]
    parse: _Parser
    step: str

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, start: int, stop: int) -> Iterator[Example | Dropped]:
        """Rows start..stop."""
        for row in self.rows.read(start, stop):
            assert isinstance(row, AnnotatedRow)
            try:
                yield self.parse(row.model_dump(), row.id)
            except RowError as error:
                yield Dropped(id=row.id, step=self.step, reason=error.reason, detail=str(error))
            except ValidationError as error:
                yield Dropped(id=row.id, step=self.step, reason="malformed_row", detail=first_validation_message(error))


@dataclass(frozen=True)
class _Parser:
    parse: Callable[[Row, str, str], Example]
    prompts: str

    def __call__(self, row: Row, row_id: str) -> Example:
        try:
            return self.parse(row, row_id, self.prompts)
        except ChainError as error:
            raise RowError("chain", str(error)) from error


@dataclass(frozen=True)
class _Keep:
    """Process of the stage: keeps a parsed row if its images exist."""

    images: ImageFolder | None

    def __call__(self, block: Sequence[Example]) -> list[Outcome]:
        return [self._outcome(example) for example in block]

    def _outcome(self, example: Example) -> Outcome:
        if self.images is not None:
            try:
                for name in example.images:
                    self.images.find(name)
            except ImageProblem as problem:
                return Dropped(id=example.id, step="revise", reason=problem.reason, detail=str(problem))
        return [example]


def cod_example(row: Row, row_id: str, prompts: str = "task") -> Example:
    """Return the teacher's five-step caption as an answer, with checked steps. Raises `RowError` or `ChainError`."""
    bodies = parse(COD, _text_of_key(row, "cod_caption"))
    style = "cod" if prompts == "task" else "cod-conv"
    return _caption_example(row, row_id, style, render(COD, bodies), "cod")


def dd_example(row: Row, row_id: str, prompts: str = "task") -> Example:
    """Return the detailed description: `dd_caption`, else the body of the chain's last step.

    If the original found no last step, its `dd_caption` is the teacher's whole chain; then use the last step's body.
    """
    text = _text_of_key(row, "cod_caption" if row.get("dd_caption") in (None, "") else "dd_caption")
    if row.get("dd_caption") in (None, "") or re.search(r"^Step 1:", text, re.MULTILINE):
        text = parse(COD, text)[-1]
    return _caption_example(row, row_id, "dd" if prompts == "task" else "row", text, "dd")


def cot_example(row: Row, row_id: str, prompts: str = "task") -> Example:
    """Return each tagged answer as a four-step chain; each question asks for steps."""
    example = parse_example(ensure_marker(row), row_id)
    return _revise_turns(
        example,
        lambda q: _question_with_prompt(row_id, q, "cot"),
        lambda a: render(COT, tagged_sections(a, COT_TAGS)),
        "cot",
    )


def short_example(row: Row, row_id: str, prompts: str = "task") -> Example:
    """Return the conclusion of each tagged answer; with `prompts="row"` the question is unchanged."""
    example = parse_example(ensure_marker(row), row_id)
    ask = (lambda q: q) if prompts == "row" else (lambda q: _question_with_prompt(row_id, q, "direct"))
    return _revise_turns(example, ask, lambda a: tagged_sections(a, COT_TAGS)[-1], "short")


def _question_with_prompt(row_id: str, question: str, style: str) -> str:
    if not bare_question(question):
        raise RowError("no_question", "a human turn holds no question")
    return REASONING.prompt(Query(id=row_id, task="reasoning", question=question), style)


def _revise_turns(example: Example, ask: Callable[[str], str], answer: Callable[[str], str], kind: str) -> Example:
    turns = []
    for turn in example.turns:
        text = ask(turn.text) if turn.role == "user" else answer(turn.text) if turn.role == "assistant" else turn.text
        turns.append(turn.model_copy(update={"text": text}))
    return Example(
        id=f"{example.id}/{kind}",
        images=example.images,
        turns=tuple(turns),
        source=f"revise-{kind}",
        extra=example.extra,
    )


def _caption_example(row: Row, row_id: str, style: str, answer: str, kind: str) -> Example:
    images = image_names(row)
    if not images:
        raise RowError("no_image", "a caption row needs an image")
    question = first_question(row)
    query = Query(id=row_id, task="captioning", images=images, question=question)
    if style not in ("cod", "dd") and not bare_question(question):
        raise RowError("no_question", "the row has no question in its first human turn; use prompts=task")
    prompt = question if style == "row" else CAPTIONING.prompt(query, style)
    user = Turn(role="user", text=prompt, images_at=(0,) * len(images))
    return Example(
        id=f"{row_id}/{kind}",
        images=images,
        turns=(user, Turn(role="assistant", text=answer)),
        source=f"revise-{kind}",
        extra=other_keys(row, *_ANNOTATIONS),
    )


def _text_of_key(row: Row, key: str) -> str:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise RowError("malformed_annotation", f"{key} must be a text, got {value!r:.100}")
    if value is None or not value.strip():
        raise RowError("no_annotation", f"the row has no {key}: run the teacher first")
    return value.strip()
