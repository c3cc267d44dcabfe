"""`sicog train`: train one stage from its config. A stopped run resumes from its last complete checkpoint."""

from __future__ import annotations

import copy
import gc
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sicog.console import say, say_finished
from sicog.data.batching import RunPlan
from sicog.data.images import require_folder
from sicog.data.mixture import read_mixture
from sicog.data.rows.cache import cache_folder
from sicog.data.rows.file_kinds import unreadable_message
from sicog.stages.provenance import digest_file, write_run_json
from sicog.stages.storage import MANIFEST, file_lock, is_finished, make_readable, read_json, write_json, write_records
from sicog.stages.threads import cores, share_cores, use_threads
from sicog.training import run_checkpoints
from sicog.training.config import TrainConfig
from sicog.training.load import load_model, weights_of
from sicog.training.parallel import sharding
from sicog.training.summary import batch_line, print_summary
from sicog.training.time_limit import nothing_to_save
from sicog.training.updates import plan_updates, remember_plan

if TYPE_CHECKING:
    from sicog.data.dataset import ExampleDataset
    from sicog.data.pairs import PairDataset
    from sicog.model.lengths import RowLengths
    from sicog.model.modeling import SicogForConditionalGeneration
    from sicog.model.processing import SicogProcessor
    from sicog.training.trainer import SicogTrainer

DROPPED = "dropped.jsonl"
PROJECTOR = "projector.safetensors"
_FINAL = ".final"
_LOCK = ".lock"


def train(config: TrainConfig) -> Path:
    """Train one stage and return its folder: the final checkpoint, its metrics, and manifest.json, written last.

    A finished run with the same config and inputs returns at once. The folder of another run is refused.
    """
    _prepare_process()
    with nothing_to_save():  # while nothing else handles signals
        return _train(config)


def _train(config: TrainConfig) -> Path:
    batch = batch_line(config, _world_size())
    if config.data.image_folder is not None and not is_finished(config.out_dir):
        require_folder(config.data.image_folder, "data.image_folder")
    if not is_finished(config.out_dir):  # before all else
        of_rows = [problem for path in config.row_paths() for problem in unreadable_message(path)]
        if found := [*of_rows, *config.problems(_world_size())]:
            raise ValueError("; ".join(found))
    config = config.model_copy(update={"model": config.model.with_local_folders()}).with_resolved_auto(_world_size())
    if _is_main():
        from sicog.data.rows.table import digest_source_file

        of_file = partial(digest_source_file, cache=cache_folder(config.data.cache_dir))
        write_run_json(config.out_dir, step="train", config=config, inputs=config.inputs(), of_file=of_file)
    if is_finished(config.out_dir):
        if _is_main():
            say_finished(config.stage, config.out_dir)
        return _tidy(config)
    with file_lock(config.out_dir / _LOCK, config.out_dir, of_forks=False) if _is_main() else nullcontext():
        return _carry_out(config, batch)


def _carry_out(config: TrainConfig, batch: str) -> Path:
    """Load, train and save. batch: the line of `batch_line`."""
    from transformers import set_seed
    from transformers.utils import logging

    from sicog.data.pairs import PairDataset
    from sicog.training.callbacks import ExactPositions, MetricsWriter, ProgressBar
    from sicog.training.fitting import with_chosen_level
    from sicog.training.memory_check import MemoryCheck
    from sicog.training.objectives.dpo import DpoObjective
    from sicog.training.objectives.reference import reference_log_probs
    from sicog.training.signals import SaveAndStop, leave
    from sicog.training.speed import Meter, flops_and_peak
    from sicog.training.trainer import SicogTrainer

    logging.disable_progress_bar()  # bars of written files would break ours
    # Before the model, because the reference model may fill the device; it is released again.
    referenced = reference_log_probs(config) if config.objective == "dpo" else None
    set_seed(config.seed)  # before the model, because new parts are initialised with it
    model, processor = _load(config)
    read = load_pairs(config, processor, *referenced) if referenced else load_rows(config, processor)
    plan = plan_updates(config, read.lengths, model.config, _world_size())
    config, fit = with_chosen_level(config, model.config, plan, read.lengths)
    meter = Meter(plan, read.lengths, *flops_and_peak(model.config, config.whole_parts, read.lengths, _world_size()))
    metrics = MetricsWriter(config.out_dir, plan, len(read.dataset), meter, tensorboard=config.tensorboard)
    bar = ProgressBar(config.stage, meter)
    objective = DpoObjective(config.dpo, read.dataset, plan) if isinstance(read.dataset, PairDataset) else None
    callbacks = [ExactPositions(), metrics, bar]
    trainer = SicogTrainer(model, processor, read.dataset, plan, config, callbacks, objective)
    stop = SaveAndStop(trainer.times)
    trainer.add_callback(stop)
    if config.check_memory if config.check_memory is not None else trainer.args.device.type == "cuda":
        trainer.add_callback(MemoryCheck(trainer, read.lengths))
    if _is_main():
        remember_plan(config, plan)
        print_summary(model, config, plan, batch, read.lengths, fit)
    try:
        with stop.catch_signals(), _quick_collections():
            _run(trainer, config)
    finally:
        metrics.close()
        bar.close()
    if stop.stopped is not None:
        sharding.leave_together()
        leave(config.stage, stop.stopped, plan.n_steps)
    trainer.stop_unless_weights_are_finite()
    with run_checkpoints.save_or_clean_up(config.out_dir / _FINAL):
        _save_final(trainer, config)
    if _is_main():
        _write_manifest(trainer, config, read)
        updates = f"{plan.n_steps:,} update{'' if plan.n_steps == 1 else 's'}"
        say(f"{config.stage}: finished after {updates}; the model is in {config.out_dir}")
    sharding.leave_together()
    return _tidy(config)


def _load(config: TrainConfig) -> tuple[SicogForConditionalGeneration, SicogProcessor]:
    """The model as this stage trains it: its attention, kernels and adapters, what is trained and what is frozen."""
    from sicog.model.kernels.choice import chosen_attention, compile_blocks, use_attention, use_kernels
    from sicog.training.lora import add_adapters
    from sicog.training.parts import drop_features, set_trainable

    model, processor = sharding.load(config, partial(load_model, weights=weights_of(config)))
    attention = chosen_attention(config.attention, config.precision)
    use_attention(model, language_model=attention, vision_tower=attention)
    use_kernels(model, config.kernels)
    if config.lora:
        add_adapters(model, config.lora, config.precision)
    if config.compile:
        compile_blocks(model)
    set_trainable(model, config.trainable)
    if config.noise.dropout:
        drop_features(model, config.noise.dropout)
    return model, processor


@dataclass(frozen=True)
class RowsRead:
    """Result of loading the data: counts of rows read (`n_in`), dropped and left out, and the dataset of usable rows.

    A row that a weight repeats counts as often as it is used.
    """

    n_in: int
    left_out: int
    dataset: ExampleDataset | PairDataset
    dropped: Counter[str]

    @property
    def lengths(self) -> RowLengths:
        """The lengths of the rows, known before the model runs."""
        return self.dataset.lengths


def _for_loading(processor: SicogProcessor, *, on_gpu: bool | None = None) -> SicogProcessor:
    """On a GPU a copy that leaves normalising to the model, with the same values: a quarter of the bytes to move.

    The processor that is saved with the model keeps its own setting.
    """
    import torch

    if not (torch.cuda.is_available() if on_gpu is None else on_gpu):
        return processor
    quick = copy.copy(processor)
    quick.image_processor = copy.copy(processor.image_processor)
    quick.image_processor.normalize_on = "device"
    return quick


def load_rows(config: TrainConfig, processor: SicogProcessor) -> RowsRead:
    """Load the training rows, and count the dropped ones, which are also written to dropped.jsonl.

    Raises `ValueError` if more than `data.max_dropped_share` of the rows cannot be used.
    """
    from sicog.data.dataset import ExampleDataset
    from sicog.data.image_folder import ImageFolder
    from sicog.data.measure import TokenMeasure
    from sicog.data.mixture_rows import measure_mixture
    from sicog.data.noise import RowNoise

    data, cache = config.data, cache_folder(config.data.cache_dir)
    mixture = read_mixture(data.chosen_sources(), config.seed, cache)
    images = ImageFolder(data.image_folder, data.image_roots, check=data.check_images, cache=cache)
    measure = TokenMeasure(processor, config.slicing)
    usable = measure_mixture(mixture, measure, images, max_length=config.max_length, cache=cache)
    dataset = ExampleDataset(
        mixture.tables,
        usable.selection,
        usable.lengths,
        _for_loading(processor),
        images,
        slicing=config.slicing,
        cache=cache,
        noise=RowNoise(config.noise, config.seed) if config.noise.changes_images else None,
    )
    n_rows = len(mixture.selection) + mixture.n_dropped
    dropped = Counter(row.reason for row in usable.dropped_rows())
    if _is_main():
        write_records(config.out_dir / DROPPED, usable.dropped_rows())
    if n_rows != len(dataset) + dropped.total():
        raise AssertionError(f"{n_rows} rows were read, but {len(dataset)} are usable and {dropped.total()} dropped")
    reasons = ", ".join(f"{reason} {n}" for reason, n in dropped.most_common())
    if dropped.total() > max(1.0, data.max_dropped_share * n_rows):
        first = next(usable.dropped_rows())
        raise ValueError(
            f"{dropped.total()} of {n_rows} rows cannot be used ({reasons}; such as {first.id}: {first.detail}). "
            f"All are listed in {config.out_dir / DROPPED}. Correct the data, or allow more with data.max_dropped_share"
        )
    if not len(dataset):
        raise ValueError(f"no row to train on: {n_rows} rows were read ({reasons or 'the data is empty'})")
    if _is_main():
        drops = f", {dropped.total()} dropped ({reasons})" if dropped else ""
        left = f", {mixture.left} left out by take or weight" if mixture.left else ""
        say(f"{config.stage}: {len(dataset)} rows{drops}{left}")
    return RowsRead(n_rows, mixture.left, dataset, dropped)


def load_pairs(config: TrainConfig, processor: SicogProcessor, folder: Path, left_out: int) -> RowsRead:
    """Load the pairs in the folder of `reference_log_probs`. Raises `ValueError` if there are none."""
    from sicog.data.image_folder import ImageFolder
    from sicog.data.pairs import PairDataset

    images = ImageFolder(config.data.image_folder, config.data.image_roots, cache=cache_folder(config.data.cache_dir))
    dataset = PairDataset(folder, _for_loading(processor), images, slicing=config.slicing)
    manifest = read_json(folder / MANIFEST)
    if not len(dataset):
        raise ValueError(f"no pair to train on: {manifest['rows_in']} were read; {folder / DROPPED} says what is wrong")
    return RowsRead(manifest["rows_in"], left_out, dataset, Counter(manifest["dropped"]))


def _run(trainer: SicogTrainer, config: TrainConfig) -> None:
    """Train from the newest complete checkpoint, or from the start."""
    resume = run_checkpoints.newest_complete(config.out_dir)
    if resume is not None:
        run_checkpoints.check_processes(resume, _world_size())
        if run_checkpoints.is_universal(resume):
            sharding.load_universal(trainer.args)
    trainer.accelerator.wait_for_everyone()  # all ranks have checked before the main one removes anything
    if _is_main():
        run_checkpoints.remove_incomplete(config.out_dir)
        if resume is not None:
            say(f"{config.stage}: resuming from {resume.name}")
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)


def _save_final(trainer: SicogTrainer, config: TrainConfig) -> None:
    """Save model and processor in a temporary folder of the run; they move to its top when complete."""
    folder = config.out_dir / _FINAL
    if _is_main():
        shutil.rmtree(folder, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    trainer.save_model(str(folder))
    if not _is_main():
        return
    (folder / "training_args.bin").unlink(missing_ok=True)  # an unused pickle
    trainer.processor.save_pretrained(folder)
    if config.stage == "align":
        save_projector(folder)


def save_projector(folder: Path) -> None:
    """Also save the projector of the checkpoint in this folder in a separate file."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    weights: dict[str, Any] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            weights |= {name: tensors.get_tensor(name) for name in tensors.keys() if name.startswith("resampler.")}  # noqa: SIM118
    save_file(weights, folder / PROJECTOR)


def _write_manifest(trainer: SicogTrainer, config: TrainConfig, read: RowsRead) -> None:
    """Move the final files to the top of the run, then write the manifest with their digests and inputs."""
    plan: RunPlan = trainer.plan
    final = config.out_dir / _FINAL
    paths = sorted(path for path in final.rglob("*") if path.is_file())
    files = {path.relative_to(final).as_posix(): digest_file(path) for path in paths}
    make_readable(final)
    for name in files:
        (config.out_dir / name).parent.mkdir(exist_ok=True)
        (final / name).replace(config.out_dir / name)
    shutil.rmtree(final)
    losses: list[Any] = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    manifest = {
        "step": "train",
        "stage": config.stage,
        "rows_in": read.n_in,
        "rows_out": len(read.dataset),
        "dropped": dict(sorted(read.dropped.items())),
        "failed": {},
        "left_out": read.left_out,
        "steps": plan.n_steps,
        "samples": len(plan.rows),
        "final_loss": losses[-1],
        "files": files,
    }
    write_json(config.out_dir / MANIFEST, manifest)


def _tidy(config: TrainConfig) -> Path:
    if _is_main() and not config.keep_checkpoints:
        run_checkpoints.keep_newest(config.out_dir, 0, config.keep_every)
    return config.out_dir


@contextmanager
def _quick_collections() -> Iterator[None]:
    """Leave what exists now out of Python's garbage collections, so that updates do not pause for the libraries."""
    if gc.get_freeze_count():  # the caller has done so
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _prepare_process() -> None:
    """Share this machine's cores among its ranks, and let CUDA's allocator reuse memory for other shapes."""
    if _world_size() > 1:
        # torchrun says how many ranks this machine has; srun has bound each to the cores of its task.
        here = os.environ.get("LOCAL_WORLD_SIZE")
        share_cores(int(here)) if here else use_threads(cores())
    # Packed rows have a new shape in every update, and each would leave gaps. Torch reads it at its first allocation.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")


def _is_main() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
