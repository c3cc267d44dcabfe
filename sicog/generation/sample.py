"""Step 2, `sicog sample`: sample candidates for unlabelled images and questions, in several styles per query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from PIL import Image

from sicog.data.image_folder import ImageFolder, Readable, open_image_source
from sicog.data.images import ImageProblem, require_folder
from sicog.data.rows.cache import cache_folder
from sicog.data.rows.file_kinds import find_files
from sicog.data.rows.users_rows import open_users_rows
from sicog.formats import QueryParser
from sicog.generation.closer import Box, CloserConfig, Share, StyleCount, shares, window_image, window_size, windows
from sicog.generation.config import SampleConfig
from sicog.generation.context import read_contexts
from sicog.generation.corruption import apply, draw_corruption, turns
from sicog.generation.engines.engine import Engine, load_engine
from sicog.generation.sampling import Job, LongPromptError, Picture, Request, Sample, Unanswered
from sicog.model.hub import local_model
from sicog.model.image_files import image_size, load_image
from sicog.records import Candidate, CandidateSet, Corruption, Dropped, Failed, Query
from sicog.stages.backends import backend_of
from sicog.stages.config import StageOptions
from sicog.stages.provenance import digest_path
from sicog.stages.reader import FolderSource, Source
from sicog.stages.runner import Stage, run_stage
from sicog.stages.shard import Outcome
from sicog.stages.storage import is_finished
from sicog.tasks import TASKS, TaskSpec, bare_question

Answer = list[Sample] | ValueError | Unanswered
ANSWERS = ".answers"  # answers of a served model, beside the output


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
