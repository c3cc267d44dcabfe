"""A new language model: any causal language model of Transformers instead of Qwen2, here a small Mistral.

python examples/new_language_model.py runs/mistral
"""

import sys
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

from sicog.mini.parts_training.mini_parts import LANGUAGE, SHIPPED, VISION, unpack
from sicog.model import load_parts
from sicog.records import Turn


def write_mistral(folder: Path, tokenizer_of: Path) -> Path:
    """Write the files of a language model as on the hub: config, weights, tokenizer. You would download yours."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    config = MistralConfig(
        vocab_size=len(tokenizer) + 1,  # one row more than tokens: the image placeholder's
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    MistralForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build(out: Path) -> float:
    """Write a checkpoint of the mini vision tower, a fresh projector and a Mistral to `out`; the loss of one row."""
    torch.manual_seed(0)
    parts = out / "parts"
    unpack(SHIPPED, parts)
    mistral = write_mistral(parts / "mistral", parts / LANGUAGE)
    # Only the turn format is needed. The tokenizer must have the tokens of that format.
    model, processor = load_parts(parts / VISION, mistral, scale=112, query_grid=4, turn_format="chatml")
    turns = [Turn(role="user", text="What is this?", images_at=(0,)), Turn(role="assistant", text="a red circle")]
    row = processor.encode(turns, [Image.new("RGB", (200, 120), "red")])
    loss = model(**processor.collate([row], padding_side="right", with_labels=True)).loss
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return float(loss.detach())


if __name__ == "__main__":
    print(f"loss {build(Path(sys.argv[1])):.3f}; now train it: sicog train CONFIG model.checkpoint={sys.argv[1]} ...")
