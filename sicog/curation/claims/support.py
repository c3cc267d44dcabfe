"""Support of claims: the share of the other candidates that state a claim. Pure functions.

Shapes of one set: K candidates, C claims of all of them one after the other.
owner_C int: the candidate that a claim was read from. stated_CK bool: whether a candidate states a claim; it states its
own.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sicog.curation.score.self_consistency import DECIMALS

Measure = Literal["support", "f1"]
Floats = NDArray[np.float64]


def supports(owner_C: NDArray[Any], stated_CK: NDArray[np.bool_], counts_K: NDArray[np.bool_] | None = None) -> Floats:
    """Return the share of the other candidates that state each claim, float64 [C] in [0, 1]; nan without others.

    support_c = |{k != owner_c : k states c}| / |{k != owner_c}|

    counts_K: the candidates that count, by default all; other candidates may own claims.
    """
    counts_K = np.ones(stated_CK.shape[1], dtype=bool) if counts_K is None else counts_K
    own_C = counts_K[owner_C].astype(np.int64)
    others_C = stated_CK[:, counts_K].sum(1) - own_C
    asked_C = counts_K.sum() - own_C
    return np.round(np.divide(others_C, asked_C, out=np.full(len(owner_C), np.nan), where=asked_C > 0), DECIMALS)


def window_support(stated_CK: NDArray[np.bool_], window_K: NDArray[np.int64]) -> Floats:
    """Return the largest share of the candidates of one window that state a claim, float64 [C]; nan without windows.

    window_K: the number of the window that a candidate saw, -1 for the whole image.
    """
    shares = [stated_CK[:, window_K == w].mean(1) for w in np.unique(window_K[window_K >= 0])]
    return np.round(np.max(shares, axis=0), DECIMALS) if shares else np.full(len(stated_CK), np.nan)


def agreements(owner_C: NDArray[Any], stated_CK: NDArray[np.bool_], measure: Measure) -> Floats:
    """Return the agreement of each candidate with the others, float64 [K] in [0, 1]; nan at K = 1 or without claims.

    support: the mean support of its claims, an estimate of precision.
    f1: the mean over the others j of F1(i, j) = 2 P R / (P + R). P is the share of i's claims that j states, R the
        share of j's claims that i states.
    """
    k = stated_CK.shape[1]
    found = np.full(k, np.nan)
    counts_K = np.bincount(owner_C, minlength=k)
    if k < 2:
        return found
    says_K = counts_K > 0
    if measure == "support":
        sums_K = np.bincount(owner_C, weights=supports(owner_C, stated_CK), minlength=k)
        found[says_K] = sums_K[says_K] / counts_K[says_K]
    else:
        # share_KK[i, j]: the share of i's claims that j states; precision of i against j, recall of j against i
        share_KK = np.zeros((k, k))
        np.add.at(share_KK, owner_C, stated_CK.astype(np.float64))
        share_KK[says_K] /= counts_K[says_K, None]
        total_KK = share_KK + share_KK.T
        f1_KK = np.divide(2 * share_KK * share_KK.T, total_KK, out=np.zeros((k, k)), where=total_KK > 0)
        np.fill_diagonal(f1_KK, 0.0)
        found[says_K] = f1_KK.sum(1)[says_K] / (k - 1)
    return np.round(found, DECIMALS)


def stated_by_key(keys: list[list[str]]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return owner_C and stated_CK for candidates whose claims are equal when their keys are equal."""
    sets = [frozenset(own) for own in keys]
    owner_C = np.repeat(np.arange(len(keys)), [len(own) for own in keys])
    stated = [[key in one for one in sets] for own in keys for key in own]
    return owner_C, np.array(stated, dtype=bool).reshape(len(owner_C), len(keys))
