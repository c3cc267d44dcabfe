"""The mini world's tokenizer: Qwen2's byte-level BPE with a few hundred tokens, learned from mini text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import AddedToken, Qwen2Tokenizer

from sicog.mini.questions import QUESTION_TYPES, all_questions, question_text
from sicog.mini.reasoning import cot_text
from sicog.mini.scene import BACKGROUNDS, LABELLED, draw_scene
from sicog.mini.text import BRIEF_INSTRUCTIONS, PLACED_INSTRUCTIONS, brief_caption, cod_caption, detailed_description
from sicog.model.processing import CHATML
from sicog.tasks import TASKS

# Their ids follow the BPE vocabulary in this order, as in Qwen2's tokenizer.
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>")
_MAX_LENGTH = 4096
_SCENES = 1500


def train_tokenizer(seed: int, vocabulary: int) -> Qwen2Tokenizer:
    """Train a tokenizer of at most `vocabulary` BPE tokens plus special tokens; it can encode any text."""
    blank = Qwen2Tokenizer()
    backend = Tokenizer(BPE())
    backend.normalizer = blank.backend_tokenizer.normalizer
    backend.pre_tokenizer = blank.backend_tokenizer.pre_tokenizer
    trainer = BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=sorted(ByteLevel.alphabet()), min_frequency=4, show_progress=False
    )
    backend.train_from_iterator(_corpus(seed), trainer)
    model = json.loads(backend.to_str())["model"]
    return make_tokenizer(model["vocab"], [tuple(pair) for pair in model["merges"]])


def make_tokenizer(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Qwen2Tokenizer:
    """Return Qwen2's tokenizer with this vocabulary, followed by the special tokens."""
    n = len(vocab)
    vocab = {**vocab, **{token: n + i for i, token in enumerate(SPECIAL_TOKENS)}}
    words: Any = {"vocab": vocab, "merges": merges}  # pairs are missing in Transformers' type annotations
    tokenizer = Qwen2Tokenizer(**words, extra_special_tokens=list(SPECIAL_TOKENS[1:]), model_max_length=_MAX_LENGTH)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [n + i for i in range(len(SPECIAL_TOKENS))]
    return tokenizer


def _corpus(seed: int) -> Iterator[str]:
    """Yield mini text as in the language model's training, with enough of every word for its own token."""
    fixed = [
        CHATML.default_system or "",
        "system\n",
        "user\n",
        "assistant\n",
        *BRIEF_INSTRUCTIONS,
        *PLACED_INSTRUCTIONS,
    ]
    fixed += [s.template.replace("{question}", "") for task in TASKS.values() for s in task.styles.values()]
    fixed += [f"The background is {b}." for b in BACKGROUNDS]
    fixed += ["Here are the things: a\n"]
    yield from fixed * 100
    for index in range(_SCENES):
        scene = draw_scene(seed, "parts-tokenizer", index, LABELLED)
        yield from (brief_caption(scene, placed=True), detailed_description(scene), cod_caption(scene))
        type_ = QUESTION_TYPES[index % len(QUESTION_TYPES)]
        for question in evenly_spaced(all_questions(scene, type_, name_held_out=False), 3):
            yield question_text(question)
            yield f" {question.answer}"
            yield cot_text(scene, question)


def evenly_spaced(items: Iterable, most: int) -> list:
    """Return at most this many of the items, evenly spread."""
    items = list(items)
    return items[:: max(1, len(items) // most)][:most]
