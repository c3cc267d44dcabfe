"""Tiny random models for tests: a CLIP tower, Qwen2 and Llama language models with small tokenizers, and the whole."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA_SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
SCALE = 56  # pixels a side of one view, 4 patches of 14
_TEXT = [
    "You are a helpful assistant.",
    "system user assistant",
    "Please generate a detailed caption of this image. Describe the image step-by-step.",
    "Step 1: Extract the salient content of the image. Step 2: Describe the details of each instance.",
    "How many objects are there? Answer the question using a single word or phrase.",
    "There is a large red circle to the left of a small blue square. The answer is two.",
]


def tiny_tokenizer(vocab_size: int = 320) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer as Qwen2's, with its three special tokens."""
    return PreTrainedTokenizerFast(
        tokenizer_object=_trained(vocab_size, SPECIAL), eos_token=SPECIAL[2], pad_token=SPECIAL[0]
    )


def tiny_llama_tokenizer(vocab_size: int = 320) -> PreTrainedTokenizerFast:
    """The same with Llama-3.1's special tokens, and as there without one for padding."""
    return PreTrainedTokenizerFast(
        tokenizer_object=_trained(vocab_size, LLAMA_SPECIAL), bos_token=LLAMA_SPECIAL[0], eos_token=LLAMA_SPECIAL[4]
    )


def _trained(vocab_size: int, special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    return tokenizer


def tiny_parts(folder: Path, *, width: int = 32, seed: int = 0) -> tuple[Path, Path]:
    """(vision tower folder, language model folder), saved as users have them."""
    torch.manual_seed(seed)
    vision, text = folder / "vision", folder / "text"
    CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=SCALE,
            patch_size=14,
        )
    ).save_pretrained(vision)
    tokenizer = tiny_tokenizer()
    Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer) + 1,  # one spare row, for the placeholder
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=2048,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    ).save_pretrained(text)
    tokenizer.save_pretrained(text)
    return vision, text


def tiny_llama(folder: Path, *, width: int = 32, tied: bool = False, seed: int = 0) -> Path:
    """A language model as Llama-3.1 is: every row of its table is a token, so the placeholder lies above it."""
    torch.manual_seed(seed)
    tokenizer = tiny_llama_tokenizer()
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=2048,
            tie_word_embeddings=tied,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_checkpoint(folder: Path, *, width: int = 32, query_grid: int = 2, seed: int = 0) -> Path:
    """A whole checkpoint of random weights in `folder`; its parts lie in `folder/parts`."""
    from sicog.model import load_parts

    vision, text = tiny_parts(folder / "parts", width=width, seed=seed)
    torch.manual_seed(seed)
    model, processor = load_parts(vision, text, scale=SCALE, query_grid=query_grid, max_slices=4)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
