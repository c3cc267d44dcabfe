"""Vectors from a real local server through the one client: order, retries, nothing asked twice, bad vectors stop."""

from __future__ import annotations

import numpy as np
import pytest
from fake_endpoint import Endpoint, serving

from sicog.curation.score.score import ScoreConfig, score
from sicog.curation.vectors.encoders import EncoderConfig
from sicog.curation.vectors.served_encoder import ServedEncoder
from sicog.records import ScoredSet
from sicog.remote import client
from sicog.remote.budget import BudgetReached
from sicog.stages.storage import read_records, write_dataset

KEY = "sk-very-secret-0123456789"
TEXTS = [f"text {i} " + "word " * (i % 5) for i in range(20)]


def vector(text):
    return [float(len(text)), float(sum(map(ord, text)) % 97), 1.0]


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(client, "back_off_s", lambda attempt, rng: 0.01)
    with serving(Endpoint(lambda body: "", vector=vector)) as served:
        yield served


@pytest.fixture
def encoder(endpoint, tmp_path):
    """An encoder with these settings; closed at the end."""
    made = []

    def make(**values):
        connection = {"base_url": endpoint.url, "attempts": 3, "timeout_s": 20, **values.pop("endpoint", {})}
        config = EncoderConfig(kind="endpoint", name="m", endpoint=connection, **{"texts_per_request": 6, **values})
        made.append(ServedEncoder(config, tmp_path / "answers"))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_vectors_come_in_the_order_of_the_texts_and_are_never_asked_for_twice(encoder, endpoint):
    expected = np.array([vector(t) for t in TEXTS])
    first = encoder()
    assert first.encode(TEXTS).vectors == pytest.approx(expected)
    assert sorted(len(b["input"]) for b in endpoint.bodies) == [2, 6, 6, 6]
    assert {b["model"] for b in endpoint.bodies} == {"m"} and {h["authorization"] for h in endpoint.headers} == {
        f"Bearer {KEY}"
    }
    first.close()
    assert encoder().encode(TEXTS).vectors == pytest.approx(expected) and endpoint.count == 4


def test_prefix_and_suffix_are_sent_and_recorded(encoder, endpoint):
    one = encoder(prefix="query: ", preset="nvidia/NV-Embed-v2", revision="2")
    one.encode(["a"])
    assert endpoint.bodies[0]["input"] == ["query: a</s>"]
    assert one.description == "openai:m@2, prefix 'query: ', suffix '</s>'" and one.key != encoder().key


FAULTS = [("status", 429), ("status", 500), ("cut", None), ("malformed", None), ("raw", "{}"), ("error_in_body", None)]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_what_goes_wrong_once_is_asked_again(encoder, endpoint, fault):
    if fault[0] == "error_in_body":
        fault = ("raw", '{"error": {"message": "overloaded"}}')
    endpoint.faults[:] = [fault, fault]
    assert encoder().encode(["a"]).vectors.tolist() == [vector("a")] and endpoint.count == 3


BAD = {
    "one too few": (lambda data: data[:-1], "gave vectors .* for 3 texts"),
    "another order": (lambda data: [{**d, "index": 2 - d["index"]} for d in data], "expected one per text, in order"),
    "widths": (lambda data: [data[0], {**data[1], "embedding": [1.0]}, data[2]], "vectors of different lengths"),
    "not numbers": (lambda data: [{**d, "embedding": ["x", "y"]} for d in data], "not finite numbers"),
    "not finite": (lambda data: [{**d, "embedding": [1e99, 1.0]} for d in data], "not finite numbers"),
}


@pytest.mark.parametrize("name", BAD)
def test_vectors_that_are_not_those_of_the_texts_stop_the_run(encoder, endpoint, name):
    change, sentence = BAD[name]
    endpoint.faults[:] = [("vectors", change)]
    one = encoder()
    with pytest.raises(ValueError, match=sentence):
        one.encode(["a", "b", "c"])
    assert endpoint.count == 1
    one.close()
    assert len(encoder().encode(["a", "b", "c"]).vectors) == 3  # nothing of it was stored


def test_a_text_that_the_endpoint_refuses_is_named(encoder, endpoint):
    one = encoder()
    one.encode(["a first text"])
    endpoint.faults[:] = [("status", 400), ("status", 400)]
    with pytest.raises(ValueError, match="no vector for the text 'much too long'.*status 400"):
        one.encode(["much too long", "a"])


def test_an_endpoint_that_never_answers_stops_with_the_text_and_keeps_what_is_answered(encoder, endpoint):
    endpoint.faults[:] = [("status", 503)] * 3
    with pytest.raises(ValueError, match="no vector for the text 'a': 3 attempts, the last: status 503"):
        encoder().encode(["a"])


def test_the_budget_holds_and_a_missing_key_is_named_before_anything_is_asked(encoder, endpoint, monkeypatch):
    with pytest.raises(BudgetReached):
        encoder(endpoint={"budget": {"tokens": 150}, "concurrency": 1}).encode(TEXTS)
    assert endpoint.count == 1  # a hundred tokens each
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ValueError, match="OPENAI_API_KEY is not set"):
        encoder()


def test_a_run_scores_by_an_endpoint_and_the_key_is_nowhere(endpoint, tmp_path, make, capfd):
    texts = ["a cup", "a red cup", f"a {KEY} cup"]
    rows = [make.candidate_set("a", "captioning", [("dd", t) for t in texts[:2]])]
    write_dataset(tmp_path / "sets", rows)
    endpoint.faults[:] = [("raw", f'{{"error": "{KEY}"}}')]
    encoder = EncoderConfig(kind="endpoint", name="m", endpoint={"base_url": endpoint.url})
    values = {"input": tmp_path / "sets", "encoder": encoder, "cache_dir": tmp_path / "cache"}
    (row,) = read_records(score(ScoreConfig(out_dir=tmp_path / "out", **values)), ScoredSet)
    units = np.array([vector(t) for t in texts[:2]])
    units /= np.linalg.norm(units, axis=1)[:, None]
    assert [c.score for c in row.candidates] == pytest.approx((units @ units.T).mean(axis=1), abs=1e-6)
    assert row.encoder == "openai:m" and endpoint.count == 2
    score(ScoreConfig(out_dir=tmp_path / "again", **values))
    assert endpoint.count == 2  # the cache has them
    written = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert KEY.encode() not in written and KEY not in "".join(capfd.readouterr())
