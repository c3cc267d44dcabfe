"""Pairs of answers to clean and to corrupted images: joined by id, full texts, never the same answer."""

from __future__ import annotations

import re

import pytest

from sicog.config import load_config
from sicog.curation.build.pair import PairConfig, pair
from sicog.records import Dropped, PreferencePair, Turn
from sicog.runs.verbs import VERBS
from sicog.stages.storage import read_json, read_records, write_dataset


def run(tmp_path, clean, corrupted, name="pairs", **options):
    """The pairs by id and the reasons of drops of these candidate sets."""
    for folder, rows in (("clean", clean), ("corrupted", corrupted)):
        if not (tmp_path / folder).exists():
            write_dataset(tmp_path / folder, rows)
    values = {"chosen": tmp_path / "clean", "rejected": tmp_path / "corrupted", "out_dir": tmp_path / name}
    out = pair(PairConfig.model_validate(values | options))
    return {p.id: p for p in read_records(out, PreferencePair)}, read_json(out / "manifest.json")["dropped"]


def dropped_rows(folder):
    return {row.id: row for line in (folder / "dropped.jsonl").open() for row in [Dropped.model_validate_json(line)]}


def test_both_answers_are_full_texts_to_the_prompt_of_the_chosen_one(tmp_path, make):
    clean = [make.candidate_set(i, "reasoning", [("cot", make.cot("red"))]) for i in "ab"]
    corrupted = [
        make.candidate_set(i, "reasoning", [("direct", "green"), ("cot", make.cot("blue"))]) for i in ("b", "x", "a")
    ]
    pairs, dropped = run(tmp_path, clean, corrupted)
    assert list(pairs) == ["a", "b"] and not dropped
    question = "What colour is the cup? Answer the question step-by-step."
    assert pairs["a"].prompt == (Turn(role="user", text=question, images_at=(0,)),)
    assert (pairs["a"].chosen, pairs["a"].rejected) == (make.cot("red"), make.cot("blue"))
    assert pairs["a"].images == ("a.png",) and pairs["a"].chosen_score is None


def test_rows_without_a_pair_are_dropped_with_the_reason(tmp_path, make):
    answers = {
        "same_answer": (("direct", "Red."), ("direct", "red")),
        "same_text": (("cot", make.cot("red")), ("cot", make.cot("red"))),
        "other_prompt": (("direct", "red"), ("cot", make.cot("blue"))),
        "cut": (("direct", "red"), ("direct", "blue", "length")),
        "chosen_broken": (("cot", "no chain"), ("cot", make.cot("blue"))),
        "alone": (("direct", "red"), None),
    }
    clean = [make.candidate_set(name, "reasoning", [good]) for name, (good, _) in answers.items()]
    corrupted = [make.candidate_set(name, "reasoning", [bad]) for name, (_, bad) in answers.items() if bad]
    clean.append(make.candidate_set("spaced", "captioning", [("dd", "A red cup.")]))
    corrupted.append(make.candidate_set("spaced", "captioning", [("dd", "a red  cup.")]))
    pairs, _ = run(tmp_path, clean, corrupted)
    assert not pairs
    reasons = {name: row.reason for name, row in dropped_rows(tmp_path / "pairs").items()}
    assert reasons == {
        "same_answer": "same_answer",
        "same_text": "same_answer",
        "other_prompt": "other_prompts",
        "cut": "no_rejected",
        "chosen_broken": "no_chosen",
        "alone": "not_in_rejected",
        "spaced": "same_answer",
    }


def test_prompts_that_never_meet_are_named(tmp_path, make):
    clean = [make.candidate_set("1", "reasoning", [("direct", "red"), ("cot", make.cot("red"))])]
    corrupted = [make.candidate_set("1", "reasoning", [("plain", "blue")])]
    run(tmp_path, clean, corrupted)
    never = "the prompts of chosen (cot, direct) and rejected (plain) never meet"
    assert dropped_rows(tmp_path / "pairs")["1"].detail == never
    paths = [f"chosen={tmp_path}/clean", f"rejected={tmp_path}/corrupted", f"out_dir={tmp_path}/pairs"]
    for _ in range(2):  # a finished folder too
        with pytest.raises(
            ValueError, match=r"none of 1 rows was kept \(other_prompts 1\), such as 1: " + re.escape(never)
        ):
            VERBS["pair"].run(load_config(PairConfig, None, paths))


def test_an_answer_is_chosen_whose_prompt_the_rejected_ones_have(tmp_path, make):
    """Only one of the paper's three candidates has corrupted images: no row is lost when another one is drawn."""
    three = [("cot", make.cot("red")), ("cot", make.cot("red")), ("direct", "red")]
    clean = [make.candidate_set(str(i), "reasoning", three) for i in range(9)]
    corrupted = [make.candidate_set(str(i), "reasoning", [("direct", "blue")]) for i in range(9)]
    pairs, dropped = run(tmp_path, clean, corrupted)
    assert len(pairs) == 9 and not dropped and {p.chosen for p in pairs.values()} == {"red"}


def test_the_draw_depends_on_the_seed_and_the_id_alone(tmp_path, make):
    texts = [("dd", f"caption {k}") for k in range(20)]
    clean = [make.candidate_set(str(i), "captioning", texts) for i in range(9)]
    corrupted = [make.candidate_set(str(i), "captioning", texts) for i in reversed(range(9))]
    first, _ = run(tmp_path, clean, corrupted)
    again, _ = run(tmp_path, clean, corrupted, "again", block_size=2)
    other, _ = run(tmp_path, clean, corrupted, "other", seed=1)
    assert first == again and first != other
    assert len({p.chosen for p in first.values()}) > 2 and all(p.chosen != p.rejected for p in first.values())


def test_answers_to_different_queries_are_no_pair(tmp_path, make):
    clean = [make.candidate_set("1", "captioning", [("dd", "a cup")])]
    corrupted = [make.candidate_set("1", "reasoning", [("direct", "red")])]
    with pytest.raises(ValueError, match="row 1: chosen and rejected have different queries"):
        run(tmp_path, clean, corrupted)


def test_damaged_rows_of_either_side_are_named_and_the_rest_is_paired(tmp_path, make):
    for name, answer in (("clean", "red"), ("corrupted", "blue")):
        write_dataset(
            tmp_path / name, [make.candidate_set(str(i), "reasoning", [("direct", answer)]) for i in range(9)]
        )
        shard = tmp_path / name / "shard-00000.jsonl"
        lines = shard.read_bytes().splitlines(keepends=True)
        if name == "clean":
            lines[1:3] = [b'{"id": "1", "query": 5}\n', lines[2][:60] + b"\n"]
        else:
            lines[5:7] = [lines[5].replace(b"blue", b"bl\xff"), b'{"id": "6"}\n']
        shard.write_bytes(b"".join(lines))
    pairs, dropped = run(tmp_path, [], [], max_dropped_share=0.5)
    assert list(pairs) == ["0", "3", "4", "7", "8"] and dropped == {"not_in_rejected": 1, "unreadable_row": 3}
    drops = [Dropped.model_validate_json(line) for line in (tmp_path / "pairs/dropped.jsonl").read_bytes().splitlines()]
    assert {d.id for d in drops} >= {"1", "5", "6"} and "query: " in next(d.detail for d in drops if d.id == "1")
