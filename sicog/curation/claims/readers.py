"""Readers: extract the claims of a candidate's text, and find which other candidates state them.

The config names the reader. `sentences` reads any text and compares with an encoder or an NLI model. `answer` takes the
normalised final answer. `grammar` parses texts of a world with a known grammar. `endpoint` asks a served model
(`sicog.curation.claims.served_reader`).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sicog.answers import final_answer
from sicog.curation.claims.sentences import remove_sentences, sentences
from sicog.curation.claims.support import stated_by_key
from sicog.curation.vectors.vector_cache import Embedding
from sicog.records import Claim, Query

Window = tuple[float, float, float, float]


@dataclass(frozen=True)
class Stated:
    """One claim of a text. Claims with equal kind and key are the same; start, end: its characters in the text."""

    key: str
    kind: str
    start: int
    end: int


@dataclass(frozen=True)
class Texts:
    """Texts of one set: the query, K complete texts, the compared part of each, and the window of each.

    A window is (left, top, right, bottom) in shares of the image, None for the whole image.
    """

    query: Query
    texts: tuple[str, ...]
    compared: tuple[str, ...]
    windows: tuple[Window | None, ...]


@dataclass(frozen=True)
class ReadSet:
    """The claims of each of the K texts. stated: bool [C, K], whether text k states claim c, all claims in order."""

    claims: tuple[tuple[Stated, ...], ...]
    stated: NDArray[np.bool_]

    @property
    def owner(self) -> NDArray[np.int64]:
        """Return the text that each claim was read from."""
        return np.repeat(np.arange(len(self.claims)), [len(own) for own in self.claims])


class UnreadableError(ValueError):
    """One set is unreadable; other sets are not affected."""


class Reader(Protocol):
    """Reads a block of sets at once; the result of a set depends on that set alone."""

    @property
    def description(self) -> str:
        """Return a text that identifies the reader. Do not compare supports of different descriptions."""

    def read(self, block: Sequence[Texts]) -> Sequence[ReadSet | UnreadableError]:
        """Return the claims of each set, or the error of an unreadable set."""


@runtime_checkable
class Grammar(Protocol):
    """Reads and writes the texts of one world."""

    name: str

    def read(self, text: str, window: Window | None) -> Sequence[Stated]:
        """Return the claims of a text, each key once. Claims about a window get the window's position."""

    def write(self, claims: Sequence[tuple[Claim, float]]) -> str | None:
        """Return one text that states these claims, None when there is none. Of contrary claims the stronger wins."""


def load_grammar(name: str) -> Grammar:
    """Load the grammar `module:NAME`. Raises `ValueError` when there is none."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"grammar: {name!r} cannot be loaded ({error}). Give it as module:NAME") from None
    if not isinstance(found, Grammar):
        raise ValueError(
            f"grammar: {name!r} is a {type(found).__name__} without read, write and name. Name a grammar object"
        )
    return found


@dataclass(frozen=True)
class AnswerReader:
    """One claim per text: its normalised final answer."""

    description: str = "answers"

    def read(self, block: Sequence[Texts]) -> list[ReadSet]:
        """The claims of each set."""
        return [self._one(row) for row in block]

    def _one(self, row: Texts) -> ReadSet:
        claims = []
        for text, compared in zip(row.texts, row.compared, strict=True):
            start = max(0, text.rfind(compared))
            answer = final_answer(compared, row.query.question)
            claims.append((Stated(answer, "answer", start, start + len(compared)),) if answer else ())
        return _by_key(claims)


@dataclass(frozen=True)
class GrammarReader:
    """Reads texts with a grammar. A text on which the grammar raises `ValueError` makes its set unreadable."""

    name: str

    @property
    def grammar(self) -> Grammar:
        """Load the grammar by name, so that the reader can be pickled."""
        return load_grammar(self.name)

    @property
    def description(self) -> str:
        """The grammar's own name."""
        return f"grammar {self.grammar.name}"

    def read(self, block: Sequence[Texts]) -> list[ReadSet | UnreadableError]:
        """The claims of each set."""
        grammar = self.grammar
        return [self._one(grammar, row) for row in block]

    def _one(self, grammar: Grammar, row: Texts) -> ReadSet | UnreadableError:
        try:
            return _by_key([tuple(grammar.read(text, at)) for text, at in zip(row.texts, row.windows, strict=True)])
        except ValueError as error:
            return UnreadableError(f"grammar {grammar.name}: {error}")


class Entailment(Protocol):
    """Judges whether a text entails a sentence."""

    @property
    def description(self) -> str:
        """Return the name of the model."""

    def entails(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """Return the probability in [0, 1] that each text entails its sentence, float64 [N]."""


@dataclass(frozen=True)
class SentenceReader:
    """Every sentence is a claim.

    Another text states it when one of its sentences has a cosine of at least `threshold` (`embedder`), or when the text
    entails it with at least that probability (`nli`).
    """

    threshold: float
    embedder: Embedding | None = None
    nli: Entailment | None = None

    @property
    def description(self) -> str:
        """Model and threshold."""
        model = self.embedder or self.nli
        assert model is not None
        return f"sentences by {model.description} at {self.threshold:g}"

    def read(self, block: Sequence[Texts]) -> list[ReadSet]:
        """Return the claims of each set. Embeds all sentences of the block, or judges all pairs, together."""
        claims = [[_sentences(text) for text in row.texts] for row in block]
        if self.embedder is not None:
            flat = [claim.key for row in claims for own in row for claim in own]
            vectors = iter(np.split(self.embedder.embed(flat), np.cumsum([sum(map(len, row)) for row in claims])[:-1]))
            return [ReadSet(tuple(row), _similar_sentences(row, next(vectors), self.threshold)) for row in claims]
        assert self.nli is not None
        pairs = [
            (text, c.key)
            for texts, row in zip(block, claims, strict=True)
            for own in row
            for c in own
            for text in texts.texts
        ]
        judged, found, start = self.nli.entails(pairs), [], 0
        for texts, row in zip(block, claims, strict=True):
            owner = np.repeat(np.arange(len(row)), [len(own) for own in row])
            k = len(texts.texts)
            stated = judged[start : start + len(owner) * k].reshape(len(owner), k) >= self.threshold
            stated[np.arange(len(owner)), owner] = True
            found.append(ReadSet(tuple(row), stated))
            start += len(owner) * k
        return found


def _sentences(text: str) -> tuple[Stated, ...]:
    return tuple(Stated(text[a:b], "sentence", a, b) for a, b in sentences(text))


def _similar_sentences(
    row: Sequence[Sequence[Stated]], vectors_CD: NDArray[np.float32], threshold: float
) -> NDArray[np.bool_]:
    owner_C = np.repeat(np.arange(len(row)), [len(own) for own in row])
    near_CC = vectors_CD.astype(np.float64) @ vectors_CD.T.astype(np.float64) >= threshold - 1e-6
    stated_CK = np.zeros((len(owner_C), len(row)), dtype=bool)
    for k in range(len(row)):
        stated_CK[:, k] = near_CC[:, owner_C == k].any(1)
    stated_CK[np.arange(len(owner_C)), owner_C] = True
    return stated_CK


def _by_key(claims: Sequence[tuple[Stated, ...]]) -> ReadSet:
    _, stated_CK = stated_by_key([[f"{c.kind}\x1f{c.key}" for c in own] for own in claims])
    return ReadSet(tuple(claims), stated_CK)


def prune_text(text: str, claims: Sequence[Claim], keeps: Sequence[bool]) -> str:
    """Return the text without the sentences whose claim is not kept."""
    removed = [(c.start, c.end) for c, keep in zip(claims, keeps, strict=True) if not keep]
    return remove_sentences(text, removed)
