"""Accuracy against the number of samples: from candidate sets on disk, and from a checkpoint through the command."""

import base64
import math
from xml.etree import ElementTree

import pytest
from evaluation.stand_ins import picture, write_tsv
from typer.testing import CliRunner

from sicog.cli import app
from sicog.evaluation.sampled.accuracy import EvalSamplesConfig, eval_samples
from sicog.records import Candidate, CandidateSet, Query
from sicog.stages.storage import read_json, read_records, write_dataset
from sicog.statistics.intervals import with_limits

CHAIN = "Step 1: a\nx\n\nStep 2: b\ny\n\nStep 3: c\nz\n\nStep 4: d\n{}"


def run(folder, style, answers):
    """A folder of candidate sets: for each question its samples of one style; None is one that was cut off."""
    sets = []
    for row_id, texts in answers.items():
        query = Query(id=row_id, task="reasoning", images=("a.png",), question="?")
        candidates = tuple(
            Candidate(
                query_id=row_id,
                style=style,
                prompt="?",
                index=i,
                seed=0,
                text=CHAIN.format(text) if style == "cot" else str(text),
                finish_reason="length" if text is None else "stop",
                n_tokens=1,
                checkpoint="c",
            )
            for i, text in enumerate(texts)
        )
        sets.append(CandidateSet(id=row_id, query=query, candidates=candidates))
    write_dataset(folder, sets)
    return folder


@pytest.fixture
def answers(tmp_path):
    rows = [{"index": i, "question": "?", "answer": "red", "category": c} for i, c in zip("abcd", "xxyy", strict=True)]
    write_tsv(tmp_path / "answers.tsv", rows)
    return tmp_path / "answers.tsv"


@pytest.fixture
def values(tmp_path, answers):
    direct = {"a": ["red"] * 4, "b": ["red", "blue", "blue", "Red."], "c": ["blue"] * 4, "d": [None] * 4}
    chains = {"a": ["red"] * 4, "b": ["red"] * 4, "c": ["blue", "blue", "red", "green"], "d": ["blue"] * 4}
    greedy = {row_id: ["red"] for row_id in "abcd"}
    curves = [
        {"model": "base", "style": style, "runs": (run(tmp_path / style, style, texts),)}
        | {"greedy": run(tmp_path / f"{style}-greedy", style, greedy)}
        for style, texts in (("direct", direct), ("cot", chains))
    ]
    return {"curves": curves, "answers": answers, "out_dir": tmp_path / "out"}


def test_curves_and_the_probe(values, tmp_path, capfd):
    folder = eval_samples(EvalSamplesConfig(**values))
    found = read_json(folder / "curves.json")
    points = {(p["style"], p["select"], p["k"]): p["value"] for p in found["points"]}
    assert found["ks"] == [1, 2, 4] and found["questions"] == 4
    assert points["direct", "greedy", 1] == points["cot", "greedy", 1] == 100
    assert points["direct", "oracle", 1] == points["direct", "vote", 1] == 100 * (1 + 2 / 4) / 4
    assert points["direct", "oracle", 4] == 50 and points["cot", "oracle", 4] == 75
    assert points["direct", "vote", 4] == 50  # red and blue are as frequent; red came first
    assert points["cot", "vote", 4] == 50
    assert [(u["style"], u["share"]) for u in found["unread"]] == [("direct", 25), ("cot", 0)]
    assert "base, direct: 25.0 % of the samples are truncated" in capfd.readouterr().err
    (probe,) = found["probe"]
    assert (probe["unlocked"], probe["lost"]) == (25, 0)
    assert [gap["value"] for gap in probe["gap"]][-1] == 25
    assert {c: gap["value"] for c, gap in probe["by_category"].items()} == {"x": 0, "y": 50}
    drawn = ElementTree.fromstring((folder / "curves.svg").read_text())
    words = [e.text for e in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"majority vote", "any is right (pass@K)", "thinking to recall", "base"} <= set(words)
    assert (folder / "curves.csv").read_text().count("\n") == 1 + len(found["points"])
    assert eval_samples(EvalSamplesConfig(**values)) == folder


def test_a_choice_is_its_letter_however_it_is_said(tmp_path, values, answers):
    write_tsv(answers, [{"index": "a", "question": "?", "A": "red", "B": "blue", "answer": "B"}])
    said = {"a": ["B. blue", "blue", "(B)", "A"]}
    one = {"model": "base", "style": "direct", "runs": (run(tmp_path / "one", "direct", said),)}
    chosen = {**values, "curves": [one], "select": ("vote",), "form": "choice", "ks": (1, 4)}
    found = read_json(eval_samples(EvalSamplesConfig(**chosen)) / "curves.json")
    assert [p["value"] for p in found["points"]] == [75, 100]


def test_a_line_of_one_question_has_no_interval(tmp_path, values, answers):
    write_tsv(answers, [{"index": "a", "question": "?", "answer": "red"}])
    one = {"model": "base", "style": "direct", "runs": (run(tmp_path / "one", "direct", {"a": ["red", "blue"]}),)}
    folder = eval_samples(EvalSamplesConfig(**{**values, "curves": [one], "select": ("vote",)}))
    assert all(p["low"] is None or math.isnan(p["low"]) for p in read_json(folder / "curves.json")["points"])
    drawn = (folder / "curves.svg").read_text()
    assert ElementTree.fromstring(drawn) is not None and "nan" not in drawn


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ks": (8,)}, "8 is larger than 4, the number of samples of some question"),
        ({"form": "essay"}, "form"),
        ({"select": ("best",)}, "select"),
    ],
)
def test_a_mistake(values, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        eval_samples(EvalSamplesConfig(**{**values, **change}))


def test_questions_must_be_those_of_the_table(values, tmp_path, answers):
    write_tsv(answers, [{"index": i, "question": "?", "answer": "red"} for i in "abc"])
    with pytest.raises(ValueError, match="question 'd' is not in the table of answers"):
        eval_samples(EvalSamplesConfig(**values))
    write_tsv(answers, [{"index": i, "question": "?", "answer": "red"} for i in "abcde"])
    with pytest.raises(ValueError, match="1 questions have no sample of style 'direct', first 'e'"):
        eval_samples(EvalSamplesConfig(**{**values, "out_dir": tmp_path / "other"}))
    with pytest.raises(ValueError, match="the greedy run of curve 'base' is missing"):
        EvalSamplesConfig(**{**values, "curves": [{**values["curves"][0], "greedy": None}]})


def test_the_command_samples_and_measures_two_checkpoints(tiny_dir, tmp_path):
    """`sicog eval --samples K`: no kit is needed; a second run draws nothing again."""
    from tiny import tiny_checkpoint

    other = tiny_checkpoint(tmp_path / "other" / tiny_dir.name, seed=1)
    rows = [{"index": i, "question": f"Which {i}?", "A": "red", "B": "blue", "answer": "AB"[i % 2]} for i in range(3)]
    for row in rows[1:2]:  # by path, as the kit takes them too
        row["image_path"] = f"{row['index']}.jpg"
        (tmp_path / row["image_path"]).write_bytes(base64.b64decode(picture(row["index"])))
    rows[0]["image"], rows[2]["image"] = picture(), "0"  # that of row 0
    write_tsv(tmp_path / "choice.tsv", rows, drawn=False)
    claims = [{"index": i, "question": "Is it?", "answer": "No", "image": picture(i)} for i in (5, 6)]
    claims[1]["image"] = str([picture(7), picture(8)])
    write_tsv(tmp_path / "lmu" / "MME.tsv", claims)  # one of the kit's own data sets
    (tmp_path / "suite.yaml").write_text(
        "benchmarks:\n"
        "  - {name: picks, table: choice.tsv, form: choice}\n"
        "  - {name: MME, dataset: MME, form: yes_no, family: mme}\n"
        "  - {name: MMVet, dataset: MMVet, form: open, family: mmvet}\n"
    )

    def checkpoint_of(folder):
        return read_json(folder / "run.json")["input_paths"]["checkpoint"]

    command = ["eval", tiny_dir, "--suite", tmp_path / "suite.yaml", "--samples", "2", "--compare", other]
    command += ["--select", "greedy,vote", "--out", tmp_path / "out", "max_new_tokens=4"]
    command += [f"data_root={tmp_path / 'lmu'}"]
    times = []
    for _ in range(2):
        done = CliRunner().invoke(app, list(map(str, command)))
        assert done.exit_code == 0, done.output
        assert "MMVet: skipped, because only a judge model can score" in done.output
        assert "MME: our own scores of each answer's string, not the kit's figure" in done.output
        times.append([p.stat().st_mtime_ns for p in sorted(tmp_path.glob("out/*/*/shard-*.jsonl"))])
    assert times[0] == times[1]
    assert len(list(tmp_path.glob("out/table_picks_*/images/*"))) == 2  # rows 0 and 2 share one
    (curves,) = tmp_path.glob("out/MME_*/curves-*/curves.json")
    assert read_json(curves)["questions"] == 2
    (questions,) = tmp_path.glob("out/MME_*/questions-yes_no")
    assert [len(query.images) for query in read_records(questions, Query)] == [1, 2]
    (curves,) = tmp_path.glob("out/table_picks_*/curves-*/curves.json")
    assert {p["model"] for p in read_json(curves)["points"]} == {
        f"{p.parent.name}/checkpoint" for p in (tiny_dir, other)
    }
    (drawn,) = (p for p in tmp_path.glob("out/table_picks_*/*-samples-*") if checkpoint_of(p) == str(other))
    first = next(read_records(drawn, CandidateSet))
    assert [c.style for c in first.candidates] == ["direct"] * 2 + ["cot"] * 2
    assert first.candidates[0].prompt.splitlines()[-3:-1] == ["A. red", "B. blue"]
    assert "option's letter" in first.candidates[0].prompt and "step-by-step" in first.candidates[2].prompt


def test_an_interval_that_is_none_is_not_printed():
    assert with_limits(3, float("nan"), float("nan"), ".1f") == "3.0"
    assert with_limits(2, 1, 2.26, "+.1f") == "+2.0 [+1.0, +2.3]"
