"""words.py, clusters.py, minhash.py: near texts are found, others are not, whatever the order."""

import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sicog.curation.overlap.clusters import Clusters, groups, is_among, pairs_of_equal, repeated_keys
from sicog.curation.overlap.minhash import TextIndex
from sicog.curation.words import ngram_hashes, word_hashes, words

RNG = np.random.default_rng(0)
WORDS = [f"word{i}" for i in range(3000)]


def text(n=150):
    return RNG.choice(WORDS, n).tolist()


def edited(listed, n):
    """The text with `n` words in a row replaced: n + 4 of its shingles are others then."""
    at = int(RNG.integers(0, len(listed) - n))
    return [*listed[:at], *text(n), *listed[at + n :]]


def clusters(texts, similarity=0.8):
    with tempfile.TemporaryFile() as file:
        index = TextIndex(file)
        for start in range(0, len(texts), 64):
            index.add([word_hashes(one) for one in texts[start : start + 64]])
        return index.clusters(similarity)


def test_words_of_several_scripts():
    assert words("The  CAT's “hat”, re-used_2 ﬁne!") == ["the", "cat", "s", "hat", "re", "used", "2", "fine"]
    assert words("红色的 car") == ["红", "色", "的", "car"]
    assert words("") == words("?!…") == []


def test_runs_are_of_words_in_order():
    hashed = word_hashes(["a", "b", "c", "a", "b", "c"])
    three = ngram_hashes(hashed, 3)
    assert len(three) == 4 and three[0] == three[3] and len(set(three.tolist())) == 3
    assert len(ngram_hashes(hashed, 7)) == 0


def test_recall_and_precision_on_made_texts():
    originals = [text() for _ in range(200)]
    near = [edited(one, 6) for one in originals]  # of some 146 shingles, 136 of 156 in all: similarity 0.87
    far = [edited(one, 60) for one in originals]  # 82 of 210: 0.39
    labels = clusters(originals + near + far)
    assert (labels[200:400] == np.arange(200)).mean() >= 0.97
    assert (labels[400:] == np.arange(400, 600)).all()
    assert len(np.unique(labels[:200])) == 200


def test_many_near_texts_of_one_template_are_one_cluster():
    """More than a bucket compares all with all."""
    template = text(300)
    texts = [[*template, f"number{i}"] for i in range(150)] + [text() for _ in range(50)]
    labels = clusters(texts)
    assert (labels[:150] == 0).all() and (labels[150:] == np.arange(150, 200)).all()


def test_the_order_of_texts_changes_no_cluster():
    originals = [text(40) for _ in range(80)]
    texts = originals + [edited(one, n) for one in originals for n in (1, 3, 5)]
    order = RNG.permutation(len(texts))
    there, back = clusters(texts), clusters([texts[i] for i in order])

    def members(labels, numbers):
        return {frozenset(numbers[group].tolist()) for group in groups(labels)}

    assert members(there, np.arange(len(texts))) == members(back, order) != set()


def test_short_and_empty_texts():
    labels = clusters([["yes"], ["no"], ["a", "b"], ["a", "b", "c"], []])
    assert (labels == np.arange(5)).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=40), st.integers(1, 4))
def test_clusters_are_connected_components(pairs, parts):
    found = Clusters(31)
    for k in range(parts):
        part = np.array(pairs[k::parts], dtype=np.int64).reshape(-1, 2)
        found.join(part[:, 0], part[:, 1])
    known = list(range(31))
    for a, b in pairs:
        low, high = sorted((known[a], known[b]))
        known = [low if label == high else label for label in known]
    assert found.labels().tolist() == known


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=25))
def test_pairs_of_equal_are_all_pairs_once(keys):
    parts = list(pairs_of_equal(np.array(keys, dtype=np.uint64)))
    found = sorted(tuple(sorted(pair)) for a, b in parts for pair in zip(a.tolist(), b.tolist(), strict=True))
    assert found == [(i, j) for i in range(len(keys)) for j in range(i + 1, len(keys)) if keys[i] == keys[j]]


@pytest.mark.parametrize("labels", [[], [3], [1, 1, 2, 1], [5, 4, 5, 4]])
def test_groups_are_those_of_several(labels):
    expected = [[i for i, label in enumerate(labels) if label == value] for value in sorted(set(labels))]
    assert [g.tolist() for g in groups(np.array(labels, dtype=np.int64))] == [g for g in expected if len(g) > 1]


@given(st.lists(st.integers(0, 12), max_size=12), st.sets(st.integers(0, 12)))
def test_repeated_keys_and_keys_among_others_are_those_that_numpy_finds(listed, others):
    keys, some = np.array(listed, dtype=np.uint64), np.array(sorted(others), dtype=np.uint64)
    unique, counts = np.unique(keys, return_counts=True)
    assert repeated_keys(keys).tolist() == unique[counts > 1].tolist()
    assert is_among(keys, some).tolist() == np.isin(keys, some).tolist()
