"""Score and select in one config, as the wrappers of `quality_evaluation/` run them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sicog.config import load_config
from sicog.curation.curate import CurateConfig, curate
from sicog.records import Example
from sicog.stages.storage import read_records, write_dataset

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
    with pytest.raises(ValueError, match=f"scorer: {scorer} does not give the values that by: {by} ranks by"):
        curate(load_config(CurateConfig, CONFIGS / "reasoning.yaml", given))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            ["threshold=null"],
            "curate: config: threshold is missing. Set threshold, for example 0.85, or threshold_file$",
        ),
        (["threshold_file=gone.json"], "threshold=null removes the threshold of a config"),
        (["threshold_file=gone.json", "threshold=null"], "gone.json does not exist"),
        (["exclude=gone"], "gone: no such dataset folder"),
        (["styles=cdo"], "unknown style 'cdo'"),
        (["scorer=answer", "by=vote", "launch.on=ray"], "curate: config: launch is not used with scorer: answer"),
    ],
)
def test_mistakes_of_the_selection_are_sentences_before_anything_is_scored(tmp_path, make, given, sentence):
    name = "reasoning.yaml" if "by=vote" in given else "caption.yaml"
    with pytest.raises(ValueError, match=sentence) as error:
        curate(load_config(CurateConfig, CONFIGS / name, overrides(tmp_path, make, *given)))
    assert "validation error" not in str(error.value) and not (tmp_path / "out").exists()


def test_more_damaged_rows_can_be_allowed_as_the_sentence_says(tmp_path, make):
    rows = [make.candidate_set(str(i), "reasoning", [("direct", "red")] * 3) for i in range(9)]
    write_dataset(tmp_path / "sets", rows)
    shard = tmp_path / "sets" / "shard-00000.jsonl"
    lines = shard.read_bytes().splitlines(keepends=True)
    shard.write_bytes(b"".join([b'{"id": "1"}\n', *lines[1:7], lines[7].replace(b"red", b"r\xff"), lines[8][:40]]))
    given = overrides(tmp_path, make, "scorer=answer", "by=vote", "threshold=0.6")
    with pytest.raises(ValueError, match="3 of 9 rows cannot be used .* allow more with max_dropped_share"):
        curate(load_config(CurateConfig, CONFIGS / "reasoning.yaml", given))
    config = load_config(CurateConfig, CONFIGS / "reasoning.yaml", [*given, "max_dropped_share=0.5"])
    assert [e.id for e in read_records(curate(config), Example)] == [str(i) for i in range(1, 7)]
