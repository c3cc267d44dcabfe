"""`sicog ask`: the majority's answer, its steps, the agreement; and a real call on a tiny model."""

import io

import pytest
from generation.worlds import picture
from rich.console import Console
from typer.testing import CliRunner

from sicog import cli
from sicog.chains import COD, COT, render
from sicog.console import console_on
from sicog.generation.ask import ask, choose_answer, show, task_of
from sicog.generation.sampling import Sample
from sicog.tasks import CAPTIONING, REASONING, TASKS


def _cot(answer, n=0, reason="stop"):
    return Sample("cot", "p", n, render(COT, ("Count.", "Two circles.", f"So {answer}.", answer)), reason, (1, 2))


def shown(answer):
    out = io.StringIO()
    show(answer, "the prompt", Console(file=out, width=200))
    return out.getvalue()


def test_the_majority_wins_with_its_first_sample():
    samples = [
        _cot("Three"),
        _cot("2"),
        _cot("Two."),
        _cot("two", reason="length"),
        Sample("cot", "p", 4, "?", "stop", ()),
    ]
    answer = choose_answer(samples, REASONING, "cot")
    assert answer.text == "2" and answer.agreement == 2 / 5
    assert answer.steps[0] == (COT.headings[0], "Count.") and len(answer.steps) == 4
    assert answer.answers == ("Three", "2", "Two.", None, None)


def test_when_nothing_parses_there_is_no_answer():
    answer = choose_answer([Sample("cot", "p", i, f"no [steps] {i}", "stop", ()) for i in range(5)], REASONING, "cot")
    assert answer.text is None and answer.agreement is None and answer.steps == ()
    printed = shown(answer)
    assert "no answer: 0 of 5 samples could be read" in printed
    assert printed.index("the text of the first, as it is:") < printed.index("no [steps] 0")
    assert "agreement" not in printed and "no [steps] 1" not in printed


def test_the_answer_is_printed_once_and_marked():
    printed = shown(choose_answer([_cot("2")], REASONING, "cot"))
    assert printed.splitlines()[-2] == "answer: 2" and printed.splitlines()[-3] == f"Step 4: {COT.headings[3]}"
    assert "answer: a dog" in shown(choose_answer([Sample("dd", "p", 0, "a dog", "stop", ())], CAPTIONING, "dd"))


def test_the_agreement_counts_votes_and_what_could_be_read():
    printed = shown(choose_answer([_cot("2"), _cot("3"), _cot("two"), _cot("2", reason="length")], REASONING, "cot"))
    assert "agreement: 2 of 4 samples give this answer; 3 of 4 samples could be read" in printed


def test_of_captions_the_first_that_parses_is_shown_and_no_agreement_is_claimed():
    texts = ("no steps", render(COD, ("A dog.", "Red.", "Left.", "Grass.", "A red dog.")))
    answer = choose_answer([Sample("cod", "p", i, text, "stop", ()) for i, text in enumerate(texts)], CAPTIONING, "cod")
    assert answer.text == "A red dog." and len(answer.steps) == 5
    printed = shown(answer)
    assert "agreement is not computed for captions (an encoder would be needed)" in printed
    assert "1 of 2 samples could be read, this is the first of them" in printed
    assert "agreement" not in shown(choose_answer([Sample("dd", "p", 0, "a dog", "stop", ())], CAPTIONING, "dd"))


def test_captions_take_the_first():
    samples = [Sample("dd", "p", i, text, "stop", ()) for i, text in enumerate(("a dog", "a cat", "a cat"))]
    answer = choose_answer(samples, CAPTIONING, "dd")
    assert answer.text == "a dog" and answer.agreement is None


def test_what_is_printed_is_not_markup():
    out = io.StringIO()
    show(
        choose_answer([_cot("[red]2[/red]"), _cot("3")], REASONING, "cot"), "How [bold]many?", console_on(out, file=out)
    )
    assert "How [bold]many?" in out.getvalue() and "[red]2[/red]" in out.getvalue()
    assert "1 of 2 samples give this answer" in out.getvalue()


def test_ask_a_tiny_checkpoint(tiny_dir, tmp_path):
    picture(1).save(tmp_path / "a.png")
    out = io.StringIO()
    values = {"style": "direct", "samples": 3, "max_new_tokens": 4, "console": Console(file=out)}
    answer = ask(tiny_dir, tmp_path / "a.png", "How many?", **values)
    assert len(answer.samples) == 3 and "How many?" in out.getvalue()
    assert ask(tiny_dir, tmp_path / "a.png", "How many?", **values) == answer


class Says:
    """A sampler that gives the texts it was told to."""

    def __init__(self, *texts):
        self.texts = texts

    def run(self, jobs):
        style, prompt = jobs[0].requests[0].style, jobs[0].requests[0].prompt
        return [[Sample(style, prompt, i, text, "stop", ()) for i, text in enumerate(self.texts)]]


@pytest.mark.parametrize(
    ("style", "texts", "says"),
    [
        ("direct", ["Two.", "3", "2"], "agreement: 2 of 3 samples give this answer; 3 of 3 samples could be read"),
        ("dd", ["a dog", "a cat"], "agreement is not computed for captions (an encoder would be needed)"),
        ("cot", ["x", "y"], "no answer: 0 of 2 samples could be read"),
    ],
)
def test_the_command_says_how_far_to_trust_it(tmp_path, monkeypatch, style, texts, says):
    picture(1).save(tmp_path / "a.png")
    monkeypatch.setattr("sicog.generation.ask.load_sampler", lambda *_, **__: Says(*texts))
    arguments = ["ask", "checkpoint", str(tmp_path / "a.png"), "How many?", "--style", style, "--samples", "3"]
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0, done.output
    assert says in " ".join(done.output.split())


@pytest.mark.parametrize(("question", "prompt"), [("How many?", "single word or phrase"), ("", "as descriptive as")])
def test_a_bare_answer_or_a_description_is_the_default(tmp_path, monkeypatch, question, prompt):
    picture(1).save(tmp_path / "a.png")
    monkeypatch.setattr("sicog.generation.ask.load_sampler", lambda *_, **__: Says("Two."))
    done = CliRunner().invoke(cli.app, ["ask", "checkpoint", str(tmp_path / "a.png"), question, "--samples", "1"])
    assert done.exit_code == 0 and prompt in " ".join(done.output.split()) and "answer: Two." in done.output


def test_the_help_names_all_styles():
    output = " ".join(CliRunner().invoke(cli.app, ["ask", "--help"]).output.split())
    assert all(style in output for task in TASKS.values() for style in task.styles)


def test_the_command_on_a_tiny_checkpoint(tiny_dir, tmp_path):
    """Random weights end no chain: it must say so."""
    picture(1).save(tmp_path / "a.png")
    arguments = ["ask", str(tiny_dir), str(tmp_path / "a.png"), "How many?", "--style", "cot", "--samples", "2"]
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0, done.output
    assert "no answer: 0 of 2 samples could be read" in " ".join(done.output.split())


def test_mistakes(tiny_dir, tmp_path):
    picture(1).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="unknown style 'x'; known: cod"):
        task_of("x")
    with pytest.raises(ValueError, match="has no question, which style"):
        ask(tiny_dir, tmp_path / "a.png", "", style="cot")
    with pytest.raises(ValueError, match="no such image"):
        ask(tiny_dir, tmp_path / "b.png", "How many?")
    with pytest.raises(ValueError, match="samples"):
        ask(tiny_dir, tmp_path / "a.png", "How many?", samples=0)
