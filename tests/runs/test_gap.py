"""The gap: what is measured with a truth, the proxy without one, and the gate."""

from __future__ import annotations

import pytest

from sicog.config import validate
from sicog.mini.steps import MiniGapConfig, mini_gap
from sicog.mini.text import detailed_description
from sicog.mini.truth import read_truth
from sicog.mini.write_world import MiniDataConfig, write_mini_data
from sicog.records import Candidate, CandidateSet, Example, Query, Turn
from sicog.runs.gap import GapConfig, gap
from sicog.stages.storage import read_json, write_dataset
from sicog.tasks import TASKS


def example(row_id, task, text, style, question=""):
    query = Query(id=row_id, task=task, images=(f"{row_id}.png",), question=question)
    user = Turn(role="user", text=TASKS[task].prompt(query, style), images_at=(0,))
    turns = (user, Turn(role="assistant", text=text))
    return Example(id=row_id, images=query.images, turns=turns, source=task, extra={"style": style})


def greedy(row_id, task, text, style, question=""):
    query = Query(id=row_id, task=task, images=(f"{row_id}.png",), question=question)
    values = {"seed": 0, "index": 0, "finish_reason": "stop", "n_tokens": 3, "checkpoint": "c"}
    candidate = Candidate(query_id=row_id, style=style, prompt="p", text=text, **values)
    return CandidateSet(id=row_id, query=query, candidates=(candidate,))


def folders(tmp_path, labels, texts, halves=None, task="reasoning", style="direct"):
    write_dataset(tmp_path / "labels", [example(i, task, t, style, "What colour?") for i, t in labels.items()])
    write_dataset(tmp_path / "greedy", [greedy(i, task, t, style, "What colour?") for i, t in texts.items()])
    for n, half in enumerate(halves or []):
        write_dataset(tmp_path / f"half-{n}", [example(i, task, t, style, "What colour?") for i, t in half.items()])
    paths = {name: tmp_path / name for name in ("labels", "greedy")}
    return paths | ({"halves": [tmp_path / "half-0", tmp_path / "half-1"]} if halves else {})


IDS = [f"r{i}" for i in range(20)]


def test_with_a_truth_the_gap_is_label_less_greedy_on_the_same_rows(tmp_path):
    paths = folders(
        tmp_path, dict.fromkeys(IDS, "red"), {i: "red" if n % 2 else "blue" for n, i in enumerate([*IDS, "x"])}
    )
    out = gap(
        GapConfig(out_dir=tmp_path / "gap", **paths), lambda query, text: float(text == "red"), lambda query: "color"
    )
    found = read_json(out / "gap.json")
    assert (found["rows"], found["label"]["value"], found["greedy"]["value"]) == (20, 1.0, 0.5)
    assert found["gap"]["value"] == 0.5 and 0.2 < found["gap"]["low"] < 0.5
    assert found["labels_without_greedy_text"] == 0 and found["by_kind"]["color"]["rows"] == 20 and "proxy" not in found


def test_without_a_truth_reliable_labels_that_differ_from_the_greedy_text_have_a_gap(tmp_path):
    same = dict.fromkeys(IDS, "red")
    paths = folders(tmp_path, same, {i: "red" if n < 5 else "blue" for n, i in enumerate(IDS)}, [same, same])
    found = read_json(gap(GapConfig(out_dir=tmp_path / "gap", **paths)) / "gap.json")["proxy"]
    assert (found["reliability"], found["agreement_with_greedy"], found["value"]) == (1.0, 0.25, 0.75)


def test_labels_that_depend_on_the_draw_or_repeat_the_student_have_none_and_stop_the_round(tmp_path):
    same, other = dict.fromkeys(IDS, "red"), {i: "red" if n % 2 else "blue" for n, i in enumerate(IDS)}
    paths = folders(tmp_path, same, same, [same, other])
    with pytest.raises(ValueError, match=r"the round is stopped: the gap is -0.500 .* at least 0.05"):
        gap(GapConfig(out_dir=tmp_path / "gap", require=0.05, **paths))
    assert not (tmp_path / "gap" / "manifest.json").exists() and (tmp_path / "gap" / "gap.json").exists()


def test_captions_agree_by_their_claims(tmp_path):
    said = "The image shows a large red circle at the top left and a {} on a white background."
    label, student = said.format("small blue star at the top right"), said.format("small cyan star at the top right")
    paths = folders(
        tmp_path,
        dict.fromkeys(IDS, label),
        dict.fromkeys(IDS, student),
        [dict.fromkeys(IDS, label)] * 2,
        "captioning",
        "dd",
    )
    config = GapConfig(out_dir=tmp_path / "gap", grammar="sicog.mini.grammar:GRAMMAR", **paths)
    found = read_json(gap(config) / "gap.json")["proxy"]
    assert found["reliability"] == 1.0 and found["agreement_with_greedy"] == pytest.approx(3 / 5, abs=1e-6)


def test_labels_without_a_greedy_text_are_counted(tmp_path, capsys):
    paths = folders(tmp_path, {"a": "red", "b": "red"}, {"b": "red", "c": "red"})
    found = read_json(gap(GapConfig(out_dir=tmp_path / "gap", **paths), lambda *_: 1.0) / "gap.json")
    assert (found["rows"], found["labels_without_greedy_text"]) == (1, 1)
    assert "1 labels without a greedy text" in capsys.readouterr().err


def test_what_cannot_be_compared_is_one_clear_sentence(tmp_path):
    paths = folders(tmp_path, {"a": "red"}, {"b": "red"})
    with pytest.raises(ValueError, match="no row of .*labels is in .*greedy"):
        gap(GapConfig(out_dir=tmp_path / "gap", **paths))
    empty = folders(tmp_path / "empty", {}, {"b": "red"})
    with pytest.raises(ValueError, match=r"labels has no labels. See its dropped\.jsonl"):
        gap(GapConfig(out_dir=tmp_path / "gap-of-none", **empty))
    with pytest.raises(ValueError, match="halves is missing, but require needs it"):
        gap(GapConfig(out_dir=tmp_path / "other", require=0.1, **paths))
    with pytest.raises(ValueError, match="halves must be two folders"):
        validate(GapConfig, {"out_dir": "o", "labels": "l", "greedy": "g", "halves": ["h"]}, "gap.yaml")


def test_the_mini_world_measures_captions_and_answers_by_kind(tmp_path):
    numbers = {"align": 1, "sft": 3, "warmup_captions": 1, "warmup_reasoning": 1, "unlabelled": 1, "dev": 6, "test": 1}
    write_mini_data(MiniDataConfig(seed=4, **numbers), tmp_path / "data")
    truths = read_truth(tmp_path / "data", "dev")
    captions = {i: detailed_description(t.scene) for i, t in truths.items()}
    paths = folders(tmp_path, captions, dict.fromkeys(captions, "nothing"), task="captioning", style="dd")
    config = MiniGapConfig(out_dir=tmp_path / "gap", data=tmp_path / "data", require=0.5, **paths)
    found = read_json(mini_gap(config) / "gap.json")
    assert (found["label"]["value"], found["greedy"]["value"], found["by_kind"]["caption"]["value"]) == (1.0, 0.0, 1.0)
