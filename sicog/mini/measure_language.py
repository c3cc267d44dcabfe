"""How well the mini language model reads: greedy answers about fresh scenes against the truth."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

from sicog.chains import ChainError
from sicog.mini.parts_config import LanguagePartConfig
from sicog.mini.parts_text import SPLIT, Conversation, Conversations
from sicog.mini.scene import digest
from sicog.mini.text import BRIEF_INSTRUCTIONS
from sicog.mini.train_language import TextBatches, embed, plan_grid, text_processor
from sicog.mini.truth import answer_is_right, caption_scores
from sicog.model.processing import SicogProcessor
from sicog.records import Turn
from sicog.tasks import CAPTIONING, REASONING

_BATCH = 64
_MOST_TOKENS = {"direct": 8, "cot": 160, "brief": 64, "dd": 120, "cod": 320}


def measure_language(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    config: LanguagePartConfig,
    seed: int,
    *,
    items: int = 200,
    styles: Sequence[str] = ("direct", "cot", "brief", "dd", "cod"),
) -> dict[str, float]:
    """Shares of right answers (`direct`, `cot`) and mean F1 of captions (`brief`, `dd`, `cod`) over `items` each.

    The model is measured on the device where it lies. A chain that does not parse counts as wrong.
    """
    processor = text_processor(tokenizer, model.config.vocab_size, config.query_grid)
    found: dict[str, float] = {}
    for style in styles:
        conversations = Conversations(seed, f"{SPLIT}-test", config.query_grid, plan_grid(processor))
        asked = [_ask(conversations, index, style) for index in range(items)]
        texts = []
        for start in range(0, items, _BATCH):
            texts += generate(model, processor, asked[start : start + _BATCH], config, _MOST_TOKENS[style])
        scores = [_score(conversations, i, style, asked[i], text) for i, text in enumerate(texts)]
        for kind in ("cells", "words"):
            part = [s for s, c in zip(scores, asked, strict=True) if bool(c.telling.cells) == (kind == "cells")]
            found[f"{style}_{kind}"] = sum(part) / max(len(part), 1)
        found[style] = sum(scores) / items
    return {**found, "items": items}


def _ask(conversations: Conversations, index: int, style: str) -> Conversation:
    """One task of that style about scene number `index`; its answer is the one that training would show."""
    scene = conversations.scene(index)
    rng = random.Random(digest("measure", style, index))
    telling = conversations.tell(scene, rng)
    if style in REASONING.styles:
        return Conversation(telling, (conversations.question(scene, rng, style),))
    prompt = rng.choice(BRIEF_INSTRUCTIONS) if style == "brief" else CAPTIONING.style(style).template
    return Conversation(telling, ((prompt, ""),))


def _score(conversations: Conversations, index: int, style: str, asked: Conversation, text: str) -> float:
    if style not in REASONING.styles:
        return caption_scores(text, conversations.scene(index)).f1
    try:
        truth, stated = (REASONING.compared(t, style) for t in (asked.tasks[0][1], text))
    except ChainError:
        return 0.0
    return float(answer_is_right(stated, truth))


@torch.no_grad()
def generate(
    model: Qwen2ForCausalLM,
    processor: SicogProcessor,
    conversations: Sequence[Conversation],
    config: LanguagePartConfig,
    most_tokens: int,
) -> list[str]:
    """The greedy answers to the first prompts of the conversations."""
    rows = []
    for c in conversations:
        turns: list[Turn] = c.turns[:1]
        sizes = [c.telling.size] if c.telling.size else []
        ids, labels = processor.encode_text(turns, sizes, add_generation_prompt=True)
        rows.append((ids, labels, c.telling.cells))
    batch = TextBatches(config, processor, seed=0, noise=0.0).collate(rows, random.Random(0)).to(model.device)
    lengths = torch.tensor([len(ids) for ids, _, _ in rows], device=model.device)
    embeds_BTE, width = embed(model, batch, processor.image_token_id), batch.input_ids.shape[1]
    places = torch.arange(width, device=model.device) - (width - lengths[:, None])  # left padding: rows end together
    shifted = embeds_BTE.gather(1, places.clamp(min=0)[..., None].expand_as(embeds_BTE))
    generator: Any = model
    out = generator.generate(
        inputs_embeds=shifted,
        attention_mask=(places >= 0).long(),
        max_new_tokens=most_tokens,
        do_sample=False,
        eos_token_id=processor.end_token_id,
        pad_token_id=processor.pad_token_id,
    )
    return processor.batch_decode(out)
