"""Expected score of one answer chosen from K samples: by vote, by minimum Bayes risk, or by the truth (oracle).

A question has n samples in the order of their indices. Figures for K < n are means over subsets of K samples.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from sicog.answers import final_answer


@dataclass(frozen=True)
class QuestionSamples:
    """The samples of one question. answers: None for a truncated or unparsable sample; scores: correctness of each
    sample in [0, 1], 0 for None."""

    id: str
    answers: tuple[str | None, ...]
    scores: tuple[float, ...]
    group: str = ""
    category: str = ""


def score_at_k(select: str, sampled: QuestionSamples, k: int, *, subsets: int, seed: int) -> float:
    """Return the expected score when K samples are taken at random and one of them is chosen."""
    n = len(sampled.answers)
    if not 1 <= k <= n:
        raise ValueError(f"question {sampled.id} has {n} samples, so K must be from 1 to {n}, got {k}")
    if k == 1:
        return sum(sampled.scores) / n
    if select == "oracle":
        return _best_of(sampled.scores, k)
    choose = CHOICES[select]
    if k == n:
        return _score(choose(sampled.answers), sampled.scores)
    draw = random.Random(f"{seed}/{sampled.id}/{k}")
    drawn = [sorted(draw.sample(range(n), k)) for _ in range(subsets)]
    found = [
        _score(choose([sampled.answers[i] for i in places]), [sampled.scores[i] for i in places]) for places in drawn
    ]
    return sum(found) / subsets


def vote_choice(answers: Sequence[str | None]) -> int | None:
    """Return the first sample of the most frequent answer; of equally frequent answers the first one."""
    normalised = [None if a is None else final_answer(a) for a in answers]
    counts = Counter(a for a in normalised if a is not None)
    return normalised.index(counts.most_common(1)[0][0]) if counts else None


def mbr_choice(answers: Sequence[str | None]) -> int | None:
    """Return the sample with the highest mean word F1 to all samples; of equal ones the first."""
    words = [None if a is None else Counter(final_answer(a).split()) for a in answers]
    usable = [i for i, w in enumerate(words) if w is not None]
    if not usable:
        return None
    means = {i: sum(_word_f1(words[i], words[j]) for j in usable) for i in usable}
    return max(usable, key=lambda i: (round(means[i], 9), -i))


CHOICES: Mapping[str, Callable[[Sequence[str | None]], int | None]] = MappingProxyType(
    {"vote": vote_choice, "mbr": mbr_choice}
)


def _score(chosen: int | None, scores: Sequence[float]) -> float:
    return 0.0 if chosen is None else scores[chosen]


def _best_of(scores: Sequence[float], k: int) -> float:
    """Return the expected best of K of n without replacement; for 0/1 scores it is pass@K.

    Chen et al. 2021 (Codex), equation 1: the i-th smallest is the best in C(i - 1, K - 1) of C(n, K) subsets.
    """
    ranked = sorted(scores)
    weights = [math.comb(i, k - 1) for i in range(len(ranked))]
    return sum(s * w for s, w in zip(ranked, weights, strict=True)) / math.comb(len(ranked), k)


def _word_f1(one: Counter[str] | None, other: Counter[str] | None) -> float:
    assert one is not None and other is not None
    shared = (one & other).total()
    return 2 * shared / (one.total() + other.total()) if shared else float(not one and not other)
