"""Choose the next token of every row from its logits and its own noise, independent of other rows.

Shapes: B rows, R some of them, V vocabulary, K tokens looked at.
"""

from __future__ import annotations

import torch

from sicog.generation.sampling import SamplingConfig

# The nucleus is nearly always among the few most likely tokens. Checking only these is much cheaper than a full sort.
_LOOKS = (64, 1024)


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
    probs_BV = (logits_BV / sampling.temperature).softmax(dim=1)
    if sampling.top_k or sampling.top_p < 1:
        probs_BV = torch.where(probs_BV >= _lowest_kept_probability(probs_BV, sampling), probs_BV, 0.0)
    return _token_at(probs_BV, noise_B)


def _lowest_kept_probability(probs_BV: torch.Tensor, sampling: SamplingConfig) -> torch.Tensor:
    """[B, 1]: the smallest probability that top-k and top-p keep. Equally likely tokens stay too."""
    size = probs_BV.shape[1]
    if 0 < sampling.top_k < size:
        top_BK = probs_BV.topk(sampling.top_k, dim=1).values
        # As in Transformers, top-p works on the renormalised result of top-k.
        return _nucleus_end(top_BK, sampling.top_p * top_BK.sum(dim=1, keepdim=True))
    least_B1 = probs_BV.new_zeros(len(probs_BV), 1)
    open_R = torch.arange(
        len(probs_BV), device=probs_BV.device
    )  # rows whose nucleus is wider than the tokens checked so far
    for n_looked_at in (*(n for n in _LOOKS if n < size), size):
        top_RK = probs_BV[open_R].topk(n_looked_at, dim=1).values
        least_B1[open_R] = _nucleus_end(top_RK, sampling.top_p)
        open_R = open_R[top_RK.sum(dim=1) < sampling.top_p]
        if not len(open_R):
            break
    return least_B1


def _nucleus_end(top_RK: torch.Tensor, limit: torch.Tensor | float) -> torch.Tensor:
    """[R, 1]: the last of these descending probabilities with a preceding sum below the limit."""
    n_kept_R1 = (_row_sums(top_RK) - top_RK < limit).sum(dim=1, keepdim=True)
    return top_RK.gather(1, (n_kept_R1 - 1).clamp(min=0))


def _token_at(probs_BV: torch.Tensor, noise_B: torch.Tensor) -> torch.Tensor:
    """int64 [B]: the inverse of the cumulative distribution at the noise; never a token of probability 0.

    In vocabulary order, so that a rounding error cannot swap two equally likely tokens.
    """
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
