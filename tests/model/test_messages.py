"""Messages: the same ids by way of the chat template and without it, and contents that never become control tokens."""

import numpy as np
import pytest
import torch
from golden_recipe import draw_image
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import LLAMA_SPECIAL, SPECIAL, tiny_llama_tokenizer, tiny_tokenizer
from transformers import AutoTokenizer

from sicog.model import SicogImageProcessor, SicogProcessor
from sicog.model.messages import read_conversations
from sicog.model.turn_formats import ESCAPE, TURN_FORMATS, Rendered
from sicog.records import Turn

PLACEHOLDER = 999
ONE, OTHER = draw_image(112, 112, 1), draw_image(110, 60, 2)
TOKENIZERS = {"chatml": tiny_tokenizer, "llama3": tiny_llama_tokenizer}
ATTACKS = [*SPECIAL, *LLAMA_SPECIAL, "<image>", "<tool_call>", ESCAPE, f"<{ESCAPE}|im_end|>", "<", "|im_end|>", "\n\n"]


def made(turn_format, *added):
    tokenizer = TOKENIZERS[turn_format]()
    tokenizer.add_tokens(list(added))
    image_processor = SicogImageProcessor(scale=56, max_slices=4)
    return SicogProcessor(image_processor, tokenizer, PLACEHOLDER, 10, 11, query_grid=2, turn_format=turn_format)


PROCESSORS = {name: made(name, "<tool_call>") for name in TURN_FORMATS}


def said(role, *parts):
    kinds = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image", "image": p} for p in parts]
    return {"role": role, "content": kinds}


CHAT = [
    said("user", ONE, "What is this?"),
    {"role": "assistant", "content": "A cat."},
    said("user", "Look here ", OTHER, " and ", ONE, "?"),
]


@pytest.fixture(params=TURN_FORMATS)
def processor(request):
    return PROCESSORS[request.param]


def test_messages_are_turns_and_images():
    (chat,), many = read_conversations(CHAT)
    assert not many and chat.images == (ONE, OTHER, ONE)
    assert chat.turns == (
        Turn(role="user", text="What is this?", images_at=(0,)),
        Turn(role="assistant", text="A cat."),
        Turn(role="user", text="Look here  and ?", images_at=(10, 15)),
    )
    (behind,), _ = read_conversations([said("user", "What is this? ", ONE)])
    assert behind.turns == chat.turns[:1]  # as in rows to train on, a single image stands in front
    (openai,), _ = read_conversations(
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "cat.png"}}]}]
    )
    assert openai.images == ("cat.png",)


def test_with_and_without_the_text_between_the_ids_are_the_same(processor):
    inputs = processor.apply_chat_template(
        CHAT, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    text = processor.apply_chat_template(CHAT, add_generation_prompt=True)
    (chat,), _ = read_conversations(CHAT)
    encoded = processor.encode(chat.turns, chat.images, add_generation_prompt=True)
    images = [ONE, OTHER, ONE]
    for other in (processor(images=images, text=text), processor(text=[text], images=[images])):
        assert inputs.keys() == other.keys() and all(torch.equal(inputs[k], other[k]) for k in inputs)
    assert inputs["input_ids"].tolist() == [encoded.input_ids]
    plain = str(text)  # what was joined or cut is no `Rendered` any more
    assert torch.equal(processor(images=images, text=plain, add_special_tokens=False)["input_ids"], inputs["input_ids"])
    with pytest.raises(ValueError, match="add_special_tokens=False"):
        processor(images=images, text=plain)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(TURN_FORMATS)),
    st.lists(st.tuples(st.booleans(), st.lists(st.sampled_from([*ATTACKS, "a", " ", ONE]), max_size=6)), min_size=1),
)
def test_no_content_becomes_a_control_token(turn_format, turns):
    processor = PROCESSORS[turn_format]
    chat = [
        said("user", *parts) if own else said("assistant", *(p for p in parts if p is not ONE)) for own, parts in turns
    ]
    (read,), _ = read_conversations(chat)
    ids = processor.encode(read.turns, read.images).input_ids
    text = processor.apply_chat_template(chat)
    assert processor(images=list(read.images), text=text)["input_ids"].tolist() == [ids]
    clean = processor.encode([t.model_copy(update={"text": "", "images_at": ()}) for t in read.turns]).input_ids
    control = set(processor.tokenizer.get_added_vocab().values())
    assert [i for i in ids if i in control] == [i for i in clean if i in control]
    # Nor for whoever tokenises the text with the tokenizer alone, as servers do.
    alone = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert [i for i in alone if i in control] == [i for i in clean if i in control]


def test_a_part_of_a_rendered_conversation_can_be_read(processor):
    """TRL cuts the text into prompt and answer, and joins the ids."""
    messages = [said("user", "Where <|im_end|>?"), said("assistant", "Here <|eot_id|>.")]
    prompt = processor.apply_chat_template(messages[:1], add_generation_prompt=True)
    whole = processor.apply_chat_template(messages)
    assert whole.startswith(prompt)
    parts = [
        processor(text=part, add_special_tokens=False)["input_ids"][0] for part in (str(prompt), whole[len(prompt) :])
    ]
    ids = processor.apply_chat_template(messages, tokenize=True, return_tensors="pt")
    assert torch.equal(torch.cat(parts), ids[0])


def test_the_assistants_words_are_marked(processor):
    chats = [CHAT[:2], [said("user", "Hi"), said("assistant", "Yes, hello.")]]
    inputs = processor.apply_chat_template(
        chats, tokenize=True, return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True
    )
    shown = [row[mask == 1] for row, mask in zip(inputs["input_ids"], inputs["assistant_masks"], strict=True)]
    assert processor.batch_decode(shown) == ["A cat.", "Yes, hello."]
    assert all(row[-1] == processor.end_token_id for row in shown)
    assert [len(t) for t in processor.apply_chat_template(chats)] and isinstance(
        processor.apply_chat_template(chats)[0], Rendered
    )


def test_an_answer_can_be_continued(processor):
    chat = [said("user", "Hi"), said("assistant", "Well, <|im_end|>")]
    ids = processor.apply_chat_template(chat, tokenize=True, continue_final_message=True)[0]
    text = processor.apply_chat_template(chat, continue_final_message=True)
    assert processor(text=text)["input_ids"].tolist() == [ids]
    assert processor.decode(ids, skip_special_tokens=False).endswith("Well, <|im_end|>") and ids[-1] >= 5


def test_lists_of_ids_unless_tensors_are_asked_for(processor):
    out = processor.apply_chat_template(CHAT, tokenize=True, return_dict=True)
    assert isinstance(out["input_ids"][0], list) and isinstance(out["pixel_values"], torch.Tensor)


@pytest.mark.parametrize(
    ("messages", "options", "sentence"),
    [
        ("Hi", {}, "a conversation must be a list of messages"),
        ([], {}, "a conversation must be a list of messages"),
        ([{"role": "tool", "content": "x"}], {}, "message 1 needs a role"),
        ([{"content": "x"}], {}, "message 1 needs a role"),
        (
            [said("user", "x"), {"role": "assistant", "content": None}],
            {},
            "message 2: content must be a text or a list",
        ),
        ([{"role": "user", "content": [{"type": "video", "video": "x"}]}], {}, "message 1: a part of the content"),
        ([said("assistant", ONE)], {}, "message 1: images must be in user messages"),
        ([{"role": "user", "content": [{"type": "image"}]}], {"tokenize": True}, "has no image"),
        ([said("user", np.zeros(3))], {"tokenize": True}, r"float64 \[3\] is not an image"),
        (CHAT, {"tools": [{}]}, "tools: turn format 'chatml' does not support them"),
        (CHAT, {"documents": [{}]}, "documents: turn format"),
        (CHAT, {"chat_template": "{{ messages }}"}, "chat_template: turn format 'chatml' decides"),
        (CHAT, {"sanitize_control_tokens": False}, "content never becomes a control token"),
        (CHAT, {"continue_final_message": True}, "needs an assistant message at the end"),
        (
            CHAT,
            {"continue_final_message": True, "add_generation_prompt": True},
            "cannot be combined with add_generation_prompt",
        ),
        (CHAT, {"tokenize": True, "no_such": 1}, "unknown argument 'no_such'"),
        (CHAT, {"tokenize": True, "processor_kwargs": {"max_length": 3}}, "more than max_length 3"),
        (CHAT, {"tokenize": True, "add_special_tokens": True}, "add_special_tokens: a conversation always has its"),
    ],
)
def test_what_is_not_supported_gets_a_sentence(messages, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        PROCESSORS["chatml"].apply_chat_template(messages, **options)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("<|im_start|>tool\nx<|im_end|>\n", r"holds '<\|im_start\|>' where turn format 'chatml' writes none"),
        ("<|im_start|>user\n<image>\nx<|im_end|>\n", "has 1 images, but 0 were given"),
    ],
)
def test_a_rendered_text_that_was_changed_is_refused(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        PROCESSORS["chatml"](text=text, add_special_tokens=False)


def test_the_template_is_saved_for_others(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == processor.chat_template
    loaded = SicogProcessor.from_pretrained(tmp_path)
    assert loaded.apply_chat_template(CHAT) == processor.apply_chat_template(CHAT)
    alone = AutoTokenizer.from_pretrained(tmp_path)
    chat = [said("user", "Is <|im_end|> text?"), said("assistant", "Yes.")]
    assert alone.apply_chat_template(chat, tokenize=False) == processor.apply_chat_template(chat)
    mask = alone.apply_chat_template(chat, return_assistant_tokens_mask=True)
    words = [i for i, m in zip(mask["input_ids"], mask["assistant_masks"], strict=True) if m]
    assert words == [*alone.encode("Yes.", add_special_tokens=False), processor.end_token_id]


def test_another_template_in_the_folder_changes_nothing(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")  # such as the language model's own
    assert SicogProcessor.from_pretrained(tmp_path).chat_template == processor.chat_template
