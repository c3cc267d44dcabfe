"""Selection: the cut, reasons of drops, what a kept example holds, preference pairs, and the random control."""

from __future__ import annotations

from collections import Counter

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kills import killed_and_finished

from sicog.curation.select.select import PAIRS, SelectConfig, preference_pair, select
from sicog.curation.select.threshold_table import ThresholdsConfig, thresholds
from sicog.records import Dropped, Example, PreferencePair
from sicog.stages.storage import dump_record, read_json, read_records, write_dataset, write_json
from sicog.tasks import TASKS


def run(tmp_path, rows, name="selected", **options):
    """Select from these rows; returns kept, dropped and pairs by id."""
    if not (tmp_path / "scored").exists():
        write_dataset(tmp_path / "scored", rows)
    config = SelectConfig(input=tmp_path / "scored", out_dir=tmp_path / name, **{"min_candidates": 2, **options})
    select(config)
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
    for folder, kind in (("selected", Example), (f"selected/{PAIRS}", PreferencePair)):
        records = read_records(tmp_path / folder, kind)
        assert (tmp_path / folder / "shard-00000.jsonl").read_bytes() == b"".join(map(dump_record, records))
    assert not dropped and list(kept) == ["1", "1-long-text-id"]
    user, assistant = kept["1"].turns
    assert user.text == TASKS["captioning"].prompt(rows[0].query, "cod") and user.images_at == (0,)
    assert assistant.text == chain and kept["1"].images == ("1.png",) and kept["1"].source == "captioning"
    marks = {"score": 0.95, "agreement": 0.9, "vote": None, "margin": None, "k": 2}
    assert kept["1"].extra == {"style": "cod", "index": 1, "seed": 1, "checkpoint": "c0ffee", "url": 3, **marks}
    answer = kept["1-long-text-id"]
    assert answer.turns[0].text == "What colour is the cup? Answer the question step-by-step."
    assert answer.turns[1].text == make.cot("red")  # not the extracted answer (C14)
    pair = pairs["1-long-text-id"]
    assert (pair.chosen, pair.rejected) == (make.cot("red"), "blue") and pair.prompt == answer.turns[:1]
    assert (pair.chosen_score, pair.rejected_score, pair.margin, pair.images) == (0.9, 0.4, 0.5, answer.images)


def test_keys_of_the_user_are_not_lost_to_ours(tmp_path, make):
    marks = [("dd", "A cup.", 0.9, None), ("dd", "A mug.", 0.8, None)]
    kept, _, _ = run(tmp_path, [make.scored_set("1", "captioning", marks, extra={"score": "B+"})], threshold=0.5)
    assert kept["1"].extra["score"] == 0.9 and kept["1"].extra["query.score"] == "B+"


def of_agreement(make, row_id, agreement, k):
    """A row whose first candidate agrees so much with the others; the score is what that means among k."""
    best = round((1 + (k - 1) * agreement) / k, 6)
    return make.scored_set(row_id, "captioning", [("dd", f"{i}", best if i == 0 else 0.4, None) for i in range(k)])


def test_a_threshold_asks_for_the_same_agreement_at_any_number_of_candidates(tmp_path, make):
    rows = [
        of_agreement(make, f"{k}:{agreement}", agreement, k)
        for k in (2, 3, 6, 9)
        for agreement in (0.774999, 0.775, 0.83)
    ]
    kept, dropped, _ = run(tmp_path, rows, threshold=0.85)  # (3 * 0.85 - 1) / 2 = 0.775
    assert list(kept) == [f"{k}:{agreement}" for k in (2, 3, 6, 9) for agreement in (0.775, 0.83)]
    assert dropped["6:0.774999"].detail == "agreement 0.774999 < 0.775 (0.85 at 3 candidates)"
    at_six, _, _ = run(tmp_path, rows, name="at-six", threshold=0.85, threshold_k=6)  # (6 * 0.85 - 1) / 5 = 0.82
    assert list(at_six) == [f"{k}:0.83" for k in (2, 3, 6, 9)]


def test_rows_in_are_rows_out_and_dropped_and_the_cut_itself_is_kept(tmp_path, make):
    rows = [
        make.scored_set(str(s), "captioning", [("dd", "a", s, None), *[("dd", "b", s - 0.1, None)] * 2])
        for s in (0.8, 0.849998, 0.85, 0.9, 0.95)
    ]
    kept, dropped, _ = run(tmp_path, rows, threshold=0.85)
    assert list(kept) == ["0.85", "0.9", "0.95"] and list(dropped) == ["0.8", "0.849998"]
    assert dropped["0.8"].reason == "low_consistency"
    manifest = read_json(tmp_path / "selected/manifest.json")
    assert (manifest["rows_in"], manifest["rows_out"], manifest["dropped"]) == (5, 3, {"low_consistency": 2})
    nested = [run(tmp_path, rows, name=f"at-{t}", threshold=t)[0].keys() for t in (0.8, 0.85, 0.9)]
    assert nested[0] > nested[1] > nested[2]


def without(scored, *reasons):
    """The same set with candidates that are excluded for these reasons, in order."""
    candidates = [
        c.model_copy(update={"compared": None, "score": None, "agreement": None, "excluded": reason}) if reason else c
        for c, reason in zip(scored.candidates, reasons, strict=True)
    ]
    return scored.model_copy(update={"candidates": tuple(candidates)})


def test_every_drop_has_its_reason(tmp_path, make):
    def row(row_id, score=0.9):
        return make.scored_set(row_id, "captioning", [("dd", f"{i}", score, None) for i in range(3)])

    rows = [
        row("kept"),
        row("low", 0.5),
        without(row("cut"), "cut", "cut", "cut"),
        without(row("unparsed"), "unparsed", "empty", "cut"),
        without(row("two"), None, "cut", None),
        without(row("two-and-low", 0.1), None, "cut", None),
        make.scored_set("none", "captioning", []),
        row("near"),
        row("shown", 0.1),
    ]
    for name, row_ids, reason in (("a", ("near",), "near_duplicate"), ("b", ("shown", "near"), "benchmark_overlap")):
        write_dataset(tmp_path / name, [Dropped(id=i, step="x", reason=reason, detail=f"as {i}") for i in row_ids])
    exclude = (tmp_path / "a", tmp_path / "b")
    kept, dropped, _ = run(tmp_path, rows, threshold=0.8, min_candidates=3, exclude=exclude)
    assert list(kept) == ["kept"]
    assert {i: d.reason for i, d in dropped.items()} == {
        "low": "low_consistency",
        "cut": "all_cut",
        "unparsed": "parse_failure",
        "two": "too_few_candidates",
        "two-and-low": "too_few_candidates",
        "none": "too_few_candidates",
        "near": "near_duplicate",
        "shown": "benchmark_overlap",
    }
    assert dropped["two"].detail == "2 of 3 can be compared (1 cut), fewer than 3"
    assert dropped["unparsed"].detail == "0 of 3 can be compared (1 cut, 1 unparsed, 1 empty)"
    assert dropped["shown"].detail == "as shown" and {d.step for d in dropped.values()} == {"select"}
    fewer, _, _ = run(tmp_path, rows, name="fewer", threshold=0.8, min_candidates=2, exclude=exclude)
    assert list(fewer) == ["kept", "two"]
    with pytest.raises(ValueError, match="belongs to another run"):
        run(tmp_path, rows, name="fewer", threshold=0.8, min_candidates=2)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.tuples(st.sampled_from([0.5, 0.8, 0.85, 0.9, None]), st.sampled_from(["cod", "dd"])))),
    st.sampled_from([0.6, 0.8, 0.9]),
    st.sampled_from([None, ("cod",)]),
    st.integers(2, 4),
)
def test_verdicts_are_those_of_the_plain_loop(tmp_path_factory, make, drawn, threshold, styles, fewest):
    folder = tmp_path_factory.mktemp("rows")
    rows = []
    for n, marks in enumerate(drawn):
        texts = [(style, make.cod(f"{i}") if style == "cod" else f"{i}", s, None) for i, (s, style) in enumerate(marks)]
        rows.append(make.scored_set(str(n), "captioning", texts))
    expected = {}
    for n, marks in enumerate(drawn):
        k, best = sum(s is not None for s, _ in marks), None
        for i, (s, style) in enumerate(marks):
            if s is not None and (styles is None or style in styles) and (best is None or s > marks[best][0]):
                best = i
        if k >= fewest and best is not None and (k * marks[best][0] - 1) / (k - 1) >= (3 * threshold - 1) / 2 - 1e-9:
            expected[str(n)] = best
    kept, dropped, _ = run(folder, rows, threshold=threshold, styles=styles, min_candidates=fewest)
    assert {i: e.extra["index"] for i, e in kept.items()} == expected
    assert len(kept) + len(dropped) == len(rows)


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
    assert dropped["q"].detail == "agreement 0.5 < 0.55 (0.7 at 3 candidates)"
    assert (pairs["q"].chosen_score, pairs["q"].margin) == (0.9, 0.4)
    fair, _, pairs = run(tmp_path, rows, name="fair", by="vote", threshold=0.5)
    assert list(fair) == ["q"] and pairs["q"].margin == pytest.approx(1 / 3)


def test_rows_need_the_marks_that_they_are_ranked_by(tmp_path, make):
    marks = [("direct", "red", 0.9, None), ("direct", "blue", 0.8, None), ("direct", "red", 0.7, None)]
    with pytest.raises(ValueError, match="row q has no votes. Score it with scorer: answer or both"):
        run(tmp_path, [make.scored_set("q", "reasoning", marks)], by="vote", threshold=0.5)
    row = make.scored_set("q", "reasoning", marks)
    voted = tuple(c.model_copy(update={"score": None, "agreement": None, "vote": 1.0}) for c in row.candidates)
    write_dataset(tmp_path / "other" / "scored", [row.model_copy(update={"candidates": voted})])
    with pytest.raises(ValueError, match="row q has no scores, .* Use by: vote"):
        run(tmp_path / "other", [], threshold=0.5)
    assert list(run(tmp_path / "other", [], name="vote", by="vote", threshold=1.0)[0]) == ["q"]


def test_votes_need_a_task_with_short_answers(tmp_path, make):
    row = make.scored_set("1", "captioning", [("dd", "a", 0.9, None), ("dd", "b", 0.9, None)])
    with pytest.raises(ValueError, match="row 1 has no votes, because captioning has no short answers"):
        run(tmp_path, [row], by="vote", threshold=0.5)


def test_only_the_named_styles_may_be_chosen(tmp_path, make):
    rows = [
        reasoning_row(make, "both", scores=(0.5, 0.9, 0.4)),
        make.scored_set("plain", "reasoning", [("direct", "red", 0.9, 1.0), ("direct", "red", 0.9, 1.0)]),
    ]
    kept, dropped, _ = run(tmp_path, rows, threshold=0.5, styles=("cot",))
    assert kept["both"].extra["style"] == "cot"
    assert dropped["plain"].reason == "no_candidate" and "style cot" in dropped["plain"].detail


def pair_of(row, by="score", seed=0):
    """The pair of a row whose first candidate is chosen."""
    found = preference_pair(orjson.loads(row.model_dump_json()), 0, by, seed)
    return PreferencePair.model_validate(found) if found else None


@pytest.mark.parametrize("k", [1, 2, 3, 6, 9])
def test_pairs_at_any_number_of_candidates(make, k):
    rows = [
        make.scored_set(
            f"{k}-{r}", "captioning", [("dd", f"text {i % 4}", round(0.9 - 0.1 * (i % 4), 6), None) for i in range(k)]
        )
        for r in range(50)
    ]
    pairs = [pair for row in rows if (pair := pair_of(row, seed=3))]
    assert all(p.chosen == "text 0" != p.rejected and p.chosen_score > p.rejected_score for p in pairs)
    assert all(p.margin == pytest.approx(p.chosen_score - p.rejected_score) for p in pairs)
    assert len(pairs) == (0 if k == 1 else 50)
    assert pairs == [pair for row in rows if (pair := pair_of(row, seed=3))]


def test_rejected_comes_uniformly_from_the_lower_half_strictly_below(make):
    scores = [0.9, 0.2, 0.8, 0.1, 0.7, 0.3]
    rows = [make.scored_set(str(r), "captioning", [("dd", f"{s}", s, None) for s in scores]) for r in range(150)]
    drawn = Counter(pair.rejected for row in rows if (pair := pair_of(row, seed=1)))
    assert set(drawn) == {"0.2", "0.1", "0.3"} and min(drawn.values()) > 30
    assert pair_of(make.scored_set("1", "captioning", [("dd", str(i), 0.9, None) for i in range(6)])) is None


def test_a_pair_never_holds_the_same_text_or_the_same_answer(make):
    agreed = make.scored_set(
        "1",
        "reasoning",
        [("direct", "red", 0.9, 1.0), ("cot", make.cot("The answer is red."), 0.8, 1.0), ("direct", "Red", 0.7, 1.0)],
    )
    assert pair_of(agreed) is None
    other_file = agreed.model_copy(
        update={"candidates": tuple(c.model_copy(update={"answer": None}) for c in agreed.candidates)}
    )
    assert pair_of(other_file) is None  # as of a scorer that stored no answers
    same = make.scored_set("1", "captioning", [("dd", "a", 0.9, None), ("dd", "a", 0.1, None)])
    assert pair_of(same) is None
    alike = make.scored_set("1", "captioning", [("dd", "a", 0.9, None), ("cod", make.cod("a"), 0.1, None)])
    assert pair_of(alike) is None
    spaced = make.scored_set("1", "captioning", [("dd", "A red\ncup.", 0.9, None), ("dd", "a Red  cup.", 0.1, None)])
    assert pair_of(spaced) is None


def test_rows_that_were_damaged_are_named_and_the_rest_is_used(tmp_path, make):
    rows = [reasoning_row(make, str(i)) for i in range(8)]
    write_dataset(tmp_path / "scored", rows)
    shard = tmp_path / "scored" / "shard-00000.jsonl"
    lines = shard.read_bytes().splitlines(keepends=True)
    shard.write_bytes(b"".join([lines[0], b'{"id": "1"}\n', b"\xff" + lines[2], *lines[3:7], lines[7][:200]]))
    with pytest.raises(ValueError, match="3 of 8 rows cannot be used .unreadable_row 3., more than 5%"):
        run(tmp_path, rows, threshold=0.5)
    kept, dropped, _ = run(tmp_path, rows, threshold=0.5, max_dropped_share=0.5)
    assert list(kept) == ["0", "3", "4", "5", "6"]
    assert list(dropped) == [f"shard-00000.jsonl:{n}" for n in (2, 3, 8)]
    assert {d.reason for d in dropped.values()} == {"unreadable_row"}
    assert dropped["shard-00000.jsonl:2"].detail == "not a ScoredSet (query is missing)"


@pytest.mark.parametrize("verb", ["select", "thresholds"])
def test_a_folder_without_scored_sets_is_refused(tmp_path, make, verb):
    write_dataset(tmp_path / "sampled", [make.candidate_set(str(i), "captioning", [("dd", "a cup")]) for i in range(3)])
    with pytest.raises(ValueError, match=r"sampled contains no scored sets \(shard-00000.jsonl:1 is not a ScoredSet"):
        if verb == "select":
            select(SelectConfig(input=tmp_path / "sampled", out_dir=tmp_path / "out", threshold=0.5))
        else:
            thresholds(ThresholdsConfig(input=tmp_path / "sampled"))
    assert not (tmp_path / "out").exists()


def test_rows_that_are_damaged_after_their_scores_were_read(tmp_path, make):
    """A manifest with digests vouches for the shards, so the columns of scores stay; the lines are looked at again."""
    rows = [reasoning_row(make, str(i)) for i in range(6)]
    write_dataset(tmp_path / "scored", rows)
    manifest = {"rows_out": 6, "rows_per_shard": {SHARD: 6}, "files": {SHARD: "digest"}}
    write_json(tmp_path / "scored" / "manifest.json", manifest)
    assert len(run(tmp_path, rows, name="before", threshold=0.5)[0]) == 6
    shard = tmp_path / "scored" / SHARD
    lines = shard.read_bytes().splitlines(keepends=True)
    shard.write_bytes(b"".join([lines[0], b'{"id": "1"}\n', lines[0], lines[3], lines[4][:200]]))
    kept, dropped, _ = run(tmp_path, rows, threshold=0.5, max_dropped_share=0.7)
    assert list(kept) == ["0", "3"] and list(dropped) == ["1", "2", "4", "5"]
    assert {d.reason for d in dropped.values()} == {"unreadable_row"}


SHARD = "shard-00000.jsonl"
KILLED = """
import sys, time
from pathlib import Path
from sicog.curation.select import select as module

call = module.SelectRows.__call__
def slow(self, block):
    time.sleep(0.04)  # 50 blocks: 2 s
    return call(self, block)
module.SelectRows.__call__ = slow
folder, options = Path(sys.argv[1]), {"threshold": 0.7, "block_size": 8, "rows_per_shard": 64}
config = module.SelectConfig(input=folder / "scored", out_dir=folder / "out", **options)
print("started", flush=True)
module.select(config)
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_gives_the_same_bytes(tmp_path, make):
    rows = [reasoning_row(make, f"{i}", scores=(0.5 + i % 50 / 100, 0.5, 0.4)) for i in range(400)]
    write_dataset(tmp_path / "scored", rows)
    killed_and_finished(KILLED, tmp_path, seed=1)
    run(tmp_path, rows, name="whole", threshold=0.7, min_candidates=3, block_size=8, rows_per_shard=64)
    whole = tmp_path / "whole"
    names = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file() and p.name != "run.json")
    assert len(names) > 16
    assert all((whole / n).read_bytes() == (tmp_path / "out" / n).read_bytes() for n in names)


@pytest.mark.slow
def test_number_of_workers_and_size_of_blocks_change_no_byte(tmp_path, make):
    rows = [reasoning_row(make, f"{i}", scores=(0.5 + i % 50 / 100, 0.5, 0.4)) for i in range(100)]
    run(tmp_path, rows, name="one", threshold=0.7, rows_per_shard=48, block_size=48)
    run(tmp_path, rows, name="two", threshold=0.7, rows_per_shard=48, block_size=3, workers=2)
    for name in ("shard-00001.jsonl", "pairs/shard-00002.jsonl", "dropped.jsonl", "manifest.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


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


def test_both_styles_of_a_kept_chain(tmp_path, make):
    """A chain that agrees teaches the bare answer too; the control keeps as many rows, not as many examples."""
    plain = make.scored_set("p", "reasoning", [("direct", "red", 0.9, None), ("direct", "red.", 0.8, None)])
    rows = [reasoning_row(make, f"r{i}", scores=(0.9, 0.5 + i / 10, 0.4)) for i in range(3)]
    kept, _, pairs = run(tmp_path, [*rows, plain], threshold=0.1, styles_kept="both")
    assert list(kept) == ["r0", "r0~direct", "r1", "r1~direct", "r2", "r2~direct", "p"] and len(pairs) == 3
    chain, bare = kept["r0"], kept["r0~direct"]
    assert chain.turns[1].text == make.cot("red") and bare.turns[1].text == "red"
    assert bare.turns[0].text == TASKS["reasoning"].prompt(rows[0].query, "direct") and bare.images == chain.images
    assert bare.extra == chain.extra | {"style": "direct", "of": "r0"}
    options = {"choose": "random", "keep_rows_of": tmp_path / "selected", "styles_kept": "both"}
    control, _, _ = run(tmp_path, [*rows, plain], name="control", **options)
    assert {row_id.split("~")[0] for row_id in control} == {"r0", "r1", "r2", "p"}


def test_the_control_cannot_keep_more_rows_than_there_are(tmp_path, make):
    row = make.scored_set("1", "captioning", [("dd", "a", 0.9, None), ("dd", "b", 0.8, None)])
    write_dataset(tmp_path / "more", [Example(id=str(i), turns=({"role": "user", "text": ""}, _said())) for i in "ab"])
    with pytest.raises(ValueError, match="has 2 rows, but only 1"):
        run(tmp_path, [row], choose="random", keep_rows_of=tmp_path / "more")


def _said():
    return {"role": "assistant", "text": "x"}


def test_a_threshold_file_is_for_one_task_encoder_and_ranking(tmp_path, make):
    rows, file = [reasoning_row(make)], tmp_path / "threshold.json"
    write_json(file, {"threshold": 0.95, "by": "score", "task": "reasoning", "encoder": "test"})
    assert "q" in run(tmp_path, rows, threshold_file=file)[1]
    with pytest.raises(ValueError, match="is for by: score, but the config has vote"):
        run(tmp_path, rows, name="a", threshold_file=file, by="vote")
    write_json(file, {"threshold": 0.95, "by": "score", "task": "captioning", "encoder": "test"})
    with pytest.raises(ValueError, match="row q is of task reasoning, but the threshold was found for captioning"):
        run(tmp_path, rows, name="b", threshold_file=file)
    write_json(file, {"threshold": 0.95, "by": "score", "task": "reasoning", "encoder": "other"})
    with pytest.raises(ValueError, match="row q was scored by test, but the threshold was found for other"):
        run(tmp_path, rows, name="c", threshold_file=file)
    swept = {"threshold": 0.95, "by": "score", "styles": ["cot"], "min_candidates": 3}
    write_json(file, swept)
    with pytest.raises(ValueError, match=r"is for styles: \['cot'\], but the config has None"):
        run(tmp_path, rows, name="c", threshold_file=file)
    with pytest.raises(ValueError, match="is for min_candidates: 3, but the config has 2"):
        run(tmp_path, rows, name="c", threshold_file=file, styles=("cot",))
    write_json(file, {"cut": 0.95})
    with pytest.raises(ValueError, match="has no number under 'threshold'"):
        run(tmp_path, rows, name="d", threshold_file=file)


@pytest.mark.parametrize(
    "options",
    [{}, {"threshold": 0.5, "threshold_file": "x"}, {"choose": "random", "threshold": 0.5}, {"threshold": 1.5}],
)
def test_there_is_one_rule_for_keeping(options):
    with pytest.raises(ValueError, match="threshold"):
        SelectConfig(input="a", out_dir="b", **options)


def test_a_style_that_no_task_has_is_refused_by_name():
    with pytest.raises(ValueError, match="unknown style 'cdo'; known: cod, cod-conv, dd, cot, direct"):
        SelectConfig(input="a", out_dir="b", threshold=0.5, styles=("cod", "cdo"))
