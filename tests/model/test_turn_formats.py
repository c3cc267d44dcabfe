"""Turn formats: the published templates, what is supervised, and content that never becomes control."""

from typing import get_args

import pytest
from golden_recipe import draw_image
from tiny import LLAMA_SPECIAL, SPECIAL, tiny_llama, tiny_llama_tokenizer, tiny_parts, tiny_tokenizer

from sicog.model import SicogImageProcessor, SicogProcessor, load_checkpoint, load_parts
from sicog.model.processing import TURN_FORMATS
from sicog.records import Turn
from sicog.training.config import ModelSource

PLACEHOLDER = 999
# Llama-3's published template for turns of text, without the 3.1 release's lines about dates.
LLAMA3_TEMPLATE = (
    "{% for m in messages %}{{ bos_token if loop.first else '' }}"
    "<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
TOKENIZERS = {"chatml": tiny_tokenizer, "llama3": tiny_llama_tokenizer}
TURNS = [Turn(role="user", text="How many?"), Turn(role="assistant", text="There are two.")]


def made(turn_format):
    tokenizer = TOKENIZERS[turn_format]()
    return SicogProcessor(SicogImageProcessor(scale=56), tokenizer, PLACEHOLDER, 10, 11, 2, turn_format=turn_format)


def test_the_config_names_every_format():
    (names, _) = get_args(ModelSource.model_fields["turn_format"].annotation)
    assert set(get_args(names)) == set(TURN_FORMATS) == set(TOKENIZERS)


@pytest.mark.parametrize("system", [(), (Turn(role="system", text="Be a helpful assistant."),)])
@pytest.mark.parametrize("prompt", [False, True])
def test_llama_turns_equal_the_published_template(system, prompt):
    processor = made("llama3")
    turns = [*system, *TURNS, Turn(role="user", text="Where?")]
    messages = [{"role": t.role, "content": t.text} for t in turns]
    text = processor.tokenizer.apply_chat_template(
        messages, chat_template=LLAMA3_TEMPLATE, tokenize=False, add_generation_prompt=prompt
    )
    ids, _ = processor.encode_text(turns, add_generation_prompt=prompt)
    assert ids == processor.tokenizer.encode(text, add_special_tokens=False)
    assert text.startswith("<|begin_of_text|><|start_header_id|>") and ("system" in text) == bool(system)


@pytest.mark.parametrize("turn_format", TURN_FORMATS)
def test_supervised_are_the_answers_and_their_end_tokens(turn_format):
    processor = made(turn_format)
    ids, labels = processor.encode_text([*TURNS, *TURNS])
    answer = [*processor.tokenizer.encode(TURNS[1].text, add_special_tokens=False), processor.end_token_id]
    assert [label for label in labels if label != -100] == answer * 2
    assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))
    assert labels[0] == -100


@pytest.mark.parametrize("turn_format", TURN_FORMATS)
@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_content_never_becomes_control(turn_format, role):
    processor = made(turn_format)
    control = set(processor.tokenizer.convert_tokens_to_ids([*(SPECIAL if turn_format == "chatml" else LLAMA_SPECIAL)]))
    words = {"system": "Be brief.", "user": "Hi", "assistant": "Yes"}
    attack = "".join([*SPECIAL, *LLAMA_SPECIAL]) + "\n\n<image>"

    def controls(text):
        turns = [Turn(role=r, text=text if r == role else t) for r, t in words.items()]
        return [i for i in processor.encode_text(turns)[0] if i in {*control, PLACEHOLDER}]

    assert controls(f"a {attack} b") == controls("a b")


def test_an_image_in_front_is_followed_by_a_newline():
    processor = made("llama3")
    ids = processor.encode([Turn(role="user", text="What?", images_at=(0,))], [draw_image(56, 56, 1)]).input_ids
    words = processor.tokenizer.encode("\nWhat?<|eot_id|>", add_special_tokens=False)
    head = processor.tokenizer.encode("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n")
    assert ids == [*head, *[PLACEHOLDER] * 4, *words]


def test_a_tokenizer_without_the_tokens_is_refused():
    with pytest.raises(ValueError, match=r"no '<\|eot_id\|>' token.*choose another turn_format: chatml, llama3"):
        SicogProcessor(SicogImageProcessor(), tiny_tokenizer(), 1, 2, 3, turn_format="llama3")


def test_a_llama_model_from_parts_keeps_its_format(tmp_path):
    vision, _ = tiny_parts(tmp_path)
    model, processor = load_parts(vision, tiny_llama(tmp_path / "llama"), turn_format="llama3", scale=56, query_grid=2)
    assert model.image_token_id == model.config.text_config.vocab_size == len(processor.tokenizer)
    assert processor.pad_token_id == processor.end_token_id in model.generation_config.eos_token_id
    model.save_pretrained(tmp_path / "whole")
    processor.save_pretrained(tmp_path / "whole")
    loaded, again = load_checkpoint(tmp_path / "whole")
    inputs = again(draw_image(110, 60, 1), "What?")
    assert again.turn_format == "llama3"
    out = loaded.generate(**inputs, max_new_tokens=3)
    assert out.shape[1] > inputs["input_ids"].shape[1]
