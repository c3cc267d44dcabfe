"""Claims become questions, answers come back to the claims, and what is confirmed is stronger."""

from __future__ import annotations

import pytest

from sicog.config import validate
from sicog.curation.claims.extract import ClaimsConfig, claims
from sicog.curation.claims.settle import SettleConfig, settle
from sicog.curation.claims.verify import AskConfig, CheckConfig, ask_claims, check_claims, distinct_claims
from sicog.records import Candidate, CandidateSet, Claim, Example, Query, ScoredSet
from sicog.stages.storage import read_json, read_records, write_dataset

GRAMMAR = "sicog.mini.grammar:GRAMMAR"
GOOD = "The image shows a large red circle at the top left on a white background."
BAD = "The image shows a large red circle at the top left and a small blue star at the top right on a white background."


def answered(query: Query, *texts: str) -> CandidateSet:
    made = {"query_id": query.id, "style": "direct", "prompt": "?", "seed": 0, "finish_reason": "stop", "n_tokens": 1}
    candidates = [Candidate(index=k, text=text, checkpoint="c", **made) for k, text in enumerate(texts)]
    return CandidateSet(id=query.id, query=query, candidates=tuple(candidates))


@pytest.fixture
def scored(tmp_path, make):
    rows = [make.candidate_set(key, "captioning", [("dd", t) for t in (GOOD, BAD, BAD)]) for key in "ab"]
    write_dataset(tmp_path / "in", rows)
    config = {"input": [str(tmp_path / "in")], "out_dir": str(tmp_path / "scored"), "reader": "grammar"}
    return claims(validate(ClaimsConfig, config | {"grammar": GRAMMAR}, "claims.yaml"))


def test_every_different_claim_is_asked_about_once(scored, tmp_path):
    asked = list(read_records(ask_claims(AskConfig(input=scored, out_dir=tmp_path / "q", grammar=GRAMMAR)), Query))
    of_a = {query.question: query.extra["confirms"] for query in asked if query.extra["of"] == "a"}
    want = {"Is there a red circle?": "yes", "Where is the red circle?": "top left"}
    assert of_a == want | {"Is there a blue star?": "yes", "Where is the blue star?": "top right"}
    assert len({query.id for query in asked}) == len(asked) == 8
    unsure = AskConfig(input=scored, out_dir=tmp_path / "u", grammar=GRAMMAR, most=0.9)
    assert {q.extra["key"] for q in read_records(ask_claims(unsure), Query)} == {
        "small blue star",
        "small blue star at the top right",
    }
    plain = list(read_records(ask_claims(AskConfig(input=scored, out_dir=tmp_path / "p")), Query))
    assert plain[0].question == "Is this true of the image? large red circle" and len(plain) == 10


def test_answers_come_back_to_their_claims_and_decide(scored, tmp_path):
    asked = ask_claims(AskConfig(input=scored, out_dir=tmp_path / "q", grammar=GRAMMAR))
    says = {
        "Is there a blue star?": ("no", "No.", "yes"),
        "Where is the blue star?": ("top left", "top right", "center"),
    }
    rows = [answered(q, *says.get(q.question, (q.extra["confirms"],) * 3)) for q in read_records(asked, Query)]
    write_dataset(tmp_path / "answers", rows)
    config = CheckConfig(input=scored, asked=asked, answers=tmp_path / "answers", out_dir=tmp_path / "checked")
    row = next(iter(read_records(check_claims(config), ScoredSet)))
    found = {claim.key: claim.checked for claim in distinct_claims(row)}
    star = {"small blue star": 0.333333, "small blue star at the top right": 0.333333}
    assert found == star | {"large red circle": 1.0, "large red circle at the top left": 1.0, "white": None}
    assert read_json(tmp_path / "checked" / "manifest.json")["rows_out"] == 2
    kept = {}
    for weight in (0.0, 1.0):
        values = {"input": str(tmp_path / "checked"), "out_dir": str(tmp_path / f"w{weight:g}"), "grammar": GRAMMAR}
        values |= {"support": {"thing": 0.6 + 0.6 * weight}, "check_weight": weight}
        kept[weight] = next(iter(read_records(settle(validate(SettleConfig, values, "settle.yaml")), Example)))
    assert "blue star" not in kept[1.0].turns[-1].text and "red circle" in kept[1.0].turns[-1].text
    assert kept[0.0].extra["claims"][0]["checked"] == 1.0


def test_mistakes_are_named(scored, tmp_path):
    write_dataset(tmp_path / "other", [answered(Query(id="x", task="reasoning", question="?"), "yes")])
    asked = ask_claims(AskConfig(input=scored, out_dir=tmp_path / "q", grammar=GRAMMAR))
    config = CheckConfig(input=scored, asked=asked, answers=tmp_path / "other", out_dir=tmp_path / "o")
    with pytest.raises(ValueError, match=r"an answer to 'x', which is not in"):
        check_claims(config)
    base = {"input": str(scored), "out_dir": str(tmp_path / "o2")}
    for values, said in (
        ({"least": 0.9, "most": 0.1}, "no claim qualifies"),
        ({"question": "Is it so?"}, "{key} is missing in question"),
        ({"grammar": "curation.claims.test_verify:SILENT"}, "has no method `ask`"),
    ):
        with pytest.raises(ValueError, match=said):
            validate(AskConfig, base | values, "ask.yaml")


class Silent:
    name = "silent"

    def read(self, text, window):
        return []

    def write(self, claims: list[tuple[Claim, float]]):
        return None


SILENT = Silent()
