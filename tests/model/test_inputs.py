"""What the processor is called with: markers, several texts, kinds of images, options; and what it refuses by name."""

import numpy as np
import pytest
import torch
from golden_recipe import draw_image
from PIL import Image
from tiny import tiny_tokenizer

from sicog.model import SicogImageProcessor, SicogProcessor
from sicog.model.inputs import as_image, question
from sicog.records import Turn

PLACEHOLDER = 320
ONE, OTHER = draw_image(112, 112, 1), draw_image(110, 60, 2)


@pytest.fixture(scope="module")
def processor():
    image_processor = SicogImageProcessor(scale=56, max_slices=4)
    return SicogProcessor(image_processor, tiny_tokenizer(), PLACEHOLDER, 10, 11, query_grid=2)


def user(text, *at):
    return Turn(role="user", text=text, images_at=at)


def same(inputs, others):
    return inputs.keys() == others.keys() and all(torch.equal(inputs[name], others[name]) for name in inputs)


@pytest.mark.parametrize("text", ["<image>\nWhat is this?", "What is this?\n<image>", "<image>What is this?"])
def test_a_marker_is_its_image_in_front(processor, text):
    assert same(processor(images=ONE, text=text), processor(images=ONE, text="What is this?"))


def test_several_markers_are_where_the_images_stand():
    assert question("<image>\nHere <image> and <image>.", 3) == user("Here  and .", 0, 5, 10)
    assert question("Both?", 2) == user("Both?", 0, 0)
    assert question("What does <image> mean?", 0) == user("What does <image> mean?")


@pytest.mark.parametrize(("text", "n_images"), [("<image> <image>", 1), ("<image>", 2)])
def test_a_wrong_number_of_markers_is_refused(processor, text, n_images):
    with pytest.raises(ValueError, match=rf"{text.count('<image>')} <image> for {n_images} images"):
        processor(images=[ONE] * n_images, text=text)


def test_the_word_itself_can_be_asked_about(processor):
    inputs = processor(images=ONE, text=[user("What does <image> mean?", 0)])
    assert "What does <image> mean?" in processor.decode(inputs["input_ids"][0])


def test_a_path_and_an_array_are_images(processor, tmp_path):
    ONE.save(tmp_path / "one.png")
    expected = processor(images=ONE, text="What?")
    for image in (tmp_path / "one.png", str(tmp_path / "one.png"), np.asarray(ONE), [ONE], (np.asarray(ONE),)):
        assert same(processor(images=image, text="What?"), expected)
    grey = np.asarray(ONE.convert("L"))
    assert as_image(grey).mode == "L" and as_image(np.asarray(ONE.convert("RGBA"))).mode == "RGBA"
    pixels = processor.image_processor(str(tmp_path / "one.png"))["pixel_values"]
    assert np.array_equal(pixels, processor.image_processor(ONE)["pixel_values"])


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("https://example.org/cat.png", "URLs are not downloaded"),
        ("no-such.png", "no-such.png: no such image file"),
        (np.zeros((3, 8, 8), np.uint8), r"uint8 \[3, 8, 8\] is not an image"),
        (np.zeros((8, 8, 3), np.float32), r"float32 \[8, 8, 3\] is not an image"),
        (torch.zeros(3, 8, 8), "got Tensor"),
        ({"role": "user", "content": "Hi"}, r"Use apply_chat_template\("),
        (7, "got int"),
    ],
)
def test_what_is_no_image_gets_a_sentence(processor, image, said):
    for call in (lambda: processor(images=image, text="What?"), lambda: processor.image_processor(image)):
        with pytest.raises(ValueError, match=said):
            call()


def test_several_texts_are_one_padded_batch(processor):
    texts = ["What is this?", "How many are there in all?", "And <image> beside <image>?", "Hello"]
    images = [ONE, [OTHER], [ONE, OTHER], None]
    inputs = processor(images=images, text=texts)
    assert inputs["input_ids"].shape[0] == 4 and len(inputs["image_grids"]) == 4
    for row, mask, text, own in zip(inputs["input_ids"], inputs["attention_mask"], texts, images, strict=True):
        assert row[mask == 1].tolist() == processor(images=own, text=text)["input_ids"][0].tolist()
    assert (inputs["attention_mask"][:, -1] == 1).all()  # padded on the left, for generate
    assert (processor(text=texts[:2], padding_side="right")["attention_mask"][:, 0] == 1).all()
    turns = [[user("a"), Turn(role="assistant", text="b"), user("c")], [user("d")]]
    assert processor(text=turns)["input_ids"].shape[0] == 2


@pytest.mark.parametrize(
    ("images", "text", "said"),
    [
        ([ONE], ["a", "b"], "2 texts need images of 2 entries.*got 1"),
        (ONE, ["a", "b"], "got one"),
        (None, [], "text must be a string, a list of turns"),
        (None, None, "got None"),
        (None, ["a", 7], "it contains 7"),
        (None, [{"role": "user", "content": "Hi"}], r"Use apply_chat_template\("),
        (None, [[{"role": "user", "content": "Hi"}]], r"Use apply_chat_template\("),
    ],
)
def test_what_is_no_text_gets_a_sentence(processor, images, text, said):
    with pytest.raises(ValueError, match=said):
        processor(images=images, text=text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_size": 5}, "unknown argument 'max_size'; known: images, text"),
        ({"videos": None}, "unknown argument 'videos'"),
        ({"return_tensors": "np"}, "return_tensors='np'"),
        ({"padding": "max_length"}, "padding='max_length'"),
        ({"pad_to_multiple_of": 8}, "pad_to_multiple_of=8"),
        ({"padding_side": "middle"}, "padding_side is 'right' or 'left'"),
        ({"truncation": True}, "truncation without max_length"),
        ({"truncation": True, "max_length": 5}, "row 0 has .* more than max_length 5"),
        ({"max_length": 5}, "more than max_length 5"),
        ({"padding": False}, "padding=False with rows of"),
    ],
)
def test_an_option_is_followed_or_refused(processor, options, said):
    with pytest.raises(ValueError, match=said):
        processor(text=["Hi", "What is shown here?"], **options)


def test_the_options_of_other_processors_that_change_nothing_are_taken(processor):
    usual = {"padding": True, "truncation": True, "max_length": 999, "return_tensors": "pt", "pad_to_multiple_of": None}
    assert same(processor(text="Hi", **usual), processor(text="Hi"))
    lists = processor(text="Hi", return_tensors=None)["input_ids"]
    assert lists == processor(text="Hi", padding=False)["input_ids"].tolist()


def test_decode_shows_special_tokens_when_asked(processor):
    ids = processor(images=ONE, text="Hi")["input_ids"][0]
    assert processor.decode(ids, skip_special_tokens=False).endswith("Hi<|im_end|>\n<|im_start|>assistant\n")
    assert "<|im_end|>" in processor.batch_decode([ids], skip_special_tokens=False)[0]
    assert "<|" not in processor.decode(ids)
    with pytest.raises(TypeError, match="no_such"):
        processor.decode(ids, no_such=True)
    with pytest.raises(ValueError, match="ids of one row. Use batch_decode"):
        processor.decode(ids[None])


def test_the_image_processor_refuses_unknown_arguments(processor):
    with pytest.raises(TypeError, match="do_resize"):
        processor.image_processor(Image.new("RGB", (8, 8)), do_resize=False)
