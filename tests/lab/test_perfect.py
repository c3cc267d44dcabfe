"""`lab-perfect`: every row gets the truth of its image or question, in the style it is written in."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from sicog.config import validate
from sicog.lab.perfect import PerfectConfig, measured_rate, perfect
from sicog.mini.truth import caption_scores, read_truth
from sicog.mini.write_world import MiniDataConfig, write_mini_data
from sicog.records import Example
from sicog.stages.storage import read_json, read_records, write_dataset, write_json
from sicog.tasks import REASONING

COUNTS = dict.fromkeys(("align", "sft", "warmup_captions", "warmup_reasoning", "dev", "test"), 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_mini_data(MiniDataConfig(**COUNTS, unlabelled=4, seed=3), folder)
    return folder


def written(row_id: str, style: str) -> Example:
    turns = [{"role": "user", "text": "?", "images_at": [0]}, {"role": "assistant", "text": "a guess"}]
    return Example.model_validate({"id": row_id, "images": ["a.png"], "turns": turns, "extra": {"style": style}})


def test_captions_and_answers_become_true_in_their_own_style(data: Path, tmp_path: Path) -> None:
    truth = read_truth(data, "unlabelled")
    scene = next(iter(truth.values()))
    asked = [question for each in truth.values() for question in each.questions]
    rows = [written(scene.scene.id, style) for style in ("cod", "dd")]
    rows += [written(question.id, style) for question in asked for style in ("cot", "direct")]
    write_dataset(tmp_path / "rows", rows)
    made = list(
        read_records(perfect(PerfectConfig(input=tmp_path / "rows", data=data, out_dir=tmp_path / "o")), Example)
    )
    assert [(row.id, row.images, row.turns[0]) for row in made] == [(row.id, row.images, row.turns[0]) for row in rows]
    chain, description = (row.turns[-1].text for row in made[:2])
    assert chain.startswith("Step 1:") and not description.startswith("Step")
    assert [caption_scores(text, scene.scene).f1 for text in (chain, description)] == [1.0, 1.0]
    answers = [REASONING.compared(row.turns[-1].text, str(row.extra["style"])) for row in made[2:]]
    assert answers == [question.answer for question in asked for _ in range(2)]


def test_rows_of_elsewhere_and_other_worlds_are_refused(data: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "rows", [written("train-00001", "dd")])
    with pytest.raises(ValueError, match="row train-00001, style 'dd': the mini world has no truth for this row"):
        perfect(PerfectConfig(input=tmp_path / "rows", data=data, out_dir=tmp_path / "o"))
    shutil.copytree(data, tmp_path / "old")
    write_json(tmp_path / "old" / "config.json", read_json(data / "config.json") | {"world": 1})
    with pytest.raises(ValueError, match="mini data of world 1"):
        perfect(PerfectConfig(input=tmp_path / "rows", data=tmp_path / "old", out_dir=tmp_path / "p"))


def test_all_rows_of_the_world_or_some_drawn(data: Path, tmp_path: Path) -> None:
    whole = list(read_records(perfect(PerfectConfig(data=data, out_dir=tmp_path / "all")), Example))
    assert Counter(str(row.extra["style"]) for row in whole) == {"dd": 4, "cot": 8, "direct": 8}
    some = list(read_records(perfect(PerfectConfig(data=data, out_dir=tmp_path / "some", n=7)), Example))
    assert len(some) == 7 and all(row in whole for row in some)
    assert all(row.turns[0].images_at == (0,) and row.turns[0].text for row in whole)
    with pytest.raises(ValueError, match="n: 21 is larger than 20, the rows of the unlabelled split"):
        perfect(PerfectConfig(data=data, out_dir=tmp_path / "more", n=21))


def test_mistakes_come_at_their_rate(tmp_path: Path) -> None:
    write_mini_data(MiniDataConfig(**COUNTS, unlabelled=300, seed=3), tmp_path / "data")
    write_json(tmp_path / "gap" / "gap.json", {"label": {"value": 0.8}})
    given = PerfectConfig(
        data=tmp_path / "data",
        out_dir=tmp_path / "o",
        mistakes={"captioning": 0.3},
        mistakes_of={"reasoning": tmp_path / "gap"},
    )
    truth = read_truth(tmp_path / "data", "unlabelled")
    answers = {q.id: (q.answer, q.question) for each in truth.values() for q in each.questions}
    f1, right = [], {}
    for row in read_records(perfect(given), Example):
        text, style = row.turns[-1].text, str(row.extra["style"])
        if style == "dd":
            f1.append(caption_scores(text, truth[row.id].scene).f1)
        else:
            answer = REASONING.compared(text, style)
            right[row.id] = answer == answers[row.id.partition("~")[0]][0]
    assert 0.65 < sum(f1) / len(f1) < 0.75
    assert 0.75 < sum(right.values()) / len(right) < 0.85
    assert all(right[key] == right[f"{key}~direct"] for key in answers)


def test_a_rate_is_given_once_and_needs_a_truth(tmp_path: Path) -> None:
    base = {"data": str(tmp_path), "out_dir": str(tmp_path / "o")}
    twice = {"mistakes": {"reasoning": 0.1}, "mistakes_of": {"reasoning": "x"}}
    for values, message in (
        (twice, "both have a rate for reasoning"),
        ({"n": 3, "input": "rows"}, "n cannot be set together with input"),
    ):
        with pytest.raises(ValueError, match=message):
            validate(PerfectConfig, base | values, "perfect.yaml")
    write_json(tmp_path / "gap.json", {"proxy": {"value": 0.1}})
    with pytest.raises(ValueError, match=r"gap\.json has no truth of its labels"):
        measured_rate(tmp_path)
