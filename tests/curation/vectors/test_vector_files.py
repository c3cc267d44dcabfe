"""Vectors made elsewhere: both forms, by text and by digest, normalised; what is missing is named and listed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sicog.curation.score.score import ScoreConfig, score
from sicog.curation.vectors.encoders import EncoderConfig
from sicog.curation.vectors.vector_files import FileVectors
from sicog.records import ScoredSet
from sicog.stages.provenance import digest_path
from sicog.stages.storage import read_records, write_dataset

TEXTS = ["a red cup", "a blue cup", "ein Krug\n\nmit Ä"]
VECTORS = np.array([[3.0, 4.0], [0.0, 2.0], [-1.0, 0.0]], dtype=np.float32)
UNITS = np.array([[0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])


def digests(texts=TEXTS):
    return [hashlib.sha256(t.encode()).hexdigest() for t in texts]


def npz(path, **arrays):
    np.savez(path, **{"vectors": VECTORS, **arrays})
    return path


def parquet(path, vectors=VECTORS, **columns):
    pq.write_table(pa.table({**columns, "vector": list(map(list, vectors))}), path)
    return path


@pytest.mark.parametrize("form", ["npz texts", "npz digests", "parquet text", "parquet digest", "folder"])
def test_every_form_gives_unit_vectors_in_the_order_asked_for(tmp_path, form):
    made = tmp_path / "given"
    made.mkdir()
    if form == "folder":
        parquet(made / "a.parquet", VECTORS[:1], text=TEXTS[:1])
        npz(made / "b.npz", vectors=VECTORS[1:].astype(np.float64), digests=np.array(digests()[1:]))
        path = made
    elif form.startswith("npz"):
        path = npz(made / "v.npz", **{form.split()[1]: np.array(TEXTS if "texts" in form else digests())})
    else:
        path = parquet(made / "v.parquet", **{form.split()[1]: TEXTS if "text" in form else digests()})
    vectors = FileVectors(path, tmp_path / "cache")
    found = vectors.embed([TEXTS[2], TEXTS[0], TEXTS[2], TEXTS[1]])
    assert found.dtype == np.float32 and found == pytest.approx(UNITS[[2, 0, 2, 1]], abs=1e-7)
    assert vectors.embed([]).shape[0] == 0
    with pytest.raises(ValueError, match="has no vector for the text 'a green cup'"):
        vectors.embed([TEXTS[0], "a green cup"])
    assert vectors.description.startswith(f"file:{path.name}@")


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (lambda p: npz(p / "v.npz"), "`texts` and `digests` are both missing"),
        (lambda p: npz(p / "v.npz", digests=np.array(["12"] * 3)), "must have SHA-256 digests in hex"),
        (lambda p: npz(p / "v.npz", texts=np.array(TEXTS[:2])), "the numbers of texts and vectors differ"),
        (
            lambda p: npz(p / "v.npz", texts=np.array([*TEXTS[:2], TEXTS[0]])),
            "row 2 .* has the same text as another row",
        ),
        (lambda p: npz(p / "v.npz", texts=np.array(TEXTS), vectors=VECTORS * [[0], [1], [1]]), "row 0 of .* length 0"),
        (lambda p: npz(p / "v.npz", texts=np.array(TEXTS), vectors=VECTORS[0]), "the array `vectors` of shape"),
        (lambda p: parquet(p / "v.parquet", [[1.0], [1.0, 2.0], [3.0]], text=TEXTS), "vectors have different lengths"),
        (lambda p: parquet(p / "v.parquet", text=[None, *TEXTS[1:]]), "must have texts in every row"),
        (lambda p: (p / "v.npz").write_bytes(b"nothing"), "cannot be read as .npz"),
        (lambda p: (p / "v.txt").write_text("1 2 3"), "is not a .parquet or .npz file"),
    ],
)
def test_files_that_do_not_fit_are_a_sentence_and_leave_nothing(tmp_path, write, sentence):
    (tmp_path / "given").mkdir()
    write(tmp_path / "given")
    with pytest.raises(ValueError, match=sentence):
        FileVectors(next((tmp_path / "given").iterdir()), tmp_path / "cache")
    assert not [p for p in tmp_path.glob("cache/**/*") if p.is_file() and not p.name.endswith(".lock")]


def test_scores_from_a_file_and_a_list_of_what_it_lacks(tmp_path, make):
    rows = [make.candidate_set("a", "captioning", [("dd", t) for t in TEXTS[:2]] + [("dd", TEXTS[0])])]
    write_dataset(tmp_path / "sets", rows)
    path = npz(tmp_path / "v.npz", texts=np.array(TEXTS[1:]), vectors=VECTORS[1:])
    values = {"input": tmp_path / "sets", "out_dir": tmp_path / "out", "cache_dir": tmp_path / "cache"}
    config = ScoreConfig(encoder=EncoderConfig(kind="file", path=path), **values)
    with pytest.raises(ValueError, match="no vectors for 1 texts, such as 'a red cup'. Embed the texts in") as error:
        score(config)
    listed = str(error.value).split("the texts in ")[1].split(" and add")[0]
    assert [json.loads(line) for line in Path(listed).read_text().splitlines()] == [{"text": "a red cup"}]
    assert not (tmp_path / "out").exists()  # so that the same command goes on when the vectors are there
    npz(path, texts=np.array(TEXTS))
    (row,) = read_records(score(config), ScoredSet)
    cosines = UNITS[[0, 1, 0]] @ UNITS[[0, 1, 0]].T
    assert [c.score for c in row.candidates] == pytest.approx(cosines.mean(axis=1), abs=1e-6)
    assert row.encoder.startswith("file:v.npz@")
    npz(path, texts=np.array(TEXTS), vectors=VECTORS[::-1])
    with pytest.raises(ValueError, match="belongs to another run .inputs.vectors"):
        score(config)


def test_a_file_lies_in_the_cache_in_the_form_of_any_encoder(tmp_path):
    given = FileVectors(npz(tmp_path / "v.npz", texts=np.array(TEXTS)), tmp_path / "cache")
    (name,) = given.cache.names()
    assert sorted(p.name for p in (given.cache.folder / name).iterdir()) == [
        *("cut.npy", "digests.npy", "order.npy", "vectors.npy")
    ]
    assert given.cache.digests(name).tolist() == [bytes.fromhex(digest)[:16] for digest in digests()]
    assert given.cache.vectors(name) == pytest.approx(UNITS, abs=1e-7) and not given.cache.cut(name).any()


def test_folders_of_version_0_1_are_neither_read_nor_in_the_way(tmp_path):
    """They held sorted digests, and the row of each; the user's file is there, so they are made again from it."""
    path = npz(tmp_path / "v.npz", texts=np.array(TEXTS))
    old = tmp_path / "cache" / f"file-{digest_path(path)[:32]}"
    old.mkdir(parents=True)
    for name in ("digests", "rows", "vectors"):
        np.save(old / f"{name}.npy", np.zeros(3))
    assert FileVectors(path, tmp_path / "cache").embed(TEXTS[:1]) == pytest.approx(UNITS[:1], abs=1e-7)


def test_scoring_that_was_stopped_resumes_to_the_same_bytes(tmp_path, make, monkeypatch):
    rows = [make.candidate_set(str(i), "captioning", [("dd", t) for t in TEXTS]) for i in range(20)]
    write_dataset(tmp_path / "sets", rows)
    encoder = EncoderConfig(kind="file", path=npz(tmp_path / "v.npz", texts=np.array(TEXTS)))
    values = {"input": tmp_path / "sets", "cache_dir": tmp_path / "cache", "encoder": encoder, "block_size": 4}
    undisturbed = score(ScoreConfig(out_dir=tmp_path / "undisturbed", **values))
    calls = []
    real = FileVectors.embed

    def stopped(self, texts):
        calls.append(texts)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return real(self, texts)

    config = ScoreConfig(out_dir=tmp_path / "out", **values)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(FileVectors, "embed", stopped)
        score(config)
    out = score(config)
    shard = "shard-00000.jsonl"
    assert (out / shard).read_bytes() == (undisturbed / shard).read_bytes()
