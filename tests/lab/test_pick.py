"""`lab-pick`: which rows and candidates of a scorer are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from sicog.lab import pick as module
from sicog.lab.pick import PickConfig, highest_places, pick, sampled_places
from sicog.records import Example
from sicog.stages.storage import read_json, read_records, write_dataset
from tests.lab.test_compare_scorers import fake_embed


@pytest.fixture(autouse=True)
def _without_an_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cached_encoder", lambda task: fake_embed)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    turns = [{"role": "user", "text": "?"}, {"role": "assistant", "text": "!"}]
    write_dataset(tmp_path / "kept", [Example.model_validate({"id": "any", "turns": turns})])
    return tmp_path / "kept"


def test_a_scorers_best_row_and_candidate_are_kept(
    run_dir: Path,
    kept: Path,
    tmp_path: Path,
) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "def score(row, embed):\n    assert row.truths == ()\n    return [float(t == 'three') for t in row.texts]\n"
    )
    config = PickConfig(input=run_dir / "scored", out_dir=tmp_path / "out", keep_rows_of=kept, scorer=mine)
    (row,) = read_records(pick(config), Example)
    assert row.turns[-1].text == "three" and row.extra["k"] == 3
    manifest = read_json(tmp_path / "out" / "manifest.json")
    assert (manifest["rows_in"], manifest["rows_out"], manifest["dropped"]) == (3, 1, {"not_picked": 2})


def test_with_k_the_scorer_sees_so_many_candidates(
    run_dir: Path,
    kept: Path,
    tmp_path: Path,
) -> None:
    config = PickConfig(input=run_dir / "scored", out_dir=tmp_path / "out", keep_rows_of=kept, k=2)
    (row,) = read_records(pick(config), Example)
    assert row.extra["k"] == 2


def test_more_rows_than_have_a_choice_are_refused(
    run_dir: Path,
    tmp_path: Path,
) -> None:
    config = PickConfig(input=run_dir / "scored", out_dir=tmp_path / "out", keep_rows_of=run_dir / "scored")
    with pytest.raises(ValueError, match="3 rows, but only 2 rows of"):
        pick(config)


def test_candidates_and_rows_are_drawn_by_seed_and_id() -> None:
    assert sampled_places(3, None, 0, "a") == [0, 1, 2] == sampled_places(3, 5, 0, "a")
    draws = {tuple(sampled_places(3, 2, 0, str(i))) for i in range(50)}
    assert draws == {(0, 1), (0, 2), (1, 2)}
    assert sampled_places(3, 2, 0, "a") == sampled_places(3, 2, 0, "a")
    ids = [str(i) for i in range(20)]
    assert highest_places([float(i) for i in range(20)], ids, 3, 0) == [19, 18, 17]
    assert highest_places([1.0] * 20, ids, 5, 0) != highest_places([1.0] * 20, ids, 5, 1)
