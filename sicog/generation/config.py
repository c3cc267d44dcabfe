"""The config of `sicog sample`: which styles, how many samples of each, and how they are drawn. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from sicog.generation.closer import CloserConfig, StyleCount
from sicog.generation.context import ContextConfig
from sicog.generation.corruption import CorruptionName
from sicog.generation.sampling import SamplingConfig
from sicog.model.precision import Precision, resolve_precision
from sicog.remote.config import EndpointConfig
from sicog.stages.launch import LaunchConfig
from sicog.tasks import TASKS

# The paper's three candidates of a query.
DEFAULT_STYLES: dict[str, tuple[StyleCount, ...]] = {
    "captioning": (StyleCount(style="cod", n=2), StyleCount(style="dd")),
    "reasoning": (StyleCount(style="cot", n=2), StyleCount(style="direct")),
    "text": (StyleCount(style="text", n=3),),
}
_SCRIPT_PROMPTS = {
    "captioning": {"cod-default": "cod", "cod-conv": "cod-conv", "default": "dd"},
    "reasoning": {"cot-default": "cot", "default": "plain"},
    "text": {"default": "text"},
}
PAPER = "paper"
_FILLS = 32  # of the slots, in a block; at its end the last answers decode beside empty slots


def styles_for_prompt(task: str, name: str) -> tuple[StyleCount, ...]:
    """The styles for a PROMPT name of the scripts: one sample as in the original; for `paper` the paper's set.

    The name of a style gives one sample of it. Raises `ValueError` with the known names.
    """
    known = _SCRIPT_PROMPTS.get(task, {}) | {style: style for style in TASKS[task].styles}
    if name == PAPER and task in DEFAULT_STYLES:
        return DEFAULT_STYLES[task]
    if name not in known:
        raise ValueError(f"unknown {task} prompt {name!r}; known: {', '.join([*known, PAPER])}")
    return (StyleCount(style=known[name]),)


class SampleConfig(SamplingConfig):
    """Config of `sicog sample`."""

    volatile: ClassVar[frozenset[str]] = frozenset(
        {"workers", "device", "max_dropped_share", "launch", "price_per_hour"}
    )
    of_rows: ClassVar[tuple[str, ...]] = ("input",)
    engine: Literal["transformers", "openai"] = "transformers"
    """`transformers` samples from `checkpoint`; `openai` asks the model of `endpoint`."""
    checkpoint: Path | None = None
    """The model to sample from, with engine `transformers`."""
    endpoint: EndpointConfig | None = None
    """The model to ask, with engine `openai`. Answers are stored in `endpoint.answers`; the default is beside the
    output."""
    max_side: int = Field(default=1024, ge=1)
    """Maximum pixels of an image's longer side for an endpoint. Larger images are sent smaller."""
    input: Path
    """A folder of our `Query` records, or a LLaVA .json or .jsonl file, whose ids are kept."""
    task: str
    """`captioning` (rows have an image), `reasoning` (a question, with or without images), `text` (an instruction), or
    a task added with `tasks.add_task`, which needs `styles`."""
    out_dir: Path
    styles: tuple[StyleCount, ...] = ()
    """Styles and sample counts of every query. Empty: 2 cod + 1 dd for captions, 2 cot + 1 direct for reasoning, 3
    for text."""
    prompt: str | None = None
    """A PROMPT name of the scripts instead of `styles`: cod-default, cod-conv, cot-default, default or the name of a
    style (one sample), or paper (the default set of `styles`)."""
    image_folder: Path = Path()
    image_roots: tuple[Path, ...] = ()
    corruptions: tuple[CorruptionName, ...] = ()
    """Each image is corrupted by one of these methods, chosen by seed and id; for rejected answers."""
    closer: CloserConfig | None = None
    context: ContextConfig | None = None
    beams: int = Field(default=1, ge=1)
    """With more than 1, every candidate is a separate beam search of Transformers' `generate`."""
    slicing: bool = True
    block_size: int | None = Field(default=None, ge=1)
    """Queries sampled together. An interruption loses at most one block. null: enough to fill the slots 32 times."""
    rows_per_shard: int = Field(default=1024, ge=1)
    max_dropped_share: float | None = Field(default=0.05, ge=0, le=1)
    workers: int = Field(default=1, ge=1)
    launch: LaunchConfig = LaunchConfig()
    price_per_hour: float | None = Field(default=None, ge=0)
    """Price of one worker, in any currency, for `--estimate`."""
    device: str = "auto"
    precision: Precision = "auto"

    @model_validator(mode="after")
    def _check_styles(self) -> SampleConfig:
        if self.prompt is not None and self.styles:
            raise ValueError("give either styles or prompt")
        task = TASKS[self.task]
        names = [s.style for s in self.wanted_styles]
        if repeated := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"style {repeated[0]!r} is listed twice. Raise its n instead")
        for name in [*names, *(s.style for s in (self.closer.styles if self.closer else ()))]:
            task.style(name)
        if self.context and (self.closer or self.corruptions):
            raise ValueError("a context describes the clean and whole image. Remove closer and corruptions")
        if self.closer and self.corruptions:
            raise ValueError("closer needs clean images. Remove either closer or corruptions")
        self._check_engine()
        if self.workers > 1 and ":" in self.device:
            raise ValueError(f"device={self.device} is one GPU, but there are {self.workers} workers. Remove device")
        return self

    def _check_engine(self) -> None:
        if self.engine == "transformers":
            if self.checkpoint is None or self.endpoint is not None:
                raise ValueError("engine: transformers needs a checkpoint, and no endpoint")
            return
        if self.endpoint is None or self.checkpoint is not None:
            raise ValueError(
                "engine: openai needs an endpoint (endpoint.model=..., endpoint.base_url=...), no checkpoint"
            )
        if self.beams > 1 or self.top_k or self.repetition_penalty != 1:
            raise ValueError("engine: openai does not support beams, top_k or repetition_penalty. Remove them")
        if self.workers > 1 or self.launch.on != "local":
            raise ValueError(
                "engine: openai runs in one process. Raise endpoint.concurrency instead of workers or launch"
            )

    def with_resolved_auto(self, processes: int = 1) -> SampleConfig:
        """Resolve `auto`, so that a run resumed on another machine cannot mix answers of two precisions."""
        if self.engine != "transformers":
            return self
        return self.model_copy(update={"precision": resolve_precision(self.precision, self.device)})

    @property
    def wanted_styles(self) -> tuple[StyleCount, ...]:
        """The styles, with defaults and script names resolved."""
        if self.prompt is not None:
            return styles_for_prompt(self.task, self.prompt)
        if not self.styles and self.task not in DEFAULT_STYLES:
            raise ValueError(f"task {self.task} has no default styles. Give styles, such as styles=[{{style: S}}]")
        return self.styles or DEFAULT_STYLES[self.task]

    @property
    def candidates_per_query(self) -> int:
        """The number of samples of a query, with those of windows."""
        in_windows = self.closer.columns * self.closer.rows * sum(s.n for s in self.closer.styles) if self.closer else 0
        return sum(s.n for s in self.wanted_styles) + in_windows

    @property
    def queries_per_block(self) -> int:
        """`block_size` or its default. Slots run empty at the end of a block, so it should fill them several times."""
        return self.block_size or -(-_FILLS * self.batch_size // self.candidates_per_query)

    def sampling_config(self) -> SamplingConfig:
        """The sampling values of this config."""
        return SamplingConfig(**{name: getattr(self, name) for name in SamplingConfig.model_fields})
