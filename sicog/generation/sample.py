"""Step 2, `sicog sample`: sample candidates for unlabelled images and questions, in several styles per query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from PIL import Image
from pydantic import Field, model_validator

from sicog.data.image_folder import ImageFolder, Readable, open_image_source
from sicog.data.images import ImageProblem, require_folder
from sicog.data.rows.cache import cache_folder
from sicog.data.rows.file_kinds import find_files
from sicog.data.rows.users_rows import open_users_rows
from sicog.formats import QueryParser
from sicog.generation.closer import Box, CloserConfig, Share, StyleCount, shares, window_image, window_size, windows
from sicog.generation.context import ContextConfig, read_contexts
from sicog.generation.corruption import CorruptionName, apply, draw_corruption, turns
from sicog.generation.engines.engine import Engine, load_engine
from sicog.generation.sampling import Job, LongPromptError, Picture, Request, Sample, SamplingConfig, Unanswered
from sicog.model.hub import local_model
from sicog.model.image_files import image_size, load_image
from sicog.model.precision import Precision, resolve_precision
from sicog.records import Candidate, CandidateSet, Corruption, Dropped, Failed, Query
from sicog.remote.config import EndpointConfig
from sicog.stages.backends import backend_of
from sicog.stages.config import StageOptions
from sicog.stages.launch import LaunchConfig
from sicog.stages.provenance import digest_path
from sicog.stages.reader import FolderSource, Source
from sicog.stages.runner import Stage, run_stage
from sicog.stages.shard import Outcome
from sicog.stages.storage import is_finished
from sicog.tasks import TASKS, TaskSpec, bare_question

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
Answer = list[Sample] | ValueError | Unanswered
ANSWERS = ".answers"  # answers of a served model, beside the output


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
    """Queries sampled together. An interruption loses at most one block. null: enough to fill the slots 8 times."""
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
        return self.block_size or -(-8 * self.batch_size // self.candidates_per_query)

    def sampling_config(self) -> SamplingConfig:
        """The sampling values of this config."""
        return SamplingConfig(**{name: getattr(self, name) for name in SamplingConfig.model_fields})


def sample(config: SampleConfig) -> Path:
    """Write one `CandidateSet` for every query with readable images. Returns the output folder."""
    if not is_finished(config.out_dir):
        require_folder(config.image_folder, "image_folder")
    if config.checkpoint:
        config = config.model_copy(
            update={"checkpoint": local_model(config.checkpoint, "checkpoint")}
        ).with_resolved_auto()
    answering = {"checkpoint": config.checkpoint} if config.checkpoint else {}
    answering |= {"context": config.context.path} if config.context else {}
    with closing(SampleBlock(config)) as process:
        return run_stage(
            Stage(
                step="sample",
                out_dir=config.out_dir,
                source=rows_of(config),
                process=process,
                inputs={**answering, "input": config.input},
                status=process.status,
            ),
            config,
            StageOptions.of(config, block_size=config.queries_per_block, backend=backend_of(config.launch)),
        )


def rows_of(config: SampleConfig) -> Source[Query]:
    """The queries of the input."""
    if find_files(config.input).kind == "dataset":
        return FolderSource(config.input, Query)
    return open_users_rows(config.input, QueryParser(config.task))


class SampleBlock:
    """The process of the stage: turns each query into a candidate set or a drop. Loads the model on first use."""

    def __init__(self, config: SampleConfig) -> None:
        self.config = config
        self._engine: Engine | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A worker process loads its own model, but a checkpoint of 15 GB is digested once for all.
        return {"config": self.config, "_engine": None, "source": self.source}

    @cached_property
    def source(self) -> str:
        """What candidates say about the model that wrote them: the digest of its checkpoint, or its endpoint's name."""
        if self.config.endpoint is not None:
            return f"openai:{self.config.endpoint.model}"
        assert self.config.checkpoint is not None
        return digest_path(self.config.checkpoint)

    def __call__(self, queries: Sequence[Query]) -> list[Outcome]:
        pictures: dict[str, Picture] = {}  # rows about the same image share it, unless each row corrupts its own copy
        jobs = [self.job(query, {} if self.config.corruptions else pictures) for query in queries]
        closer = [
            [] if isinstance(job, Dropped) else self._closer(query, job)
            for query, job in zip(queries, jobs, strict=True)
        ]
        asked = [job for job in jobs if isinstance(job, Job)] + [look for looks in closer for _, look in looks]
        answers = dict(zip(map(id, asked), self.engine.run(asked), strict=True))
        return [
            job
            if isinstance(job, Dropped)
            else self._outcome(query, answers[id(job)], [(share, answers[id(look)]) for share, look in looks])
            for query, job, looks in zip(queries, jobs, closer, strict=True)
        ]

    @cached_property
    def images(self) -> ImageFolder:
        """The images of the rows: a folder or a .tar."""
        return ImageFolder(self.config.image_folder, self.config.image_roots, cache=cache_folder())

    @cached_property
    def contexts(self) -> Mapping[str, str]:
        """The context of each image, by its name."""
        return read_contexts(self.config.context.path) if self.config.context else {}

    @property
    def engine(self) -> Engine:
        """The loaded model, ready to answer."""
        if self._engine is None:
            self._engine = self._load()
        return self._engine

    def _load(self) -> Engine:
        config = self.config
        if config.endpoint is not None:
            from sicog.generation.engines.openai import ServedModel

            answers = config.endpoint.answers or config.out_dir / ANSWERS
            return ServedModel(config.endpoint, config.sampling_config(), answers, max_side=config.max_side)
        assert config.checkpoint is not None
        return load_engine(
            config.checkpoint,
            config.sampling_config(),
            beams=config.beams,
            slicing=config.slicing,
            device=config.device,
            precision=config.precision,
        )

    def status(self) -> str:
        """The engine's report on its speed; empty before it is loaded, or if other processes do the work."""
        return self._engine.status() if self._engine else ""

    def close(self) -> None:
        """Close the engine, if one was needed."""
        if self._engine is not None:
            self._engine.close()

    def job(self, query: Query, pictures: dict[str, Picture]) -> Job | Dropped:
        """The job of a query, or the reason why there is none. pictures: those of other rows, by name."""
        config = self.config
        if query.task != config.task:
            raise ValueError(f"query {query.id} of {config.input} is for {query.task}, but task is {config.task}")
        drop = partial(Dropped, id=query.id, step="sample")
        context = self.contexts.get(query.images[0], "") if query.images else ""
        requests = [_request(query, wanted, TASKS[config.task], context) for wanted in config.wanted_styles]
        if None in requests:
            return drop(reason="no_question", detail="a style needs a question, but the row has none")
        if config.closer and len(query.images) != 1:
            return drop(reason="not_one_image", detail=f"closer needs one image; the row has {len(query.images)}")
        try:
            blind = context and config.context and not config.context.show_images
            images = [] if blind else [self._picture(query, number, pictures) for number in range(len(query.images))]
            job = Job(query.id, images, [request for request in requests if request])
            self.engine.check(job)
        except ImageProblem as error:
            return drop(reason=error.reason, detail=str(error))
        except LongPromptError as error:
            return drop(reason="prompt_too_long", detail=str(error))
        except ValueError as error:  # from the plan: an image of an unusable size
            return drop(reason="view_too_large", detail=str(error))
        return job

    def _closer(self, query: Query, job: Job) -> list[tuple[Share, Job]]:
        """A job for each window of the image, with the window's box in shares of the image."""
        closer = self.config.closer
        if closer is None:
            return []
        (picture,), task = job.images, TASKS[self.config.task]
        requests = [r for wanted in closer.styles if (r := _request(query, wanted, task))]
        looks = []
        for number, box in enumerate(windows(picture.size, closer)):
            window = Picture(window_size(picture.size, box, closer), partial(_read_window, picture, box, closer))
            looks.append((shares(box, picture.size), Job(f"{job.id}@{number}", [window], requests)))
        return looks

    def _picture(self, query: Query, number: int, pictures: dict[str, Picture]) -> Picture:
        """The picture of an image of this row. Raises `ImageProblem` if its file or header is damaged."""
        name = query.images[number]
        if name not in pictures:
            found = self.images.find(name)
            try:
                size = image_size(open_image_source(found))
            except ValueError as error:
                raise ImageProblem("image_broken", str(error)) from error
            corruption = self._corruptions(query)[number] if self.config.corruptions else None
            if corruption and turns(corruption):
                size = (size[1], size[0])
            pictures[name] = Picture(size, partial(_read, found, corruption))
        return pictures[name]

    def _corruptions(self, query: Query) -> tuple[Corruption, ...]:
        """The corruptions of this row's images, in order; empty if the config has no methods."""
        config = self.config
        if not config.corruptions:
            return ()
        names = [f"{query.id}/{n}" for n in range(len(query.images))]
        return tuple(draw_corruption(config.corruptions, config.seed, name) for name in names)

    def _outcome(self, query: Query, answer: Answer, looks: Sequence[tuple[Share, Answer]]) -> Outcome:
        samples: list[tuple[Share | None, Sample]] = []
        for share, given in [(None, answer), *looks]:
            if isinstance(given, Unanswered):
                return Failed(id=query.id, step="sample", reason=given.reason, detail=str(given))
            if isinstance(given, ValueError):
                return Dropped(id=query.id, step="sample", reason="image_broken", detail=str(given))
            samples += [(share, sample) for sample in given]
        return [self._candidate_set(query, samples)]

    def _candidate_set(self, query: Query, samples: Sequence[tuple[Share | None, Sample]]) -> CandidateSet:
        corruptions = self._corruptions(query)
        candidates = tuple(
            Candidate(
                query_id=query.id,
                style=s.style,
                prompt=s.prompt,
                index=s.index,
                seed=self.config.seed,
                text=s.text,
                finish_reason=s.finish_reason,
                n_tokens=s.n_tokens,
                checkpoint=self.source,
                corruptions=corruptions,
                window=share,
            )
            for share, s in samples
        )
        return CandidateSet(id=query.id, query=query, candidates=candidates)


def _read(found: Readable, corruption: Corruption | None) -> Image.Image:
    """The decoded image, with its corruption if there is one."""
    image = load_image(open_image_source(found))
    return apply(image, corruption) if corruption else image


def _read_window(picture: Picture, box: Box, closer: CloserConfig) -> Image.Image:
    return window_image(picture.read(), box, closer)


def _request(query: Query, wanted: StyleCount, task: TaskSpec, context: str = "") -> Request | None:
    """The request; None if the style needs a question and the row has none."""
    style = task.style(wanted.style)
    if wanted.prompt is not None:
        style = replace(style, template=wanted.prompt)
    if "{question}" in style.template and not bare_question(query.question):
        return None
    asking = replace(task, styles={style.name: style})
    return Request(style.name, asking.prompt(query, style.name), wanted.n, context)
