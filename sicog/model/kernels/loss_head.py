"""Cross-entropy and log-probabilities of the language model's head, without all logits in memory at once.

Logits are computed only at supervised positions, one chunk of positions at a time. For an ordinary head the gradients
of a chunk are computed together with its logits: three matrix products per position, as in the plain head.
Some heads must be called as a module: ZeRO-3 gathers the weight in the call, and adapters wrap the layer. Such a head
is called a fixed number of times, and its logits are computed again in the backward pass. So all ranks make the same
calls in the same order, whatever their rows contain; chunks of a fixed size would not guarantee this.

Shapes: B rows, T positions, E width, V vocabulary, S supervised positions, C positions of a chunk, D documents.
"""

from __future__ import annotations

import importlib.util
import math
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sicog.model.views import sent

LossHead = Literal["auto", "chunked", "liger", "plain"]
IGNORED_LABEL = -100
_CHUNK_BYTES_CPU = 2**27  # bytes of float32 logits: 221 positions of Qwen2's vocabulary
_CHUNK_BYTES_GPU = 2**29  # 882 positions: with fewer, reading the weight would limit the speed
_LIGER_ROWS = 512  # with fewer positions in a chunk its weight and gradient are the time
_CALLS = 4  # for a head that is called as a module


def causal_loss(
    head: nn.Module,
    hidden_BTE: torch.Tensor,
    labels_BT: torch.Tensor,
    num_items: torch.Tensor | int | None = None,
    kind: LossHead = "auto",
    positions_S: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sum of the next-token cross-entropy over supervised positions, divided by `num_items` (None: by their number).

    Without supervised tokens the loss and its gradients are 0; a mean would be NaN. There is no check here: it would
    make the GPU wait, and a stopped rank would block the others. Training refuses an update without supervised tokens.
    labels: -100 where unsupervised, shifted here. Softmax in float32 (float64 for float64 logits). kind: `plain` makes
    all logits at once, as Transformers does; `auto` is Liger's kernel on a GPU that has it, if its chunks are large
    enough (`liger_rows`), else `chunked`. positions int64 [S]: those before the supervised ones, as indices into B * T;
    None: they are looked for, which makes a GPU's host wait.
    Raises `ValueError` if Liger is requested and cannot be used.
    """
    targets_BT = labels_BT[:, 1:]
    n_items = (targets_BT != IGNORED_LABEL).sum().clamp(min=1) if num_items is None else num_items
    if kind == "plain":
        return _cross_entropy_sum(head(hidden_BTE[:, :-1]).flatten(0, 1), targets_BT.flatten()) / n_items
    if positions_S is None:
        positions_S = positions_before_targets(labels_BT)
    targets_S = labels_BT.flatten()[positions_S + 1]
    function = _loss_function(kind, head, hidden_BTE, len(targets_S))
    loss: torch.Tensor = function(head, hidden_BTE.flatten(0, 1).index_select(0, positions_S), targets_S, n_items)
    return loss


def positions_before_targets(labels_BT: torch.Tensor) -> torch.Tensor:
    """int64 [S]: the positions whose next label is not -100, as indices into B * T."""
    row_S, position_S = labels_BT[:, 1:].ne(IGNORED_LABEL).nonzero(as_tuple=True)
    return row_S * labels_BT.shape[1] + position_S


def document_log_probs(
    head: nn.Module,
    hidden_BTE: torch.Tensor,
    labels_BT: torch.Tensor,
    borders: Any = None,
    kind: LossHead = "auto",
    positions_S: torch.Tensor | None = None,
) -> torch.Tensor:
    """[D]: the log-probability of each document's supervised tokens, summed.

    labels: -100 where unsupervised, shifted here. borders int [D + 1], tensor or array: where each of the documents of
    one packed row begins; None: every row is a document. positions as for `causal_loss`. Softmax and sums in float32
    (float64 for float64 logits).
    The backward pass computes the logits of a chunk again, because their factor is not known earlier.
    """
    if positions_S is None:
        positions_S = positions_before_targets(labels_BT)
    hidden_SE, targets_S = hidden_BTE.flatten(0, 1).index_select(0, positions_S), labels_BT.flatten()[positions_S + 1]
    if kind == "plain":
        log_p_S = _log_probs(head(hidden_SE), targets_S)
    else:
        make: Any = _fused_log_probs if _is_ordinary(head) else _call_head_log_probs
        log_p_S = make(head, hidden_SE, targets_S)
    if borders is None:
        row_S = positions_S // labels_BT.shape[1]
        return log_p_S.new_zeros(len(labels_BT)).index_add(0, row_S, log_p_S)
    # The first label of a document is -100, so a target and the position that predicts it are in the same document.
    ends_D = sent(torch.as_tensor(borders)[1:].long(), positions_S.device)
    document_S = torch.searchsorted(ends_D, positions_S, right=True)
    return log_p_S.new_zeros(len(borders) - 1).index_add(0, document_S, log_p_S)


def chunk_rows(vocabulary: int, device: str) -> int:
    """The number of positions in a chunk on this type of device."""
    return max(1, (_CHUNK_BYTES_CPU if device == "cpu" else _CHUNK_BYTES_GPU) // (4 * vocabulary))


def _loss_function(kind: LossHead, head: nn.Module, hidden: torch.Tensor, n_targets: int) -> Any:
    ordinary = _is_ordinary(head)
    usable = ordinary and hidden.is_cuda and importlib.util.find_spec("liger_kernel") is not None
    if kind == "liger" and not usable:
        raise ValueError("loss_head 'liger' needs a CUDA device, the package liger-kernel and an unsharded linear head")
    if kind == "liger" or (kind == "auto" and usable and _suits_liger(head, n_targets)):
        return _liger
    return _fused_loss if ordinary else _call_head


def _suits_liger(head: Any, n_targets: int) -> bool:
    return liger_rows(n_targets, head.out_features, head.in_features) >= _LIGER_ROWS


def liger_rows(n_targets: int, vocabulary: int, width: int) -> int:
    """Positions in a chunk of Liger's kernel (0.8): it makes about vocabulary / width chunks, whatever their size.

    Each chunk reads the weight twice, and reads and writes the weight's float32 gradient. With Qwen2-7B's sizes and
    2,000 targets that is 209 GB of traffic for chunks of 64 rows (computed); `_fused_loss` makes three of 882.
    """
    n_chunks = max(1, math.ceil(vocabulary / width))
    return 2 ** max(0, math.ceil(n_targets / n_chunks) - 1).bit_length()


def _is_ordinary(head: nn.Module) -> bool:
    """Whether the head is a plain linear layer: no bias, no hooks, and its whole weight on this rank."""
    return (
        type(head) is nn.Linear
        and head.bias is None
        and type(head.weight) is nn.Parameter
        and not hasattr(head.weight, "ds_id")  # DeepSpeed gathers the weight only while the module runs
        and not (head._forward_pre_hooks or head._forward_hooks)
        and "forward" not in vars(head)  # accelerate's offloading replaces it
    )


def _cross_entropy_sum(logits_SV: torch.Tensor, targets_S: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(_widen(logits_SV), targets_S, ignore_index=IGNORED_LABEL, reduction="sum")


def _widen(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _call_head(
    head: nn.Module, hidden_SE: torch.Tensor, targets_S: torch.Tensor, n_items: torch.Tensor | int
) -> torch.Tensor:
    def part(hidden_CE: torch.Tensor, targets_C: torch.Tensor) -> torch.Tensor:
        return _cross_entropy_sum(head(hidden_CE), targets_C)

    chunks = zip(hidden_SE.tensor_split(_CALLS), targets_S.tensor_split(_CALLS), strict=True)
    return torch.stack([checkpoint(part, h, t, use_reentrant=False) for h, t in chunks]).sum() / n_items


def _log_probs(logits_SV: torch.Tensor, targets_S: torch.Tensor) -> torch.Tensor:
    return _widen(logits_SV).log_softmax(dim=-1).gather(1, targets_S[:, None])[:, 0]


def _call_head_log_probs(head: nn.Module, hidden_SE: torch.Tensor, targets_S: torch.Tensor) -> torch.Tensor:
    def part(hidden_CE: torch.Tensor, targets_C: torch.Tensor) -> torch.Tensor:
        return _log_probs(head(hidden_CE), targets_C)

    chunks = zip(hidden_SE.tensor_split(_CALLS), targets_S.tensor_split(_CALLS), strict=True)
    return torch.cat([checkpoint(part, h, t, use_reentrant=False) for h, t in chunks])


def _liger(
    head: nn.Linear, hidden_SE: torch.Tensor, targets_S: torch.Tensor, n_items: torch.Tensor | int
) -> torch.Tensor:
    if not len(targets_S):
        return _fused_loss(head, hidden_SE, targets_S, n_items)
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    # As in `_fused_loss`, the weight's gradient is summed over the chunks in float32.
    loss = LigerFusedLinearCrossEntropyLoss(
        ignore_index=IGNORED_LABEL, reduction="sum", accum_dtype=torch.promote_types(head.weight.dtype, torch.float32)
    )
    total: torch.Tensor = loss(head.weight, hidden_SE, targets_S)
    return total / n_items


def _fused_loss(
    head: nn.Linear, hidden_SE: torch.Tensor, targets_S: torch.Tensor, n_items: torch.Tensor | int
) -> torch.Tensor:
    device = hidden_SE.device.type
    dtype, rows = _product_dtype(hidden_SE), chunk_rows(head.out_features, device)
    with torch.autocast(device, enabled=False):
        loss: torch.Tensor = _LinearCrossEntropy.apply(
            hidden_SE, head.weight, targets_S, n_items, dtype, rows, torch.is_grad_enabled()
        )
    return loss


def _fused_log_probs(head: nn.Linear, hidden_SE: torch.Tensor, targets_S: torch.Tensor) -> torch.Tensor:
    device = hidden_SE.device.type
    dtype, rows = _product_dtype(hidden_SE), chunk_rows(head.out_features, device)
    with torch.autocast(device, enabled=False):
        log_p_S: torch.Tensor = _LinearLogProbs.apply(hidden_SE, head.weight, targets_S, dtype, rows)
    return log_p_S


def _product_dtype(hidden: torch.Tensor) -> torch.dtype:
    """The dtype in which a linear layer would multiply here."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


class _LinearCrossEntropy(torch.autograd.Function):
    """Cross-entropy of `hidden @ weight.T`. The gradients are computed together with the loss."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_SE: torch.Tensor,
        weight_VE: torch.Tensor,
        targets_S: torch.Tensor,
        n_items: torch.Tensor | int,
        dtype: torch.dtype,
        rows: int,
        training: bool,
    ) -> torch.Tensor:
        """As `causal_loss`; dtype: of the products. rows: positions of a chunk. training: gradients will be asked."""
        wanted = [training and need for need in ctx.needs_input_grad[:2]]
        sum_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        w_VE = weight_VE.to(dtype)
        total = torch.zeros((), dtype=sum_dtype, device=hidden_SE.device)
        d_hidden = torch.empty_like(hidden_SE) if wanted[0] else None
        # Summed over the chunks in float32, because a bfloat16 sum would lose precision.
        d_weight = torch.zeros_like(weight_VE, dtype=sum_dtype) if wanted[1] else None
        for start in range(0, len(hidden_SE), rows):
            h_CE, targets_C1 = hidden_SE[start : start + rows].to(dtype), targets_S[start : start + rows, None]
            log_p_CV = _widen(h_CE @ w_VE.T).log_softmax(dim=-1)
            total -= log_p_CV.gather(1, targets_C1).sum()
            if not any(wanted):
                continue
            d_logits_CV = log_p_CV.exp_()
            d_logits_CV.scatter_add_(1, targets_C1, torch.full_like(targets_C1, -1, dtype=d_logits_CV.dtype))
            # Divide before rounding. Dividing finished gradients would round them twice: in bfloat16, times 1 / 513
            # gives the same as times 1 / 512, so all gradients would be 0.2 % too large.
            narrow_CV = d_logits_CV if dtype == sum_dtype else torch.empty_like(d_logits_CV, dtype=dtype)
            d_logits_CV = torch.div(d_logits_CV, n_items, out=narrow_CV)
            if d_hidden is not None:
                d_hidden[start : start + rows] = d_logits_CV @ w_VE
            if d_weight is not None and dtype == sum_dtype:
                d_weight.addmm_(d_logits_CV.T, h_CE)
            elif d_weight is not None:
                d_weight += d_logits_CV.T @ h_CE
        ctx.save_for_backward(d_hidden, None if d_weight is None else d_weight.to(weight_VE.dtype))
        return total / n_items

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Multiply the stored gradients by the gradient of the loss, in place; a copy would raise the memory peak.

        Autograd refuses a second backward pass through the same loss, because the stored gradients were changed.
        """
        # A factor with one dimension is not rounded to bfloat16 first; the product is computed in float32.
        factor = grads[0].reshape(1)
        scaled = [None if d is None else d.mul_(factor) for d in ctx.saved_tensors]
        return (*scaled, None, None, None, None, None)


class _LinearLogProbs(torch.autograd.Function):
    """Log-probability of each target under `hidden @ weight.T`. Both passes hold the logits of one chunk only."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_SE: torch.Tensor,
        weight_VE: torch.Tensor,
        targets_S: torch.Tensor,
        dtype: torch.dtype,
        rows: int,
    ) -> torch.Tensor:
        """[S], float32 (float64 for float64). dtype: of the products. rows: positions of a chunk."""
        ctx.save_for_backward(hidden_SE, weight_VE, targets_S)
        ctx.dtype, ctx.rows = dtype, rows
        w_VE = weight_VE.to(dtype)
        chunks = zip(hidden_SE.split(rows), targets_S.split(rows), strict=True)
        return torch.cat([_log_probs(h_CE.to(dtype) @ w_VE.T, targets_C) for h_CE, targets_C in chunks])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """d log p / d logits is the target's one-hot minus the softmax."""
        hidden_SE, weight_VE, targets_S = ctx.saved_tensors
        factor_S, dtype = grads[0], ctx.dtype
        w_VE = weight_VE.to(dtype)
        d_hidden = torch.empty_like(hidden_SE) if ctx.needs_input_grad[0] else None
        # Summed over the chunks in the factor's float32, as in `_LinearCrossEntropy`.
        d_weight = torch.zeros_like(weight_VE, dtype=factor_S.dtype) if ctx.needs_input_grad[1] else None
        for start in range(0, len(hidden_SE), ctx.rows):
            part = slice(start, start + ctx.rows)
            h_CE, targets_C1, factor_C1 = hidden_SE[part].to(dtype), targets_S[part, None], factor_S[part, None]
            d_logits_CV = _widen(h_CE @ w_VE.T).softmax(dim=-1).mul_(-factor_C1)
            d_logits_CV.scatter_add_(1, targets_C1, factor_C1)
            narrow_CV = d_logits_CV.to(dtype)
            if d_hidden is not None:
                d_hidden[part] = narrow_CV @ w_VE
            if d_weight is not None:
                d_weight += narrow_CV.T @ h_CE
        return d_hidden, None if d_weight is None else d_weight.to(weight_VE.dtype), None, None, None
