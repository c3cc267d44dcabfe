"""The DPO objective: prefer chosen over rejected more than the reference model does, and stay close to chosen answers.

TRL's DPOTrainer does not fit our model and processor. It passes rendered chat templates to the processor, so content
could become a control token. It truncates long rows, and under accumulation it averages the means of micro-batches.
Our loss is short and is tested against TRL's. Shapes: P pairs of a micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import logsigmoid

from sicog.training.config import DpoConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from sicog.data.batching import RunPlan
    from sicog.data.pairs import PairDataset

METRICS = ("dpo_loss", "sft_loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")


@dataclass(frozen=True)
class Preferences:
    """Results of a micro-batch, float32 [P] each: the loss of each pair, and the rewards beta * (log p - reference)."""

    losses: torch.Tensor
    chosen_rewards: torch.Tensor
    rejected_rewards: torch.Tensor


def preferences(log_probs_P2: torch.Tensor, reference_P2: torch.Tensor, beta: float) -> Preferences:
    """-log sigmoid(beta * ((log p - reference) of chosen - that of rejected)) (Rafailov et al. 2023, equation 7).

    log_probs_P2, reference_P2: float [P, 2], summed log-probabilities of the chosen and the rejected answers.
    """
    rewards_P2 = beta * (log_probs_P2 - reference_P2)
    chosen_P, rejected_P = rewards_P2.unbind(dim=1)
    return Preferences(-logsigmoid(chosen_P - rejected_P), chosen_P.detach(), rejected_P.detach())


class DpoObjective:
    """The loss of micro-batches of an update, and the update's metrics.

    loss = alpha * sum of the pairs' losses / pairs of the update + gamma * cross-entropy of the chosen answers / their
    supervised tokens in the update, over all micro-batches and ranks. Both numbers are known before the model runs.
    """

    def __init__(self, config: DpoConfig, dataset: PairDataset, plan: RunPlan) -> None:
        self.config = config
        self.dataset = dataset
        self.plan = plan
        self.begin_update()

    def begin_update(self) -> None:
        """Reset the metrics of earlier micro-batches."""
        self._sums = torch.zeros(len(METRICS), dtype=torch.float64)
        self._counts = torch.ones_like(self._sums)

    def loss(self, model: Any, inputs: dict[str, Any], step: int) -> torch.Tensor:
        """This micro-batch's part of the loss of update `step` (counted from 0), float32."""
        reference = inputs.pop("reference_log_probs")
        log_probs_P2 = model(**inputs, wants_log_probs=True).document_log_probs.view(-1, 2)
        found = preferences(log_probs_P2, log_probs_P2.new_tensor(reference), self.config.beta)
        dpo, sft = found.losses.sum(), -log_probs_P2[:, 0].sum()
        rows = self.plan.rows_of(step)
        n_pairs, n_tokens = len(rows), int(self.dataset.chosen_supervised[rows].sum())
        self._counts = torch.tensor([n_pairs, n_tokens, *[n_pairs] * 4], dtype=torch.float64)
        self._add(dpo, sft, found)
        return self.config.alpha * dpo / n_pairs + self.config.gamma * sft / n_tokens

    def metrics(self, total: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """The metrics of the update so far; `total` sums a tensor over all ranks."""
        means = total(self._sums).cpu() / self._counts
        return dict(zip(METRICS, means.tolist(), strict=True))

    def _add(self, dpo: torch.Tensor, sft: torch.Tensor, found: Preferences) -> None:
        margins_P = found.chosen_rewards - found.rejected_rewards
        of_pairs = [found.chosen_rewards, found.rejected_rewards, margins_P, (margins_P > 0).double()]
        sums = torch.stack([value.detach().double() for value in (dpo, sft, *(v_P.sum() for v_P in of_pairs))])
        self._sums = self._sums.to(sums.device) + sums
