"""Memory of training in bytes: weights, gradients, optimizer states and activations, by ZeRO stage.

The optimizer is AdamW. DeepSpeed has a bfloat16 model: 2 bytes for a weight and 2 for a gradient; a trained weight has
12 more, for a float32 copy and two moments. Without DeepSpeed, weights, gradients and moments are float32: 4 + 4 + 8
bytes. The bfloat16 copies that autocast makes of the weights are not counted.

Activations are the tensors that autograd keeps for one micro-batch in bfloat16, with an attention kernel that keeps no
scores. Buffers of communication and fragmentation are not counted. A frozen resampler behind a trained tower is counted
as a trained one, which keeps more.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sicog.estimates.arithmetic.flops import Work, model_of, parameters, trained_parameters
from sicog.model.configuration import SicogConfig
from sicog.model.kernels.choice import Checkpointing
from sicog.model.kernels.loss_head import chunk_rows
from sicog.model.part_names import PARTS
from sicog.model.regions import bins_of
from sicog.model.resampler import Resampler

_HALF, _FULL = 2, 4  # bytes of a value in bfloat16 and in float32
_OPTIMIZER = 12  # bytes of a trained parameter: float32 weight and two moments
ZERO_STAGES = (0, 1, 2, 3)


@dataclass(frozen=True)
class States:
    """Bytes on each device that stay from update to update."""

    weights: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        """Their sum."""
        return self.weights + self.gradients + self.optimizer


def states(config: SicogConfig, trainable: Collection[str], *, zero_stage: int = 0, devices: int = 1) -> States:
    """With DeepSpeed, each of `devices`: ZeRO divides the optimizer (1), the gradients too (2), the weights too (3)."""
    trained = trained_parameters(config, trainable)
    shares = [devices if zero_stage >= stage else 1 for stage in (3, 2, 1)]
    return States(
        weights=sum(parameters(config).values()) * _HALF / shares[0],
        gradients=trained * _HALF / shares[1],
        optimizer=trained * _OPTIMIZER / shares[2],
    )


def states_without_deepspeed(config: SicogConfig, trainable: Collection[str], *, shards: int = 1) -> States:
    """Without DeepSpeed, on each device. shards: the number of devices that FSDP divides among; 1: none."""
    trained = trained_parameters(config, trainable) / shards
    return States(
        weights=sum(parameters(config).values()) / shards * _FULL,
        gradients=trained * _FULL,
        optimizer=trained * 2 * _FULL,
    )


def activations(
    config: SicogConfig, work: Work, trainable: Collection[str] = PARTS, *, checkpointing: Checkpointing = "none"
) -> dict[str, float]:
    """Bytes kept for the backward pass of one row, by part. checkpointing: only one layer at a time is whole."""
    reached = [any(p in trainable for p in PARTS[: i + 1]) for i in range(len(PARTS))]
    vision, projector, language = (part in trainable for part in PARTS)
    found: dict[str, float] = dict.fromkeys((*PARTS, "loss head"), 0)
    if reached[0]:
        found[PARTS[0]] = _vision(config, work, vision, checkpointing)
    if reached[1] and work.views:
        found[PARTS[1]] = _projector(config, work, projector)
    if reached[2]:
        found[PARTS[2]] = _language(config, work, language, checkpointing)
        found["loss head"] = _loss_head(config, work, language)
    return found


def _stored_values(layer: float, between: float, products: float, n_layers: int, checkpointing: Checkpointing) -> float:
    """All layers; or of every layer the input, of selective checkpointing also the products, and one as a whole."""
    if checkpointing == "none":
        return n_layers * layer
    return n_layers * (between + (products if checkpointing == "selective" else 0)) + layer


def _vision(config: SicogConfig, work: Work, trained: bool, checkpointing: Checkpointing) -> float:
    vision: Any = config.vision_config
    patches, width, inner = sum(h * w for h, w in work.views), vision.hidden_size, vision.intermediate_size
    # A layer keeps the inputs and outputs of both norms (4 C), queries, keys, values (3 C), what attention gives and
    # its copy in the order of tokens (2 C); of the quick GELU its input, sigmoid and output.
    values = (9 * width + 3 * inner) if trained else (7 * width + 2 * inner)
    tokens = patches + len(work.views)
    products = 6 * width + inner  # queries, keys, values, what attention gives, both outputs, the GELU's input
    kept = _stored_values(values, width, products, model_of(config).vision_tower.n_run, checkpointing)
    layers = tokens * kept * _HALF
    return layers + patches * vision.num_channels * vision.patch_size**2 * _HALF


def _projector(config: SicogConfig, work: Work, trained: bool) -> float:
    text: Any = config.text_config
    vision: Any = config.vision_config
    patches, width = sum(h * w for h, w in work.views), text.hidden_size
    projector = model_of(config).resampler
    if not isinstance(projector, Resampler):
        # The GELU's input; for the gradients of the two weights, also what each is multiplied with.
        return patches * (width + (vision.hidden_size + width if trained else 0)) * _HALF
    n_queries, heads = config.query_grid**2, projector.attn.n_heads
    # Pooling is a product with constants and keeps nothing.
    kept = patches * (vision.hidden_size + width)
    for down, across in (bins_of(*view) for view in work.views):
        kept += 2 * n_queries * down * across * width + n_queries * heads * (width + 2 * down * across)
        kept += 5 * n_queries * width
    return (kept + 2 * n_queries * heads * width) * _HALF


def _language(config: SicogConfig, work: Work, trained: bool, checkpointing: Checkpointing) -> float:
    text: Any = config.text_config
    width, inner, heads = text.hidden_size, text.intermediate_size, text.num_attention_heads
    head_width = getattr(text, "head_dim", None) or width // heads
    keys = text.num_key_value_heads * head_width
    # Both norms keep their input in float32, and, for their weights and the products', what they give; attention keeps
    # queries, keys, values, its output and a sum; the gated layer its gate, the activation, the other factor, and,
    # for the weights of the last product, their product.
    layer = 2 * _FULL * width + _HALF * (2 * heads * head_width + 2 * keys + 3 * inner) + _FULL * heads
    if trained:
        layer += _HALF * (4 * width + inner)
    products = _HALF * (2 * heads * head_width + 2 * keys + 2 * width + 2 * inner) + _FULL * heads
    layers = work.positions * _stored_values(layer, width * _HALF, products, text.num_hidden_layers, checkpointing)
    return layers + work.positions * width * (_FULL + _HALF)


def _loss_head(config: SicogConfig, work: Work, trained: bool) -> float:
    """The gradient of the hidden states; of a trained head the float32 sum of its gradient; the logits of a chunk."""
    text: Any = config.text_config
    chunk = min(work.supervised, chunk_rows(text.vocab_size, "cuda")) * text.vocab_size * (2 * _FULL + _HALF)
    weight = text.vocab_size * text.hidden_size * (_FULL + _HALF) if trained else 0
    return chunk + weight + 2 * work.supervised * text.hidden_size * _HALF
