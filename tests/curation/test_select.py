"""Selection: the cut, what a kept example holds, preference pairs, and the random control."""

from __future__ import annotations

import pytest

from sicog.curation.select import PAIRS, SelectConfig, preference_pair, select
from sicog.records import Dropped, Example, PreferencePair
from sicog.storage import read_json, read_records, write_dataset, write_json
from sicog.tasks import TASKS


def run(tmp_path, rows, name="selected", **options):
    """Select from these rows; returns kept, dropped and pairs by id."""
    if not (tmp_path / "scored").exists():
        write_dataset(tmp_path / "scored", rows)
    select(SelectConfig(input=tmp_path / "scored", out_dir=tmp_path / name, **options))
    dropped = [
        Dropped.model_validate_json(line) for line in (tmp_path / name / "dropped.jsonl").read_bytes().splitlines()
    ]
    kept, pairs = read_records(tmp_path / name, Example), read_records(tmp_path / name / PAIRS, PreferencePair)
    return {r.id: r for r in kept}, {r.id: r for r in dropped}, {r.id: r for r in pairs}


def reasoning_row(make, row_id="q", scores=(0.9, 0.5, 0.4), votes=(2 / 3, 2 / 3, 1 / 3)):
    texts = [("cot", make.cot("red")), ("direct", "red"), ("direct", "blue")]
    return make.scored_set(row_id, "reasoning", [(*t, s, v) for t, s, v in zip(texts, scores, votes, strict=True)])


def test_a_kept_example_holds_the_prompt_of_its_style_and_the_full_text(tmp_path, make):
    chain = make.cod("A red cup.")
    rows = [
        make.scored_set("1", "captioning", [("dd", "A cup.", 0.7, None), ("cod", chain, 0.95, None)], extra={"url": 3}),
        reasoning_row(make, "1-long-text-id"),
    ]
    kept, dropped, pairs = run(tmp_path, rows, threshold=0.9)
    assert not dropped and list(kept) == ["1", "1-long-text-id"]
    user, assistant = kept["1"].turns
    assert user.text == TASKS["captioning"].prompt(rows[0].query, "cod") and user.images_at == (0,)
    assert assistant.text == chain and kept["1"].images == ("1.png",) and kept["1"].source == "captioning"
    assert kept["1"].extra == {"style": "cod", "score": 0.95, "vote": None, "index": 1, "url": 3}
    answer = kept["1-long-text-id"]
    assert answer.turns[0].text == "What colour is the cup? Answer the question step-by-step."
    assert answer.turns[1].text == make.cot("red")  # not the extracted answer (C14)
    pair = pairs["1-long-text-id"]
    assert (pair.chosen, pair.rejected) == (make.cot("red"), "blue") and pair.prompt == answer.turns[:1]
    assert (pair.chosen_score, pair.rejected_score, pair.images) == (0.9, 0.4, answer.images)


def test_keys_of_the_user_are_not_lost_to_ours(tmp_path, make):
    marks = [("dd", "A cup.", 0.9, None), ("dd", "A mug.", 0.8, None)]
    kept, _, _ = run(tmp_path, [make.scored_set("1", "captioning", marks, extra={"score": "B+"})], threshold=0.5)
    assert kept["1"].extra["score"] == 0.9 and kept["1"].extra["query.score"] == "B+"


def test_rows_in_are_rows_out_and_dropped_and_the_cut_itself_is_kept(tmp_path, make):
    rows = [
        make.scored_set(str(s), "captioning", [("dd", "a", s, None), ("dd", "b", s - 0.1, None)])
        for s in (0.8, 0.849999, 0.85, 0.9, 0.95)
    ]
    kept, dropped, _ = run(tmp_path, rows, threshold=0.85)
    assert list(kept) == ["0.85", "0.9", "0.95"] and list(dropped) == ["0.8", "0.849999"]
    assert dropped["0.849999"].reason == "low_consistency" and dropped["0.849999"].detail == "score 0.849999 < 0.85"
    manifest = read_json(tmp_path / "selected/manifest.json")
    assert (manifest["rows_in"], manifest["rows_out"], manifest["dropped"]) == (5, 3, {"low_consistency": 2})
    nested = [run(tmp_path, rows, name=f"at-{t}", threshold=t)[0].keys() for t in (0.8, 0.85, 0.9)]
    assert nested[0] > nested[1] > nested[2]


def test_excluded_candidates_are_never_chosen_nor_rejected(tmp_path, make):
    marks = [("dd", "cut off", None, None), ("dd", "A cup.", 0.9, None), ("dd", "A mug.", 0.8, None)]
    kept, _, pairs = run(tmp_path, [make.scored_set("1", "captioning", marks)], threshold=0.5)
    assert kept["1"].extra["index"] == 1 and pairs["1"].rejected == "A mug."


def test_by_vote_the_highest_vote_wins_then_the_score(tmp_path, make):
    rows = [reasoning_row(make, scores=(0.5, 0.6, 0.9))]
    kept, _, pairs = run(tmp_path, rows, by="vote", threshold=0.6)
    assert kept["q"].turns[1].text == "red" and pairs["q"].rejected == "blue"
    kept, _, pairs = run(tmp_path, rows, name="score", by="score", threshold=0.6)
    assert kept["q"].turns[1].text == "blue" and pairs["q"].rejected == make.cot("red")
    _, dropped, _ = run(tmp_path, rows, name="strict", by="vote", threshold=0.7)
    assert dropped["q"].detail == "vote 0.666667 < 0.7"


def test_votes_need_a_task_with_short_answers(tmp_path, make):
    row = make.scored_set("1", "captioning", [("dd", "a", 0.9, None), ("dd", "b", 0.9, None)])
    with pytest.raises(ValueError, match="row 1: by: vote needs short answers"):
        run(tmp_path, [row], by="vote", threshold=0.5)


def test_only_the_named_styles_may_be_chosen(tmp_path, make):
    rows = [
        reasoning_row(make, "both", scores=(0.5, 0.9, 0.4)),
        make.scored_set("plain", "reasoning", [("direct", "red", 0.9, 1.0), ("direct", "red", 0.9, 1.0)]),
    ]
    kept, dropped, _ = run(tmp_path, rows, threshold=0.5, styles=("cot",))
    assert kept["both"].extra["style"] == "cot"
    assert dropped["plain"].reason == "no_candidate" and "style cot" in dropped["plain"].detail


@pytest.mark.parametrize("k", [1, 2, 3, 6, 9])
def test_pairs_at_any_number_of_candidates(make, k):
    rows = [
        make.scored_set(
            f"{k}-{r}", "captioning", [("dd", f"text {i % 4}", round(0.9 - 0.1 * (i % 4), 6), None) for i in range(k)]
        )
        for r in range(50)
    ]
    pairs = [pair for row in rows if (pair := preference_pair(row, 0, "score", seed=3))]
    assert all(p.chosen == "text 0" != p.rejected and p.chosen_score > p.rejected_score for p in pairs)
    assert len(pairs) == (0 if k == 1 else 50)
    assert pairs == [pair for row in rows if (pair := preference_pair(row, 0, "score", seed=3))]


def test_a_pair_never_holds_the_same_text_or_the_same_answer(make):
    agreed = make.scored_set(
        "1",
        "reasoning",
        [("direct", "red", 0.9, 1.0), ("cot", make.cot("The answer is red."), 0.8, 1.0), ("direct", "Red", 0.7, 1.0)],
    )
    assert preference_pair(agreed, 0, "score", seed=0) is None
    same = make.scored_set("1", "captioning", [("dd", "a", 0.9, None), ("dd", "a", 0.1, None)])
    assert preference_pair(same, 0, "score", seed=0) is None


def test_the_control_keeps_as_many_rows_at_random(tmp_path, make):
    rows = [
        make.scored_set(f"{i}", "captioning", [("dd", f"{j}", 0.5 + i / 100 - j / 10, None) for j in range(3)])
        for i in range(40)
    ]
    best, _, pairs = run(tmp_path, rows, threshold=0.75)
    options = {"choose": "random", "keep_rows_of": tmp_path / "selected"}
    control, dropped, no_pairs = run(tmp_path, rows, name="control", **options)
    assert len(control) == len(best) == 15 and len(pairs) == 15 and not no_pairs
    assert control.keys() != best.keys() and {d.reason for d in dropped.values()} == {"not_drawn"}
    assert {e.extra["index"] for e in control.values()} == {0, 1, 2} and {e.extra["index"] for e in best.values()} == {
        0
    }
    again, _, _ = run(tmp_path, rows, name="again", **options)
    other, _, _ = run(tmp_path, rows, name="other", seed=1, **options)
    everything, _, _ = run(tmp_path, rows, name="all", choose="random")
    assert again == control and other.keys() != control.keys() and len(everything) == 40


def test_the_control_cannot_keep_more_rows_than_there_are(tmp_path, make):
    row = make.scored_set("1", "captioning", [("dd", "a", 0.9, None), ("dd", "b", 0.8, None)])
    write_dataset(tmp_path / "more", [Example(id=str(i), turns=({"role": "user", "text": ""}, _said())) for i in "ab"])
    with pytest.raises(ValueError, match="holds 2 rows, but only 1"):
        run(tmp_path, [row], choose="random", keep_rows_of=tmp_path / "more")


def _said():
    return {"role": "assistant", "text": "x"}


def test_a_threshold_file_is_for_one_task_encoder_and_ranking(tmp_path, make):
    rows, file = [reasoning_row(make)], tmp_path / "threshold.json"
    write_json(file, {"threshold": 0.95, "by": "score", "task": "reasoning", "encoder": "test"})
    assert "q" in run(tmp_path, rows, threshold_file=file)[1]
    with pytest.raises(ValueError, match="is for by: score, the config has vote"):
        run(tmp_path, rows, name="a", threshold_file=file, by="vote")
    write_json(file, {"threshold": 0.95, "by": "score", "task": "captioning", "encoder": "test"})
    with pytest.raises(ValueError, match="row q is of task reasoning, but the threshold was found for captioning"):
        run(tmp_path, rows, name="b", threshold_file=file)
    write_json(file, {"threshold": 0.95, "by": "score", "task": "reasoning", "encoder": "other"})
    with pytest.raises(ValueError, match="row q was scored by test, but the threshold was found for other"):
        run(tmp_path, rows, name="c", threshold_file=file)
    write_json(file, {"cut": 0.95})
    with pytest.raises(ValueError, match="holds no number under 'threshold'"):
        run(tmp_path, rows, name="d", threshold_file=file)


@pytest.mark.parametrize(
    "options",
    [{}, {"threshold": 0.5, "threshold_file": "x"}, {"choose": "random", "threshold": 0.5}, {"threshold": 1.5}],
)
def test_there_is_one_rule_for_keeping(options):
    with pytest.raises(ValueError, match="threshold"):
        SelectConfig(input="a", out_dir="b", **options)
