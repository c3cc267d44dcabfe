"""Measure how well the mini language model reads cells and reasons, with greedy answers about fresh scenes."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

from sicog.chains import ChainError
from sicog.mini.parts_training.parts_config import LanguagePartConfig
from sicog.mini.parts_training.parts_text import SPLIT, Conversation, Conversations
from sicog.mini.parts_training.train_language import TextBatches, embed, plan_grid, text_processor
from sicog.mini.questions import QUESTION_TYPES, Question, question_text
from sicog.mini.scene import Scene
from sicog.mini.truth import answer_is_right, caption_scores, chance_accuracy, correct_places, form
from sicog.model.processing import SicogProcessor
from sicog.progress import with_progress
from sicog.records import Query, Turn
from sicog.tasks import CAPTIONING, REASONING

_BATCH = 50
CAPTIONS = {"dd": 120, "cod": 320}  # styles, with the maximum tokens of a text
ANSWERS = {"direct": 8, "cot": 200}


def measure_language(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    config: LanguagePartConfig,
    seed: int,
    *,
    items: int = 1000,
    styles: Sequence[str] = ("dd", "cod", "direct", "cot"),
) -> dict[str, Any]:
    """Measure with cells, over `items` fresh scenes per style, on the model's device.

    captions by style: mean object F1, and `place`, the share of correctly named things with a correct region;
    answers by style: share of correct answers, in total and by question type; a chain that does not parse is wrong.
    `chance`, by type: accuracy that is possible without seeing the image.
    """
    processor = text_processor(tokenizer, model.config.vocab_size, config.query_grid)
    conversations = Conversations(seed, f"{SPLIT}-test", config.query_grid, plan_grid(processor))
    scenes = [conversations.scene(i) for i in range(items)]
    questions = [conversations.questions.draw(s, QUESTION_TYPES[i % len(QUESTION_TYPES)]) for i, s in enumerate(scenes)]
    found: dict[str, Any] = {
        "items": items,
        "captions": {},
        "answers": {"chance": chance_accuracy(_chance_keys(questions))},
    }
    for style in styles:
        prompts = [_prompt(question, style) for question in questions]
        asked = [
            Conversation(conversations.cells_text(s, random.Random(i)), ((prompt, ""),))
            for i, (s, prompt) in enumerate(zip(scenes, prompts, strict=True))
        ]
        texts = _generate_all(model, processor, asked, config, style)
        if style in CAPTIONS:
            found["captions"][style] = _captions(scenes, texts)
        else:
            right = [_is_right(t, q, style) for t, q in zip(texts, questions, strict=True)]
            found["answers"][style] = _by_type(questions, right)
    return found


def _chance_keys(questions: Iterable[Question]) -> Iterator[tuple[str, str, str]]:
    return ((q.type, form(q.type, q.kind), q.choice or q.answer) for q in questions)


def _prompt(question: Question, style: str) -> str:
    if style in CAPTIONS:
        return CAPTIONING.style(style).template
    return REASONING.prompt(Query(id="measured", task="reasoning", question=question_text(question)), style)


def _captions(scenes: Sequence[Scene], texts: Sequence[str]) -> dict[str, float]:
    pairs = list(zip(texts, scenes, strict=True))
    named = [right for text, scene in pairs for right in correct_places(text, scene)]
    return {"f1": sum(caption_scores(t, s).f1 for t, s in pairs) / len(pairs), "place": sum(named) / max(1, len(named))}


def _is_right(text: str, question: Question, style: str) -> bool:
    try:
        return answer_is_right(REASONING.compared(text, style), question.answer)
    except ChainError:
        return False


def _by_type(questions: Sequence[Question], right: Sequence[bool]) -> dict[str, float]:
    by_type: dict[str, list[bool]] = defaultdict(list)
    for question, is_right in zip(questions, right, strict=True):
        by_type[question.type].append(is_right)
    return {"all": sum(right) / len(right), **{t: sum(v) / len(v) for t, v in sorted(by_type.items())}}


def _generate_all(
    model: Qwen2ForCausalLM,
    processor: SicogProcessor,
    asked: Sequence[Conversation],
    config: LanguagePartConfig,
    style: str,
) -> list[str]:
    most, texts = {**CAPTIONS, **ANSWERS}[style], []
    starts = range(0, len(asked), _BATCH)
    for start in with_progress(starts, f"measuring {style}", len(starts), unit="block"):
        texts += generate(model, processor, asked[start : start + _BATCH], config, most)
    return texts


@torch.no_grad()
def generate(
    model: Qwen2ForCausalLM,
    processor: SicogProcessor,
    conversations: Sequence[Conversation],
    config: LanguagePartConfig,
    most_tokens: int,
) -> list[str]:
    """Return the greedy answers to the first prompts of the conversations."""
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
