"""Texts written from claims: pruned, merged, what is dropped and why, pairs, and a plain nested loop over it all."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sicog.config import validate
from sicog.curation.claims.extract import ReadClaims
from sicog.curation.claims.readers import GrammarReader, SentenceReader
from sicog.curation.claims.settle import PAIRS, SettleConfig, SettleRows, quantiles, settle
from sicog.mini.grammar import GRAMMAR
from sicog.records import Dropped, Example, PreferencePair
from sicog.stages.storage import read_json, read_records, write_dataset

MINI_GRAMMAR = "sicog.mini.grammar:GRAMMAR"
TEMPLATE = "The image shows {} on a {} background."


class Same:
    """Sentences are the same where their words are."""

    description = "equal"

    def embed(self, texts):
        import numpy as np

        known = sorted({t.casefold() for t in texts})
        return np.eye(max(1, len(known)), dtype=np.float32)[[known.index(t.casefold()) for t in texts]]


def sentence_rows(make, *texts, style="dd"):
    rows = [make.candidate_set("r", "captioning", [(style, t) for t in texts])]
    return [scored for (scored,) in ReadClaims(SentenceReader(0.9, embedder=Same()), "f1")(rows)]


def grammar_row(make, *texts):
    rows = [make.candidate_set("r", "captioning", [("dd", t) for t in texts])]
    return ReadClaims(GrammarReader(MINI_GRAMMAR), "f1")(rows)[0][0]


def settled(rows, tmp_path, **values):
    given = {"input": str(tmp_path), "out_dir": str(tmp_path / "o"), "grammar": MINI_GRAMMAR}
    config = validate(SettleConfig, given | values, "settle.yaml")
    return SettleRows(config, config.support if config.quantile is None else quantiles(rows, config.quantile))(rows)


def caption(*things, ground="white"):
    return TEMPLATE.format(" and ".join(f"a {t}" for t in things), ground)


A, B, C = "large red circle at the top left", "small blue star at the middle right", "small cyan cross at the top right"


def test_pruning_leaves_out_what_too_few_others_state(make, tmp_path):
    rows = sentence_rows(make, "A cup. A dog. It rains.", "A dog. A cup.", "A cup. A cat.")
    (outcome,) = settled(rows, tmp_path, how="prune", grammar=None, support=0.5)
    example, pair = outcome
    assert example.turns[1].text == "A dog. A cup." and example.extra["style"] == "dd"
    assert [c["support"] for c in example.extra["claims"]] == [0.5, 1.0] and example.extra["agreement"] == 0.75
    assert pair.chosen == "A dog. A cup." and pair.rejected == "A cup. A dog. It rains."


def test_a_pruned_chain_stays_a_chain_or_is_dropped(make, tmp_path):
    texts = [make.cod("A cup. It floats."), make.cod("A cup."), make.cod("A cup. A dog.")]
    rows = sentence_rows(make, *texts, style="cod")
    (outcome,) = settled(rows, tmp_path, how="prune", grammar=None, support=0.6)
    assert outcome[0].turns[1].text == make.cod("A cup.")
    lonely = [make.cod(d) for d in ("A cup.", "A dog.", "A cat.")]  # the last step has no supported sentence
    (outcome,) = settled(sentence_rows(make, *lonely, style="cod"), tmp_path, how="prune", grammar=None, support=0.6)
    assert isinstance(outcome, Dropped) and outcome.reason == "no_chain_left"


def test_a_grammar_prunes_a_chain_to_a_plain_description(make, tmp_path):
    texts = [("cod", make.cod(caption(A, B))), ("cod", make.cod(caption(A))), ("dd", caption(A, C))]
    ((row,),) = ReadClaims(GrammarReader(MINI_GRAMMAR), "f1")([make.candidate_set("r", "captioning", texts)])
    (outcome,) = settled([row], tmp_path, how="prune", support=0.5)
    assert outcome[0].turns[1].text == caption(A) and outcome[0].extra["style"] == "dd"


def test_merging_writes_what_enough_candidates_state_each_once(make, tmp_path):
    rows = sentence_rows(make, "A cup. A dog.", "A dog. A cat.", "A cup. A cat. It rains.", "a cup. A dog.")
    (outcome,) = settled(rows, tmp_path, how="merge", grammar=None, support=0.3)
    text = outcome[0].turns[1].text
    assert Counter(re.findall(r"cup|dog|cat|rains", text)) == {"cup": 1, "dog": 1, "cat": 1}


def test_merging_by_the_grammar_joins_what_no_single_candidate_says(make, tmp_path):
    row = grammar_row(
        make, caption(A, B), caption(A, C), caption(B, C, ground="beige"), caption(A, "large red star at the top left")
    )
    (outcome,) = settled([row], tmp_path, support=0.3)
    example = outcome[0]
    assert example.turns[1].text == (
        f"The image shows a {A}, a {C} and a {B} on a white background."  # in reading order
    )
    assert example.turns[0].text.startswith("Please generate") and example.turns[0].images_at == (0,)
    assert {c["key"] for c in example.extra["claims"]} >= {"large red circle", A, "white"}


def test_the_place_that_most_candidates_state_wins_and_of_two_things_at_one_place_the_better_supported(make):
    row = grammar_row(
        make,
        caption(A),
        caption(A),
        caption("large red circle at the top center"),
        caption("small red star at the top left"),
    )
    text = GRAMMAR.write([(c, c.support) for candidate in row.candidates for c in candidate.claims])
    assert text == caption(A)
    assert GRAMMAR.write([]) is None


def test_rows_that_state_nothing_or_too_little_are_dropped_with_a_reason(make, tmp_path):
    def reason(row, **values):
        (outcome,) = settled([row], tmp_path, **{"support": 0.5} | values)
        return outcome.reason, outcome.detail

    silent = grammar_row(make, "Ein roter Kreis.", "一个红色的圆圈。", "nothing to see")  # other languages
    assert reason(silent) == ("no_claims", "0 of 3 state anything (3 no_claims)")
    alone = grammar_row(make, caption(A), "nothing", "nothing")
    assert reason(alone) == ("too_few_candidates", "1 of 3 state anything (1 compared, 2 no_claims)")
    apart = grammar_row(make, caption(A), caption(B, ground="beige"), caption(C, ground="gray"))
    assert reason(apart) == ("too_few_claims", "0 claims have the support that is asked for")
    weak = grammar_row(make, caption(A), caption(A, ground="beige"), caption(A, B))
    assert reason(weak, agreement=0.99)[0] == "low_support"


def test_all_candidates_equal_are_kept_as_they_are_and_make_no_pair(make, tmp_path):
    (outcome,) = settled([grammar_row(make, *[caption(A, B)] * 4)], tmp_path, support=1.0)
    assert [type(r) for r in outcome] == [Example] and outcome[0].turns[1].text == caption(A, B)


@pytest.mark.parametrize(
    "share, expected", [(0.0, {"x": 0.1, "y": 1.0}), (0.5, {"x": 0.5, "y": 1.0}), (0.9, {"x": 0.5, "y": 1.0})]
)
def test_quantiles_are_by_kind(make, share, expected):
    row = grammar_row(make, caption(A), caption(A), caption(A))
    (claim,) = [c for c in row.candidates[0].claims if c.kind == "background"]
    given = [
        claim.model_copy(update={"kind": k, "support": s})
        for k, s in (("x", 0.1), ("x", 0.2), ("x", 0.5), ("x", 0.5), ("y", 1.0))
    ]
    rows = [row.model_copy(update={"candidates": (row.candidates[0].model_copy(update={"claims": tuple(given)}),)})]
    assert quantiles(rows, share) == expected


THINGS = [
    f"{size} {colour} {shape} at the {place}"
    for size in ("small", "large")
    for colour, shape, place in (
        ("red", "star", "top left"),
        ("blue", "cross", "middle left"),
        ("red", "cross", "bottom right"),
    )
]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(THINGS), unique=True, min_size=1, max_size=4), min_size=3, max_size=6),
    st.sampled_from([0.0, 0.2, 0.34, 0.5, 0.75]),
)
def test_what_is_merged_is_what_a_plain_loop_finds(make, sets, least):
    texts = [caption(*things) for things in sets]
    row = grammar_row(make, *texts)
    config = SettleConfig(input="in", out_dir="out", support=least, grammar=MINI_GRAMMAR)
    (outcome,) = SettleRows(config, least)([row])
    kept = {}
    for i, things in enumerate(sets):
        for thing in things:
            name, region = thing.split(" at the ")
            others = [other for j, other in enumerate(sets) if j != i]
            named = sum(any(t.startswith(name) for t in o) for o in others) / len(others)
            placed = sum(thing in o for o in others) / len(others)
            if min(named, placed) >= least - 1e-6:
                kept[name] = region
    stated = (
        {c["key"] for c in outcome[0].extra["claims"] if c["kind"] == "place"}
        if not isinstance(outcome, Dropped)
        else set()
    )
    assert stated == {f"{name} at the {region}" for name, region in kept.items()}


def test_the_stage_counts_every_row_and_writes_pairs(make, tmp_path):
    texts = [caption(A, B), caption(A, B), caption(A, C)]
    rows = [grammar_row(make, *texts).model_copy(update={"id": f"r{i}"}) for i in range(5)]
    rows = [r.model_copy(update={"query": r.query.model_copy(update={"id": r.id})}) for r in rows]
    silent = grammar_row(make, "x", "y", "z")
    write_dataset(tmp_path / "claims", [*rows, silent])
    out = settle(SettleConfig(input=tmp_path / "claims", out_dir=tmp_path / "kept", support=0.5, grammar=MINI_GRAMMAR))
    manifest = read_json(out / "manifest.json")
    assert (manifest["rows_in"], manifest["dropped"]) == (6, {"no_claims": 1})
    assert [e.turns[1].text for e in read_records(out, Example)] == [caption(A, B)] * 5
    pairs = list(read_records(out / PAIRS, PreferencePair))
    assert len(pairs) == 5 and {p.rejected for p in pairs} == {caption(A, C)}


def test_config_says_what_does_not_fit(tmp_path):
    base = {"input": str(tmp_path), "out_dir": str(tmp_path / "out")}
    for values, message in (
        ({}, "support and quantile: set exactly one"),
        ({"support": 0.5, "quantile": 0.2}, "support and quantile: set exactly one"),
        ({"support": {"thing": 2.1}}, "support must be a strength between 0 and 2"),
        ({"support": 0.5, "grammar": "x:y"}, "cannot be loaded"),
    ):
        with pytest.raises(ValueError, match=message):
            validate(SettleConfig, base | values, "settle.yaml")
