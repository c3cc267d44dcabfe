"""Batches of referenced preference pairs: a row is a chosen and a rejected conversation about the same images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from PIL import Image

from sicog.data.image_folder import open_image_source
from sicog.data.images import ImageProblem
from sicog.model.image_processing import load_image
from sicog.model.lengths import RowLengths
from sicog.model.processing import Encoded
from sicog.records import PreferencePair, ReferencedPair
from sicog.stages.storage import shards

if TYPE_CHECKING:
    from sicog.data.image_folder import ImageFolder
    from sicog.model.processing import SicogProcessor

_LENGTHS = ("n_tokens", "n_supervised", "n_views", "n_patches")


@dataclass(frozen=True)
class EncodedAnswer(Encoded):
    """A conversation as model inputs, and its answer's log-probability under the reference model."""

    reference_log_prob: float


def encode_pair(
    pair: PreferencePair, processor: SicogProcessor, images: ImageFolder, *, slicing: bool
) -> tuple[Encoded, Encoded]:
    """The chosen and the rejected conversation; they share one array of patches.

    Raises `ImageProblem` for an image that cannot be used, and `ValueError` where the processor refuses one.
    """
    pictures = [_load(name, images) for name in pair.images]
    chosen = processor.encode(pair.turns(pair.chosen), pictures, slicing=slicing)
    sizes = [picture.size for picture in pictures]
    ids, labels = processor.encode_text(pair.turns(pair.rejected), sizes, slicing=slicing)
    return chosen, replace(chosen, input_ids=ids, labels=labels)


def _load(name: str, images: ImageFolder) -> Image.Image:
    source = open_image_source(images.find(name))
    try:
        return load_image(source)
    except ValueError as error:
        raise ImageProblem("image_broken", str(error)) from error


class PairDataset:
    """Map-style dataset of a folder of `ReferencedPair`: `dataset[i]` is `(id, [chosen, rejected])`, both encoded.

    lengths: of both conversations together. chosen_supervised: int32 [N], supervised tokens of the chosen answer.
    Memory holds only the places and lengths of the rows.
    """

    def __init__(self, folder: Path, processor: SicogProcessor, images: ImageFolder, *, slicing: bool) -> None:
        self.processor = processor
        self.images = images
        self.slicing = slicing
        self._files = shards(folder)
        places, lengths = [], []
        for number, path in enumerate(self._files):
            with path.open("rb") as file:
                offset = 0
                for line in file:
                    row = orjson.loads(line)
                    places.append((number, offset))
                    lengths.append([row[name] for name in (*_LENGTHS, "n_chosen_supervised")])
                    offset += len(line)
        self._places_N2 = np.array(places, dtype=np.int64).reshape(-1, 2)
        lengths_N5 = np.array(lengths, dtype=np.int32).reshape(-1, len(_LENGTHS) + 1)
        self.lengths = RowLengths(*(lengths_N5[:, k].copy() for k in range(len(_LENGTHS))))
        self.chosen_supervised = lengths_N5[:, -1].copy()

    def __len__(self) -> int:
        return len(self._places_N2)

    def __getitem__(self, index: int) -> tuple[str, list[EncodedAnswer]]:
        row = self._row(index)
        try:
            encoded = encode_pair(row.pair, self.processor, self.images, slicing=self.slicing)
        except (ValueError, OSError) as error:
            raise ValueError(
                f"pair {row.id} could be read before training, but not now: {error}. Was the image changed? "
                f"Replace or remove it and run again; training resumes from its last checkpoint"
            ) from error
        if (n := sum(len(e.input_ids) for e in encoded)) != row.n_tokens:
            raise ValueError(
                f"pair {row.id} had {row.n_tokens} tokens when the reference model read it and has {n} now: its image "
                f"has been changed since. Put it back, or start a new run"
            )
        references = (row.chosen_log_prob, row.rejected_log_prob)
        return row.id, [
            EncodedAnswer(**vars(e), reference_log_prob=r) for e, r in zip(encoded, references, strict=True)
        ]

    def ids(self, indices: Iterable[int]) -> list[str]:
        """The ids of these rows."""
        return [self._row(index).id for index in indices]

    def _row(self, index: int) -> ReferencedPair:
        number, offset = self._places_N2[index].tolist()
        with self._files[number].open("rb") as file:
            file.seek(offset)
            return ReferencedPair.model_validate_json(file.readline())


class PairCollator:
    """Batches of pairs by a collator of conversations: chosen, rejected, chosen, rejected and so on.

    Adds `reference_log_probs`: floats (chosen, rejected) for each pair. They are not a tensor, because DeepSpeed would
    round it.
    """

    def __init__(self, collate: Callable[[Sequence[tuple[str, Encoded]]], dict[str, Any]]) -> None:
        self.collate = collate

    def __call__(self, rows: Sequence[tuple[str, Sequence[EncodedAnswer]]]) -> dict[str, Any]:
        batch = self.collate([(row_id, encoded) for row_id, pair in rows for encoded in pair])
        references = [tuple(encoded.reference_log_prob for encoded in pair) for _, pair in rows]
        return {**batch, "ids": [row_id for row_id, _ in rows], "reference_log_probs": references}
