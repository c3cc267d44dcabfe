"""The endpoint's reader and writer against a real local server, one that also lies, refuses and breaks off."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from fake_endpoint import Endpoint, serving

from sicog.config import validate
from sicog.curation.claims.extract import ClaimsConfig, claims
from sicog.curation.claims.settle import SettleConfig, settle
from sicog.records import Dropped, Example, ScoredSet
from sicog.stages.storage import read_records, write_dataset

TEXTS = ("A red car stands on the road. The sky is blue.", "A red car is there. A dog runs.", "The sky is blue.")
FACTS = {"a car is red": "red car", "the sky is blue": "sky is blue", "a dog runs": "dog runs"}


def told(body: dict) -> str:
    return body["messages"][0]["content"]


def truthful(body: dict) -> str:
    """Extracts the facts whose quotation the text holds, and checks others by it."""
    prompt = told(body)
    if prompt.startswith("Write one"):
        return " ".join(f"{line[2:].capitalize()}." for line in prompt.splitlines() if line.startswith("- "))
    text = re.search(r"Text:\n(.*?)(?:\n\nStatements:|$)", prompt, re.DOTALL)[1]
    if prompt.startswith("List every"):
        return json.dumps([{"claim": claim, "quote": quote} for claim, quote in FACTS.items() if quote in text])
    stated = [int(n) for n, claim in re.findall(r"^(\d+)\. (.*)$", prompt, re.MULTILINE) if FACTS[claim] in text]
    return f"Here they are: {stated}"


def left_out(folder: Path) -> list[Dropped]:
    return [Dropped.model_validate_json(line) for line in (folder / "dropped.jsonl").read_text().splitlines()]


def run(tmp_path: Path, endpoint: Endpoint, texts=TEXTS, **values) -> tuple[list[ScoredSet], list[Dropped]]:
    out = tmp_path / "claims"
    config = {"input": [str(tmp_path / "in")], "out_dir": str(out), "reader": "endpoint", "max_dropped_share": 1.0}
    with serving(endpoint):
        own = {"model": "m", "base_url": endpoint.url, "api_key_env": None, "attempts": 1}
        claims(validate(ClaimsConfig, config | {"endpoint": own} | values, "claims.yaml"))
    return list(read_records(out, ScoredSet)), left_out(out)


@pytest.fixture
def rows(tmp_path, make):
    write_dataset(tmp_path / "in", [make.candidate_set("1", "captioning", [("dd", text) for text in TEXTS])])
    return tmp_path


def test_a_claim_is_supported_by_those_that_state_it(rows):
    endpoint = Endpoint(truthful)
    (row,), dropped = run(rows, endpoint)
    assert not dropped and row.encoder == "claims-1 by m" and endpoint.count == 6
    found = {(k, c.key): (c.support, TEXTS[k][c.start : c.end]) for k, s in enumerate(row.candidates) for c in s.claims}
    assert found == {
        (0, "a car is red"): (0.5, "red car"),
        (0, "the sky is blue"): (0.5, "sky is blue"),
        (1, "a car is red"): (0.5, "red car"),
        (1, "a dog runs"): (0.0, "dog runs"),
        (2, "the sky is blue"): (0.5, "sky is blue"),
    }
    again = Endpoint(truthful)
    run(rows, again)
    assert again.count == 0  # it is done


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (("text", "no idea"), "it holds no JSON array"),
        (("text", '[{"claim": "a cat", "quote": "a cat sleeps"}]'), "none of its quotations stands in the text"),
        (("text", '[{"claim": 3}]'), "is no {.claim"),
        (("refusal", "I cannot"), "it refuses"),
        (("length", "[1, 2"), "cut off"),
    ],
)
def test_an_answer_that_cannot_be_used_is_asked_for_again_and_then_the_row_goes(rows, fault, said):
    once = Endpoint(truthful, faults=[fault])
    (row,), dropped = run(rows, once)
    assert not dropped and once.count == 7 and sum(len(c.claims) for c in row.candidates) == 5
    (second,) = [body["messages"][-1]["content"] for body in once.bodies if len(body["messages"]) > 1]
    assert re.search(f"This answer cannot be used: .*{said}", second)


def test_a_model_that_always_lies_drops_the_row_with_what_it_said(rows):
    kept, (dropped,) = run(rows, Endpoint(lambda body: "[7]" if told(body).startswith("Which") else truthful(body)))
    assert not kept and (dropped.id, dropped.reason) == ("1", "unreadable_claims")
    assert re.search(r"m gave no usable list of numbers: 7 is no number of a statement, 1 to [23]", dropped.detail)


def test_one_candidate_equal_and_empty_ones(tmp_path, make):
    sets = {"one": TEXTS[:1], "equal": [TEXTS[2]] * 3, "empty": ["", "  ", TEXTS[0]]}
    made = [make.candidate_set(key, "captioning", [("dd", t) for t in texts]) for key, texts in sets.items()]
    write_dataset(tmp_path / "in", made)
    kept, dropped = run(tmp_path, Endpoint(truthful))
    by_id = {row.id: row for row in kept}
    assert not dropped and set(by_id) == set(sets)
    assert [c.support for c in by_id["one"].candidates[0].claims] == [None, None]
    assert [c.support for s in by_id["equal"].candidates for c in s.claims] == [1.0] * 3
    assert sum(len(s.claims) for s in by_id["empty"].candidates) == 2


def test_an_endpoint_writes_the_merged_text(rows):
    run(rows, Endpoint(truthful))
    config = {"input": str(rows / "claims"), "how": "merge", "support": 0.5, "max_dropped_share": 1.0}
    for name, endpoint in (("good", Endpoint(truthful)), ("silent", Endpoint(lambda body: " "))):
        with serving(endpoint):
            own = {"model": "m", "base_url": endpoint.url, "api_key_env": None, "attempts": 1}
            settle(validate(SettleConfig, config | {"out_dir": str(rows / name), "endpoint": own}, "settle.yaml"))
    (example,) = read_records(rows / "good", Example)
    assert example.turns[-1].text == "A car is red. The sky is blue."
    assert [claim["key"] for claim in example.extra["claims"]] == ["a car is red", "the sky is blue"]
    assert not list(read_records(rows / "silent", Example))
    (dropped,) = left_out(rows / "silent")
    assert (dropped.reason, "it is empty" in dropped.detail) == ("unwritten", True)


def test_what_does_not_fit_is_refused(tmp_path):
    base = {"input": [str(tmp_path)], "out_dir": str(tmp_path / "o")}
    for values, message in (
        ({"reader": "endpoint"}, "reader: endpoint needs the key endpoint"),
        ({"endpoint": {"model": "m"}}, "other readers do not use it"),
        ({"reader": "endpoint", "endpoint": {"model": "m"}, "workers": 2}, "one process sends all requests"),
    ):
        with pytest.raises(ValueError, match=message):
            validate(ClaimsConfig, base | values, "claims.yaml")
    with pytest.raises(ValueError, match="an endpoint only writes merged texts"):
        values = {"input": str(tmp_path), "out_dir": str(tmp_path / "o"), "support": 0.5, "how": "prune"}
        validate(SettleConfig, values | {"endpoint": {"model": "m"}}, "settle.yaml")
