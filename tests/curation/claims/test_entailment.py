"""An NLI cross-encoder: a real one of sentence-transformers, tiny and with random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from sicog.curation.claims.entailment import CrossEncoderNli

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cup", "dog", "sleeps", "."]


def tiny_nli(folder, labels):
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    BertForSequenceClassification(BertConfig(vocab_size=len(WORDS), **sizes, **names)).save_pretrained(folder)
    return folder


def test_probabilities_of_entailment_are_those_of_the_model(tmp_path):
    folder = tiny_nli(tmp_path / "nli", ["contradiction", "entailment", "neutral"])
    nli = CrossEncoderNli(str(folder))
    pairs = [("a red cup .", "a cup"), ("a dog sleeps", "a cup"), ("a red cup .", "a cup")]
    found = nli.entails(pairs)
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    with torch.no_grad():
        batch = tokenizer([t for t, _ in pairs], [c for _, c in pairs], padding=True, return_tensors="pt")
        expected = model(**batch).logits.softmax(-1)[:, 1].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found[0] == found[2] and nli.description == f"NLI {folder}" and len(nli.entails([])) == 0


def test_a_model_without_the_label_and_one_that_is_not_there_are_sentences(tmp_path):
    folder = tiny_nli(tmp_path / "other", ["bad", "good", "so-so"])
    with pytest.raises(ValueError, match="has no label `entailment`, only bad, good, so-so"):
        CrossEncoderNli(str(folder)).entails([("a cup", "a cup")])
    with pytest.raises(ValueError, match="nli: .* does not exist"):
        CrossEncoderNli(str(tmp_path / "nowhere")).entails([("a cup", "a cup")])
