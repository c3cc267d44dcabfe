"""Choose the next token of every row from its logits and its own noise, independent of other rows.

Shapes: B rows, R some of them, V vocabulary, K tokens looked at, the most likely first.
"""

from __future__ import annotations

import torch

from sicog.generation.sampling import SamplingConfig

# The nucleus is nearly always among the few most likely tokens. Checking only these is much cheaper than a full sort.
_LOOKS = (8, 64, 1024)
_TIES = 64  # tokens looked at beyond the k-th, as likely ones of which stay too


def has_fixed_shapes(sampling: SamplingConfig) -> bool:
    """Whether `next_tokens` never looks at values to decide what to run. Top-p alone does, for wide nuclei."""
    return sampling.temperature == 0 or sampling.top_k > 0 or sampling.top_p == 1


def next_tokens(
    logits_BV: torch.Tensor, noise_B: torch.Tensor | None, sampling: SamplingConfig, seen_BV: torch.Tensor | None
) -> torch.Tensor:
    """int64 [B]: the most likely token at temperature 0, else the token at the noise in [0, 1).

    seen_BV: bool, tokens generated before, or None where `repetition_penalty` is 1.
    """
    logits_BV = logits_BV.float()
    if seen_BV is not None:
        penalty = sampling.repetition_penalty
        damped_BV = torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
        logits_BV = torch.where(seen_BV, damped_BV, logits_BV)
    if sampling.temperature == 0:
        return logits_BV.argmax(dim=1)
    assert noise_B is not None
    if 0 < sampling.top_k < logits_BV.shape[1]:
        return _from_top_k(logits_BV, noise_B, sampling)
    probs_BV = (logits_BV / sampling.temperature).softmax(dim=1)
    if sampling.top_p == 1:
        return _token_at(probs_BV, noise_B)
    return _from_nucleus(probs_BV, noise_B, sampling.top_p)


def _from_top_k(logits_BV: torch.Tensor, noise_B: torch.Tensor, sampling: SamplingConfig) -> torch.Tensor:
    """The token at the noise among the k most likely ones and those as likely as the last. Only they are summed."""
    n_looked_at = min(logits_BV.shape[1], sampling.top_k + _TIES)
    top_BK, ids_BK = logits_BV.topk(n_looked_at, dim=1)
    top_BK = ((top_BK - top_BK[:, :1]) / sampling.temperature).exp()
    # As in Transformers, top-p works on the renormalised result of top-k.
    first_BK = top_BK[:, : sampling.top_k]
    least_B1 = _nucleus_end(first_BK, sampling.top_p * first_BK.sum(dim=1, keepdim=True))
    return _among(top_BK, ids_BK, least_B1, noise_B)


def _from_nucleus(probs_BV: torch.Tensor, noise_B: torch.Tensor, top_p: float) -> torch.Tensor:
    """The token at the noise among the most likely tokens that together reach top-p."""
    size = probs_BV.shape[1]
    token_B = torch.empty(len(probs_BV), dtype=torch.long, device=probs_BV.device)
    open_R = torch.arange(len(probs_BV), device=probs_BV.device)  # rows whose nucleus is wider than what was looked at
    # On a GPU a look at 8 costs as much as one at 64.
    looks = _LOOKS[1:] if probs_BV.is_cuda else _LOOKS
    for n_looked_at in (*(n for n in looks if n < size), size):
        top_RK, ids_RK = probs_BV[open_R].topk(n_looked_at, dim=1)
        least_R1 = _nucleus_end(top_RK, top_p)
        token_B[open_R] = _among(top_RK, ids_RK, least_R1, noise_B[open_R])
        # Tokens as likely as the last of the nucleus belong to it too, and more of them may follow.
        is_wider_R = (top_RK.sum(dim=1) < top_p) | (top_RK[:, -1:] == least_R1)[:, 0]
        open_R = open_R[is_wider_R]
        if not len(open_R):
            break
    return token_B


def _nucleus_end(top_RK: torch.Tensor, limit: torch.Tensor | float) -> torch.Tensor:
    """[R, 1]: the last of these descending probabilities with a preceding sum below the limit."""
    n_kept_R1 = (_row_sums(top_RK) - top_RK < limit).sum(dim=1, keepdim=True)
    return top_RK.gather(1, (n_kept_R1 - 1).clamp(min=0))


def _among(top_RK: torch.Tensor, ids_RK: torch.Tensor, least_R1: torch.Tensor, noise_R: torch.Tensor) -> torch.Tensor:
    """int64 [R]: the token at the noise among those of at least this probability."""
    # In the order of the vocabulary, so that a rounding error cannot swap two equally likely tokens.
    ids_RK, order_RK = ids_RK.sort(dim=1)
    top_RK = top_RK.gather(1, order_RK)
    place_R = _token_at(torch.where(top_RK >= least_R1, top_RK, 0.0), noise_R)
    return ids_RK.gather(1, place_R[:, None])[:, 0]


def _token_at(probs_BV: torch.Tensor, noise_B: torch.Tensor) -> torch.Tensor:
    """int64 [B]: the inverse of the cumulative distribution at the noise; never a token of probability 0."""
    cumulative_BV = _row_sums(probs_BV)
    target_B1 = noise_B[:, None] * cumulative_BV[:, -1:]
    # The noise is below 1, but its product may round up to the total. So stay below the last step of the sum.
    below_BV = (cumulative_BV <= target_B1) & (cumulative_BV < cumulative_BV[:, -1:])
    return below_BV.sum(dim=1)


def _row_sums(values_BV: torch.Tensor) -> torch.Tensor:
    """[B, V]: cumulative sums of the rows. On CUDA the scan of a single row is another one, and not reproducible."""
    if len(values_BV) == 1:
        return values_BV.expand(2, -1).cumsum(dim=1)[:1]
    return values_BV.cumsum(dim=1)
