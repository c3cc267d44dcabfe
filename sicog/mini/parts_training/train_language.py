"""Train the mini language model on text only: read a scene in words, and solve tasks about it.

Shapes: B rows, T positions, N cells of a batch in order, W words of a cell, E width.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from sicog.mini.parts_training.fit import device, fit, optimizers
from sicog.mini.parts_training.parts_config import LanguagePartConfig
from sicog.mini.parts_training.parts_text import SCALE, SPLIT, Cell, Conversation, Conversations
from sicog.mini.scene import digest
from sicog.model.checkpoints import token_ids
from sicog.model.image_processing import SicogImageProcessor
from sicog.model.processing import IGNORED_LABEL, SicogProcessor

_POOL = 1024  # number of conversations to sort by length at a time
_BALANCE = 0.35  # 0: equal weight per token, 1: equal weight per row
_NOISE = 0.5  # maximum noise of a cell relative to its size, because projected features do not match words exactly


@dataclass(frozen=True)
class TextBatch:
    """ids and labels int [B, T]; the words of the cells int [N, W] with weights [N, W], and noise levels [N]."""

    input_ids: torch.Tensor
    labels: torch.Tensor
    words: torch.Tensor
    weights: torch.Tensor
    noise: torch.Tensor

    def to(self, device: torch.device) -> TextBatch:
        """Return the batch on a device."""
        return TextBatch(*(getattr(self, field.name).to(device) for field in fields(self)))


def train_language(
    config: LanguagePartConfig, tokenizer: PreTrainedTokenizerBase, seed: int, state: Path, workers: int = 0
) -> Qwen2ForCausalLM:
    """Train the language model; returns it on the CPU."""
    torch.manual_seed(seed)
    on = device()  # initialise on the CPU, so that weights are equal on every device
    model = new_language_model(config, tokenizer).train()
    model.to(on)
    batches = TextBatches(config, text_processor(tokenizer, model.config.vocab_size, config.query_grid), seed)

    def loss_of(batch: TextBatch) -> torch.Tensor:
        with torch.autocast(on.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            return text_loss(model, batch.to(on), batches.processor.image_token_id)

    loader = DataLoader(batches, batch_size=None, num_workers=workers)
    if config.compile:
        # Compiled, plain attention is the faster one here, where heads are small and rows short: 18,000 tokens a second
        # on one thread, with SDPA's kernel for CPUs 11,800.
        model.set_attn_implementation("eager")
        model.model.compile(dynamic=True)
    fit(
        model,
        optimizers(model.named_parameters(), config.learning_rate, config.matrix_learning_rate),
        loader,
        loss_of,
        steps=config.steps,
        name="language model",
        state=state,
    )
    model.to(torch.device("cpu"))
    return model.eval()


def new_language_model(config: LanguagePartConfig, tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
    """Return a small Qwen2 with random weights.

    Embeddings start at unit variance, like the output of a new projector, so that words and visual features have the
    same scale. The table has spare rows; the last one is the placeholder's.
    """
    # As the real Qwen2's: with the default of 10,000 few of a small head's dimensions turn slowly enough to match words
    # wherever they stand.
    rope = {"rope_type": "default", "rope_theta": 1_000_000.0}
    ids: dict[str, Any] = {
        "bos_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
        "pad_token_id": tokenizer.pad_token_id,
    }
    qwen = Qwen2Config(
        vocab_size=(len(tokenizer) // 64 + 1) * 64,
        hidden_size=config.width,
        intermediate_size=config.mlp_width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.width // 32,
        num_key_value_heads=config.width // 32,
        max_position_embeddings=4096,
        initializer_range=0.05,
        tie_word_embeddings=False,
        rope_parameters=rope,
        **ids,
    )
    model = Qwen2ForCausalLM(qwen)
    nn.init.normal_(model.model.embed_tokens.weight, std=1.0)
    return model


def text_processor(tokenizer: PreTrainedTokenizerBase, vocab_size: int, query_grid: int) -> SicogProcessor:
    """Return the processor of the later model, so that conversations have exactly its layout."""
    image_processor: Any = SicogImageProcessor(scale=SCALE, patch_size=14)
    ids: dict[str, Any] = token_ids(tokenizer, vocab_size)
    return SicogProcessor(image_processor, tokenizer, query_grid=query_grid, **ids)


def embed(model: Qwen2ForCausalLM, batch: TextBatch, image_token_id: int) -> torch.Tensor:
    """Return [B, T, E]: embeddings of the ids; placeholders get cells, weighted sums of word embeddings plus noise."""
    table, mask_BT = model.get_input_embeddings(), batch.input_ids.eq(image_token_id)
    x_BTE = table(batch.input_ids)
    cells_NE = (table(batch.words) * batch.weights[..., None]).sum(1)
    cells_NE = cells_NE + batch.noise[:, None] * torch.randn_like(cells_NE)
    return x_BTE.masked_scatter(mask_BT[..., None], cells_NE)


def text_loss(model: Qwen2ForCausalLM, batch: TextBatch, image_token_id: int) -> torch.Tensor:
    """Return cross-entropy with weights between per row and per token, so that short answers count next to chains.

    Rows are padded on the right, so no mask is needed.
    """
    hidden_BTE = model.model(inputs_embeds=embed(model, batch, image_token_id), use_cache=False).last_hidden_state
    targets = batch.labels[:, 1:]
    keep = targets != IGNORED_LABEL
    losses = nn.functional.cross_entropy(model.lm_head(hidden_BTE[:, :-1][keep]), targets[keep], reduction="none")
    weights = keep.sum(1, keepdim=True).expand_as(keep)[keep].float().pow(-_BALANCE)
    return (losses * weights).sum() / weights.sum()


class TextBatches(IterableDataset):
    """Endless batches of conversations of about `tokens_per_step`, with similar lengths in a batch."""

    def __init__(
        self, config: LanguagePartConfig, processor: SicogProcessor, seed: int, *, noise: float = _NOISE
    ) -> None:
        self.config, self.processor, self.seed, self.noise = config, processor, seed, noise
        self.word_ids = WordIds(processor)

    def __iter__(self) -> Iterator[TextBatch]:
        """Yield batches without end. Workers use different scenes."""
        worker = torch.utils.data.get_worker_info()
        part, parts = (worker.id, worker.num_workers) if worker else (0, 1)
        rng = random.Random(digest(self.seed, SPLIT, part))
        conversations = Conversations(self.seed, SPLIT, self.config.query_grid, plan_grid(self.processor))
        left, pool = range(part, self.config.steps, parts), 0
        while len(left):
            first, progress = (pool * parts + part) * _POOL, 1 - len(left) * parts / self.config.steps
            batches = self._batches([conversations(first + i, progress) for i in range(_POOL)], rng)
            yield from batches[: len(left)]
            left, pool = left[len(batches) :], pool + 1

    def _batches(self, conversations: Sequence[Conversation], rng: random.Random) -> list[TextBatch]:
        rows = [(*self.processor.encode_text(c.turns, _sizes(c)), c.telling.cells) for c in conversations]
        rows.sort(key=lambda row: len(row[0]))
        batches, start = [], 0
        while start < len(rows):
            end = start + 1
            while end < len(rows) and len(rows[end][0]) * (end + 1 - start) <= self.config.tokens_per_step:
                end += 1
            batches.append(self.collate(rows[start:end], rng))
            start = end
        rng.shuffle(batches)
        return batches

    def collate(self, rows: Sequence[tuple[list[int], list[int], tuple[Cell, ...]]], rng: random.Random) -> TextBatch:
        """Return one batch; each row has its own noise level."""
        width = max(len(ids) for ids, _, _ in rows)
        words, weights, noise = [], [], []
        for _, _, cells in rows:
            level = self.noise * rng.random()
            for cell in cells:
                ids = [self.word_ids(word) for word, _ in cell]
                words.append(ids)
                weights.append([weight for _, weight in cell])
                noise.append(level)
        most = max(map(len, words), default=1)
        return TextBatch(
            torch.tensor([ids + [self.processor.pad_token_id] * (width - len(ids)) for ids, _, _ in rows]),
            torch.tensor([labels + [IGNORED_LABEL] * (width - len(labels)) for _, labels, _ in rows]),
            torch.tensor([w + [0] * (most - len(w)) for w in words], dtype=torch.long).reshape(-1, most),
            torch.tensor([w + [0.0] * (most - len(w)) for w in weights]).reshape(-1, most),
            torch.tensor(noise),
        )


class WordIds:
    """Token id of a word of the mini world, with its leading space as inside a sentence."""

    def __init__(self, processor: SicogProcessor) -> None:
        self.tokenizer = processor.tokenizer
        self.known: dict[str, int] = {}

    def __call__(self, word: str) -> int:
        if word not in self.known:
            # With a very small vocabulary (tests) a word has several tokens; use the last one.
            self.known[word] = self.tokenizer.encode(f" {word}", add_special_tokens=False)[-1]
        return self.known[word]


def plan_grid(processor: SicogProcessor) -> Any:
    """Return the function (width, height) -> grid of slices, (0, 0) without slices."""
    return lambda width, height: processor.image_processor.plan(width, height).grid or (0, 0)


def _sizes(conversation: Conversation) -> list[tuple[int, int]]:
    return [conversation.telling.size] if conversation.telling.size else []
