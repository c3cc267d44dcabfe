"""Run a local encoder with sentence-transformers."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sicog.curation.vectors.encoders import EncoderConfig, Settings
from sicog.curation.vectors.find_encoder import encoder_folder
from sicog.curation.vectors.vector_cache import Encoded
from sicog.model.precision import chosen_device
from sicog.stages.provenance import digest_file, digest_value


class LocalEncoder:
    """The encoder of a config. It is pickled without weights; each process loads them at first use."""

    def __init__(self, config: EncoderConfig) -> None:
        self.config, self.settings = config, config.settings()
        self.folder = encoder_folder(config.name, config.revision)
        self.digest = _files_digest(self.folder)

    @property
    def description(self) -> str:
        """Return name, digest of the files and settings. Do not compare scores of different descriptions."""
        return ", ".join(filter(None, (f"{self.config.name}@{self.digest[:12]}", self.settings.summary())))

    @property
    def key(self) -> str:
        """Return a digest of files and settings."""
        return digest_value([self.config.kind, self.digest, self.settings.identity()])[:32]

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Return the raw vectors, float32 [N, D]. Batches fill a token budget, longest texts first."""
        if not texts:
            return Encoded(np.zeros((0, 0), dtype=np.float32), np.zeros(0, dtype=np.bool_))
        model = _load(self.folder, self.config)
        whole = [f"{self.settings.prefix}{text}{self.settings.suffix}" for text in texts]
        lengths, limit = [len(ids) for ids in model.tokenizer(whole, verbose=False)["input_ids"]], model.max_seq_length
        kept = [min(n, limit) for n in lengths] if limit else lengths
        more = {"task": self.settings.task} if self.settings.task else {}
        vectors: list[Any] = [None] * len(texts)
        for batch in token_budget_batches(kept, self.config.tokens_per_batch):
            encoded = model.encode(
                [whole[i] for i in batch],
                prompt="",  # else the encoder's files may set one
                batch_size=len(batch),
                convert_to_numpy=True,
                show_progress_bar=False,
                **more,
            )
            for i, vector in zip(batch, encoded, strict=True):
                vectors[i] = vector
        return Encoded(
            np.stack(vectors).astype(np.float32), np.array([n > k for n, k in zip(lengths, kept, strict=True)])
        )

    def close(self) -> None:
        """Do nothing: the weights stay for the next stage of this process."""


def token_budget_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield batches of indices, longest first; rows x longest row stays within the budget (except for single rows)."""
    batch: list[int] = []
    longest = 0
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch and (len(batch) + 1) * longest > budget:
            yield batch
            batch = []
        if not batch:
            longest = lengths[i]
        batch.append(i)
    if batch:
        yield batch


def _files_digest(folder: Path) -> str:
    """Return a digest of all files, including the pooling config in sub-folders."""
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    named = {str(p.relative_to(folder)): p for p in paths if not p.relative_to(folder).parts[0].startswith(".")}
    return digest_value({name: digest_file(path) for name, path in named.items()})


@functools.lru_cache(maxsize=1)
def _load(folder: Path, config: EncoderConfig) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ValueError(
            "sentence-transformers is not installed, but scoring needs it. Run pip install sentence-transformers"
        ) from error
    settings: Settings = config.settings()
    try:
        model = SentenceTransformer(
            str(folder),
            trust_remote_code=config.trust_remote_code,
            device=chosen_device(config.device) if config.device else None,
            local_files_only=True,
            model_kwargs={"dtype": settings.dtype},
        )
    except (ValueError, OSError, KeyError, ImportError) as error:
        raise ValueError(
            f"encoder.name: {config.name} cannot be loaded: {error}. Serve the encoder elsewhere (kind: endpoint), "
            f"or give its vectors (kind: file)"
        ) from error
    if settings.max_tokens:
        own = model.max_seq_length
        model.max_seq_length = min(settings.max_tokens, own) if own else settings.max_tokens
    if settings.padding_side:
        model.tokenizer.padding_side = settings.padding_side
    return model.eval()
