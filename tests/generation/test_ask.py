"""`sicog ask`: the majority's answer, its steps, the agreement; and a real call on a tiny model."""

import io

import pytest
from generation.worlds import picture
from rich.console import Console

from sicog.chains import COT, render
from sicog.generation.ask import ask, chosen, show, task_of
from sicog.generation.sampling import Sample
from sicog.tasks import CAPTIONING, REASONING


def _cot(answer, n=0, reason="stop"):
    return Sample("cot", "p", n, render(COT, ("Count.", "Two circles.", f"So {answer}.", answer)), reason, (1, 2))


def test_the_majority_wins_with_its_first_sample():
    samples = [
        _cot("Three"),
        _cot("2"),
        _cot("Two."),
        _cot("two", reason="length"),
        Sample("cot", "p", 4, "?", "stop", ()),
    ]
    answer = chosen(samples, REASONING, "cot")
    assert answer.text == "2" and answer.agreement == 2 / 5
    assert answer.steps[0] == (COT.headings[0], "Count.") and len(answer.steps) == 4
    assert answer.answers == ("Three", "2", "Two.", None, None)


def test_nothing_parses():
    answer = chosen([Sample("cot", "p", 0, "no steps", "stop", ())], REASONING, "cot")
    assert answer.text == "no steps" and answer.agreement is None and answer.steps == ()


def test_captions_take_the_first():
    samples = [Sample("dd", "p", i, text, "stop", ()) for i, text in enumerate(("a dog", "a cat", "a cat"))]
    answer = chosen(samples, CAPTIONING, "dd")
    assert answer.text == "a dog" and answer.agreement is None


def test_what_is_printed_is_not_markup():
    out = io.StringIO()
    show(chosen([_cot("[red]2[/red]"), _cot("3")], REASONING, "cot"), "How [bold]many?", Console(file=out, width=100))
    assert "How [bold]many?" in out.getvalue() and "[red]2[/red]" in out.getvalue()
    assert "1 of 2 samples give this answer" in out.getvalue()


def test_ask_a_tiny_checkpoint(tiny_dir, tmp_path):
    picture(1).save(tmp_path / "a.png")
    out = io.StringIO()
    values = {"style": "direct", "samples": 3, "max_new_tokens": 4, "console": Console(file=out)}
    answer = ask(tiny_dir, tmp_path / "a.png", "How many?", **values)
    assert len(answer.samples) == 3 and "How many?" in out.getvalue()
    assert ask(tiny_dir, tmp_path / "a.png", "How many?", **values) == answer


def test_mistakes(tiny_dir, tmp_path):
    picture(1).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="unknown style 'x'; known: cod"):
        task_of("x")
    with pytest.raises(ValueError, match="needs a question"):
        ask(tiny_dir, tmp_path / "a.png", "", style="cot")
    with pytest.raises(ValueError, match="no such image"):
        ask(tiny_dir, tmp_path / "b.png", "How many?")
    with pytest.raises(ValueError, match="samples"):
        ask(tiny_dir, tmp_path / "a.png", "How many?", samples=0)
