"""Judge whether a text entails a sentence, with an NLI cross-encoder of sentence-transformers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sicog.model.hub import local_model

_BATCH = 64


@dataclass(frozen=True)
class CrossEncoderNli:
    """An NLI model: a local folder, or the name of a model in the local cache. Workers load the weights themselves."""

    name: str

    @property
    def description(self) -> str:
        """The model."""
        return f"NLI {self.name}"

    def entails(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """Return the probability in [0, 1] that each text entails its sentence, float64 [N].

        Raises `ValueError` when the model has no label `entailment`.
        """
        distinct = list(dict.fromkeys(pairs))
        if not distinct:
            return np.zeros(0)
        model, label = _load(self.name)
        logits_NL = np.asarray(model.predict(distinct, batch_size=_BATCH, show_progress_bar=False), dtype=np.float64)
        shifted = np.exp(logits_NL - logits_NL.max(1, keepdims=True))
        found = dict(zip(distinct, (shifted / shifted.sum(1, keepdims=True))[:, label].tolist(), strict=True))
        return np.array([found[pair] for pair in pairs])


@functools.lru_cache(maxsize=1)
def _load(name: str) -> tuple[Any, int]:
    import torch
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(local_model(Path(name), "nli")), activation_fn=torch.nn.Identity())  # logits
    labels = {str(label).lower(): int(i) for i, label in model.config.id2label.items()}
    if "entailment" not in labels:
        raise ValueError(f"nli: {name} has no label `entailment`, only {', '.join(labels)}. Use another NLI model")
    return model, labels["entailment"]
