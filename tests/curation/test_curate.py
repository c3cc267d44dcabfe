"""Score and select in one config, as the wrappers of `quality_evaluation/` run them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sicog.config import load_config
from sicog.curation.curate import CurateConfig, curate
from sicog.records import Example
from sicog.storage import read_records, write_dataset

CONFIGS = Path(__file__).parents[2] / "quality_evaluation" / "configs"


def overrides(tmp_path, make, *more):
    return [f"input={tmp_path / 'sets'}", f"out_dir={tmp_path / 'out'}", f"encoder.name={make.minilm}", *more]


def test_captions_by_the_config_of_the_wrapper(tmp_path, make):
    sets = [
        (
            "agree",
            [("cod", make.cod("A red cup on a table.")), ("dd", "A red cup on the table."), ("dd", "A red cup.")],
        ),
        ("differ", [("cod", make.cod("A red cup.")), ("dd", "Dogs run in the snow."), ("dd", "Rain over a harbour.")]),
    ]
    write_dataset(tmp_path / "sets", [make.candidate_set(i, "captioning", c) for i, c in sets])
    config = load_config(CurateConfig, CONFIGS / "caption.yaml", overrides(tmp_path, make))
    assert config.threshold == 0.85
    assert [e.id for e in read_records(curate(config), Example)] == ["agree"]
    lower = load_config(
        CurateConfig, CONFIGS / "caption.yaml", overrides(tmp_path, make, "threshold=0", "selected=selected-0")
    )
    assert [e.id for e in read_records(curate(lower), Example)] == ["agree", "differ"]


def test_reasoning_by_the_config_of_the_wrapper(tmp_path, make):
    sets = [
        ("agree", [("cot", make.cot("The answer is red.")), ("cot", make.cot("red")), ("direct", "blue")]),
        ("differ", [("cot", make.cot("red")), ("cot", make.cot("green")), ("direct", "blue")]),
    ]
    write_dataset(tmp_path / "sets", [make.candidate_set(i, "reasoning", c) for i, c in sets])
    config = load_config(
        CurateConfig,
        CONFIGS / "reasoning.yaml",
        overrides(tmp_path, make, "scorer=answer", "by=vote", "threshold=0.6", "encoder.name=no/such-encoder"),
    )
    (kept,) = read_records(curate(config), Example)
    assert kept.id == "agree" and kept.turns[1].text == make.cot("The answer is red.")


@pytest.mark.parametrize(("scorer", "by"), [("embedding", "vote"), ("answer", "score")])
def test_what_is_ranked_by_is_what_was_scored(tmp_path, make, scorer, by):
    given = overrides(tmp_path, make, f"scorer={scorer}", f"by={by}")
    with pytest.raises(ValueError, match=f"scorer: {scorer} gives nothing to rank by: {by}"):
        curate(load_config(CurateConfig, CONFIGS / "reasoning.yaml", given))
    assert not (tmp_path / "out").exists()


def test_a_selection_without_a_cut_fails_before_scoring(tmp_path, make):
    config = load_config(CurateConfig, CONFIGS / "caption.yaml", overrides(tmp_path, make, "threshold=null"))
    with pytest.raises(ValueError, match="threshold or threshold_file"):
        curate(config)
    assert not (tmp_path / "out").exists()
