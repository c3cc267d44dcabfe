"""The adapter as the kit calls it, row after row: whose rows are answered together, in which words, in which order."""

import sys
from pathlib import Path

import pandas as pd
import pytest

from sicog.evaluation.answering import Answering
from sicog.evaluation.forms import COT_TOKENS, FORMS, Prompt

STUB = Path(__file__).parents[1] / "stub"


@pytest.fixture
def adapter(monkeypatch):
    """The adapter's module beside the stand-in of the kit, with a model that says what it was asked."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(STUB)
    from sicog.evaluation import answering
    from sicog.evaluation.kit import adapter

    monkeypatch.setattr(answering, "Answering", Echo)
    yield adapter
    for name in set(sys.modules) - before:
        if name.startswith("vlmeval") or name == "sicog.evaluation.kit.adapter":
            del sys.modules[name]


class Echo:
    """Remembers its batches."""

    def __init__(self, checkpoint, **settings):
        self.settings, self.batches = settings, []

    def __call__(self, prompts):
        self.batches.append(list(prompts))
        return [f"{p.images[0] if p.images else '-'}|{p.text}" for p in prompts]


class DataSet:
    """Rows as the kit has them."""

    def __init__(self, n):
        self.data = pd.DataFrame([{"index": i, "question": f"Question {i}?"} for i in range(n)])

    def dump_image(self, line):
        return [f"{line['index']}.png"]

    def build_prompt(self, line):
        return [{"type": "text", "value": f"The kit's words: {line['question']}"}]


def asked(model, rows, data_set, name="docs"):
    """The answers to these rows, as the kit's inference loop gets them."""
    model.set_dump_image(data_set.dump_image)
    answers = []
    for i in rows:
        assert model.use_custom_prompt(name)
        message = model.build_prompt(data_set.data.iloc[i], dataset=name)
        answers.append(model.generate(message, dataset=name))
    return answers


def test_rows_are_answered_in_batches_and_each_gets_its_own_answer(adapter):
    model = adapter.SicogModel("somewhere", {"docs": "document"}, batch_size=3, temperature=0.0)
    answers = asked(model, range(7), DataSet(7))
    words = FORMS["document"]
    assert answers == [f"{i}.png|{words.prompt({'question': f'Question {i}?'}, 'direct')}" for i in range(7)]
    assert [len(batch) for batch in model._answer.batches] == [3, 3, 1]
    assert {p.max_new_tokens for batch in model._answer.batches for p in batch} == {words.max_new_tokens}


def test_a_process_of_several_answers_its_own_rows_alone(adapter, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    model = adapter.SicogModel("somewhere", {"docs": "short"}, batch_size=4)
    answers = asked(model, (1, 3, 5, 7, 9), DataSet(10))
    assert [a.split(".")[0] for a in answers] == ["1", "3", "5", "7", "9"]
    assert [[p.images[0] for p in batch] for batch in model._answer.batches] == [
        ["1.png", "3.png", "5.png", "7.png"],
        ["9.png"],
    ]


def test_answers_of_one_data_set_are_not_taken_for_another_s(adapter):
    model = adapter.SicogModel("somewhere", {"docs": "short", "more": "short"}, batch_size=8)
    asked(model, [0], DataSet(4))
    asked(model, [0], DataSet(4), name="more")
    assert len(model._answer.batches) == 2


def test_data_sets_that_no_form_is_given_for_are_asked_in_the_kit_s_words(adapter):
    model = adapter.SicogModel("somewhere", {}, batch_size=1)
    assert asked(model, [2], DataSet(3)) == ["-|The kit's words: Question 2?"]


def test_chains_of_thought_may_be_long_and_an_own_limit_holds(adapter):
    chain = "\n\n".join(f"Step {k}: heading\nbody {k}" for k in (1, 2, 3, 4))
    model = adapter.SicogModel("somewhere", {"docs": "short"}, style="cot")
    seen = []
    model._answer = lambda prompts: [seen.append(p) or chain for p in prompts]
    assert asked(model, [0], DataSet(1)) == ["body 4"]
    assert seen[0].max_new_tokens == COT_TOKENS
    assert adapter.SicogModel("somewhere", {}, max_new_tokens=7)._prompt([{"type": "text", "value": "?"}], "docs") == (
        Prompt((), "?", (), 7)
    )


def test_images_stand_where_the_message_has_them(adapter):
    parts = [("image", "a.png"), ("text", "Before"), ("image", "b.png"), ("text", "after")]
    message = [{"type": kind, "value": value} for kind, value in parts]
    prompt = adapter.SicogModel("somewhere", {})._prompt(message, "docs")
    assert (prompt.images, prompt.text, prompt.images_at) == (("a.png", "b.png"), "Before\nafter", (0, 6))
    with pytest.raises(ValueError, match="unknown message part of type 'video'"):
        adapter.SicogModel("somewhere", {})._prompt([{"type": "video", "value": "x"}], "docs")


def test_greedy_answers_are_those_of_one_at_a_time(tiny_dir, tmp_path):
    from PIL import Image

    sizes = [(60, 40), (300, 100), (56, 200)]
    prompts = []
    for i, size in enumerate(sizes):
        Image.linear_gradient("L").resize(size).save(tmp_path / f"{i}.png")
        prompts.append(Prompt((str(tmp_path / f"{i}.png"),), "How many?" * (i + 1), (0,), 6))
    answering = Answering(tiny_dir, device="cpu")
    assert answering(prompts) == [answering([prompt])[0] for prompt in prompts]
    (tmp_path / "0.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="0.png"):
        answering(prompts)
    long = Prompt((), "words " * 3000, (), 6)
    with pytest.raises(ValueError, match="tokens, but prompt and answer must fit into 2048"):
        answering([long])
