"""Compute the reference log-probabilities of preference pairs once, in a data step before training.

The reference model runs over all pairs and is released before the trained model is loaded. Its results are stored with
the pairs. So training holds one model, and a resumed run does not compute them again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sicog.config import Config
from sicog.data.config import DataConfig
from sicog.data.images import ImageProblem
from sicog.data.preferences import PairSource
from sicog.data.rows.cache import cache_folder
from sicog.model.precision import Precision, chosen_device
from sicog.records import Dropped, PreferencePair, ReferencedPair
from sicog.stages.config import StageOptions
from sicog.stages.runner import Stage, run_stage
from sicog.stages.shard import Outcome
from sicog.training.config import ModelSource, TrainConfig
from sicog.training.load import load_model, weights_of

if TYPE_CHECKING:
    from sicog.data.image_folder import ImageFolder
    from sicog.model.processing import Encoded, SicogProcessor

STEP = "reference"
_BLOCK = 16  # pairs in memory together; an interruption loses at most so many
_SHARD = 256  # pairs that one process takes at once
_IGNORED = -100


class ReferenceConfig(Config):
    """The values that decide the reference log-probabilities, in addition to the inputs' content."""

    volatile: ClassVar[frozenset[str]] = frozenset()
    added: ClassVar[frozenset[str]] = frozenset({"weights"})
    model: ModelSource
    reference: Path | None
    data: DataConfig
    slicing: bool
    max_length: int
    device_batch: int
    precision: Precision
    seed: int
    weights: Literal["float32", "bfloat16"] = "float32"
    """As the trained model keeps its own, so that both begin with the same log-probabilities."""


def reference_log_probs(config: TrainConfig) -> tuple[Path, int]:
    """Write the dataset `run_dir/reference` of `ReferencedPair`. Returns it and the number of rows left out by `take`.

    Under torchrun every process computes its share of the pairs. Drop reasons: `image_refused`, `image_missing`,
    `image_broken`, `unusable` (the processor refuses it), `too_long`, and those of reading.
    """
    settings = ReferenceConfig(
        reference=config.dpo.reference,
        weights=weights_of(config),
        **{name: getattr(config, name) for name in _shared_fields()},
    )
    pairs = PairSource(config.data.chosen_sources(), config.seed)
    process = ReferenceBlock(settings)
    folder = run_stage(
        Stage(
            step=STEP,
            out_dir=config.out_dir / STEP,
            source=pairs,
            process=process,
            inputs=config.inputs(),
        ),
        settings,
        StageOptions(
            block_size=_BLOCK,
            rows_per_shard=_SHARD,
            max_dropped_share=config.data.max_dropped_share,
            share=(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))),
        ),
    )
    process.release()
    return folder, pairs.left


class ReferenceBlock:
    """The process of the stage: adds two log-probabilities to each pair. Loads the model on first use."""

    def __init__(self, config: ReferenceConfig) -> None:
        self.config = config
        self._loaded: tuple[Any, SicogProcessor, ImageFolder] | None = None

    def __call__(self, block: Sequence[PreferencePair]) -> list[Outcome]:
        encoded = [self._encode(pair) for pair in block]
        documents = [document for pair in encoded if not isinstance(pair, Dropped) for document in pair]
        log_probs = iter(self._log_probs(documents))
        return [
            two if isinstance(two, Dropped) else (_referenced_pair(pair, two, next(log_probs), next(log_probs)),)
            for pair, two in zip(block, encoded, strict=True)
        ]

    def release(self) -> None:
        """Free the model's memory."""
        import torch

        if self._loaded is not None:
            self._loaded = None
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _encode(self, pair: PreferencePair) -> tuple[Encoded, Encoded] | Dropped:
        from sicog.data.pairs import encode_pair

        _, processor, images = self._tools()
        try:
            both = encode_pair(pair, processor, images, slicing=self.config.slicing)
        except ImageProblem as problem:
            return Dropped(id=pair.id, step=STEP, reason=problem.reason, detail=str(problem))
        except ValueError as error:
            return Dropped(id=pair.id, step=STEP, reason="unusable", detail=str(error))
        if (longest := max(len(encoded.input_ids) for encoded in both)) > self.config.max_length:
            detail = f"{longest} tokens > {self.config.max_length}"
            return Dropped(id=pair.id, step=STEP, reason="too_long", detail=detail)
        return both

    def _log_probs(self, documents: Sequence[Encoded]) -> list[float]:
        """The log-probability of each answer. Documents of similar length run together."""
        import torch

        model, processor, _ = self._tools()
        order = sorted(range(len(documents)), key=lambda i: len(documents[i].input_ids))
        found = [0.0] * len(documents)
        size = 2 * self.config.device_batch
        for batch in (order[start : start + size] for start in range(0, len(order), size)):
            inputs = processor.collate([documents[i] for i in batch])
            inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
            half = self.config.precision == "bfloat16"
            with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=half):
                values = model(**inputs, wants_log_probs=True).document_log_probs
            for i, value in zip(batch, values.tolist(), strict=True):
                found[i] = value
        return found

    def _tools(self) -> tuple[Any, SicogProcessor, ImageFolder]:
        if self._loaded is None:
            from sicog.data.image_folder import ImageFolder

            config = self.config
            model, processor = load_model(config.model, config.weights)
            if config.reference is not None:
                model, own = load_model(ModelSource(checkpoint=config.reference), config.weights)
                _check_same_words(processor, own, config.reference)
            data = config.data
            images = ImageFolder(data.image_folder, data.image_roots, cache=cache_folder(data.cache_dir))
            self._loaded = model.eval().to(_device()), processor, images
        return self._loaded


def _referenced_pair(
    pair: PreferencePair, both: tuple[Encoded, Encoded], chosen: float, rejected: float
) -> ReferencedPair:
    # The first position is never a target, because no position before it could predict it.
    supervised = [sum(label != _IGNORED for label in encoded.labels[1:]) for encoded in both]
    return ReferencedPair(
        id=pair.id,
        pair=pair,
        n_tokens=sum(len(encoded.input_ids) for encoded in both),
        n_supervised=sum(supervised),
        n_chosen_supervised=supervised[0],
        n_views=sum(len(encoded.view_sizes) for encoded in both),
        n_patches=sum(int(encoded.view_sizes.prod(axis=1).sum()) for encoded in both),
        chosen_log_prob=chosen,
        rejected_log_prob=rejected,
    )


def _check_same_words(processor: SicogProcessor, other: SicogProcessor, path: Path) -> None:
    """Raise `ValueError` if the same ids would mean other words or features."""
    same = processor.tokenizer.get_vocab() == other.tokenizer.get_vocab()
    if not same or processor.query_grid != other.query_grid:
        raise ValueError(f"dpo.reference {path} has another vocabulary or query grid than the model to train")


def _device() -> str:
    device = chosen_device()
    return f"{device}:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device


def _shared_fields() -> list[str]:
    return [name for name in ReferenceConfig.model_fields if name not in ("reference", "weights")]
