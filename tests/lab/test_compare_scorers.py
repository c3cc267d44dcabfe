"""`sicog lab score` on a made run: the user's own scorer beside the shipped ones, and mistakes said plainly."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import orjson
import pytest

from sicog.lab import compare_scorers as lab
from sicog.lab.scorers import SCORERS, load_scorer
from sicog.lab.true_candidates import read_tasks
from sicog.stages.storage import write_json
from tests.lab.test_scorer_quality import row


def fake_embed(texts: list[str]) -> np.ndarray:
    """Equal texts have equal vectors, different ones nearly orthogonal ones."""
    vectors = np.stack([np.random.default_rng(abs(hash(t)) % 2**32).normal(size=64) for t in texts])
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_rows_with_a_choice_come_with_their_truth(run_dir: Path) -> None:
    (task,) = read_tasks(run_dir)
    assert (len(task.rows), task.without_choice) == (2, 1)
    assert task.rows[0].truths == (1.0, 1.0, 0.0) and task.rows[1].truths == (0.0, 0.0, 1.0)


def test_a_users_scorer_is_held_against_the_shipped_ones(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lab, "cached_encoder", lambda task: fake_embed)
    mine = tmp_path / "mine.py"
    mine.write_text("def score(row, embed):\n    return [float(t in ('two', '2')) for t in row.texts]\n")
    found = lab.lab_score(run_dir, [mine], tmp_path / "lab.json")
    assert set(found["reasoning"]) == {*SCORERS, "mine"}
    assert found["reasoning"]["mine"].truth.value == 1.0
    assert found["reasoning"]["vote"].truth.value == 0.5  # right where two of three are
    written = orjson.loads((tmp_path / "lab.json").read_bytes())
    assert written["reasoning"]["mine"]["truth"]["value"] == 1.0
    assert "| reasoning | `mine` | 1.000 ±" in (tmp_path / "lab.md").read_text()
    assert "mine" in capsys.readouterr().out


@pytest.mark.parametrize("body", ["return [1.0]", "return [float('nan')] * len(row.texts)"])
def test_a_scorer_that_gives_no_number_a_candidate_is_named_with_the_row(tmp_path: Path, body: str) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(f"def score(row, embed):\n    {body}\n")
    with pytest.raises(ValueError, match="scorer wrong, row q3: .*Return 2 finite numbers"):
        lab.scores_of("wrong", load_scorer(file), [row(3, (0.0, 1.0))], fake_embed)


def test_a_file_without_the_function_and_a_taken_name_are_refused(run_dir: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.py"
    empty.write_text("")
    with pytest.raises(ValueError, match="the function score.* is missing"):
        load_scorer(empty)
    taken = tmp_path / "vote.py"
    taken.write_text("def score(row, embed): return [0.0] * len(row.texts)\n")
    with pytest.raises(ValueError, match="a scorer 'vote' already"):
        lab.lab_score(run_dir, [taken])


def test_a_folder_that_is_no_mini_run_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "recipe.json", [{"name": "train", "verb": "train", "config": {}}])
    with pytest.raises(ValueError, match="not a run of the mini world"):
        read_tasks(tmp_path)


def test_a_copy_of_a_run_is_read_itself_from_wherever_one_stands(
    run_dir: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path_factory.mktemp("copy") / "run"
    shutil.copytree(run_dir, copy)
    monkeypatch.chdir(copy.parent)
    (task,) = read_tasks(Path("run"))
    assert task.scored == Path("run/scored")
    (copy / "truth.jsonl").unlink()
    with pytest.raises(ValueError, match=r"run.truth\.jsonl is missing"):
        read_tasks(Path("run"))


def test_the_shipped_scorers_rank_agreement_above_dissent() -> None:
    agreeing = row(0, (1.0, 1.0, 0.0))
    same = type(agreeing)(agreeing.query, agreeing.candidates, ("two", "two", "nine"), agreeing.truths, "i")
    for name in ("consistency", "vote", "vote_then_consistency"):
        scores = SCORERS[name](same, fake_embed)
        assert scores[0] == pytest.approx(scores[1]) and scores[0] > scores[2]
    assert SCORERS["random"](same, fake_embed) == SCORERS["random"](same, fake_embed)
