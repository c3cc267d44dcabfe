"""Each distinct text is embedded once: per run, per cache, over workers, restarts and machines."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from recording_encoder import RecordingEncoder
from slurm_stand_in import install

from sicog.curation.curate import CurateConfig, curate
from sicog.curation.score import score
from sicog.curation.score.score import ScoreConfig
from sicog.curation.vectors import embed, prepare
from sicog.curation.vectors.encoders import EncoderConfig
from sicog.curation.vectors.vector_cache import VectorCache
from sicog.records import Example, ScoredSet
from sicog.stages.launch import LaunchConfig
from sicog.stages.storage import read_records, write_dataset

N_ROWS, PART = 30, 7


def texts_of(row):
    """Three texts: one of this row, one that five rows share, one that most rows have."""
    return [f"red cup {row}", f"blue mug {row // 5}", "dog"]


DISTINCT = {text for row in range(N_ROWS) for text in texts_of(row)}


@pytest.fixture
def encoder(tmp_path, monkeypatch):
    """What stands for any encoder, in parts of seven texts."""
    recording = RecordingEncoder(tmp_path)
    monkeypatch.setattr(prepare, "_encoder", lambda config, answers: recording)
    monkeypatch.setattr(score, "encoder_files", lambda config: {})
    monkeypatch.setattr(embed, "TEXTS_PER_PART", PART)
    return recording


@pytest.fixture
def config(tmp_path, make):
    """The config of a run over 30 rows in 4 shards; keywords change it."""
    rows = [make.candidate_set(f"{i}", "captioning", [("dd", t) for t in texts_of(i)]) for i in range(N_ROWS)]
    write_dataset(tmp_path / "sets", rows, rows_per_shard=8)

    def of(out="out", cache="cache", **values):
        base = {"input": tmp_path / "sets", "out_dir": tmp_path / out, "cache_dir": tmp_path / cache}
        return ScoreConfig(**{**base, "block_size": 4, "rows_per_shard": 8, **values})

    return of


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name != "run.json"}


def stored(tmp_path) -> list[bytes]:
    cache = VectorCache(tmp_path / "cache" / "vectors" / "words")
    return [digest for name in cache.names() for digest in cache.digests(name).tolist()]


def test_what_a_process_killed_at_its_end_left_is_removed_by_the_next_start(tmp_path, config):
    out = score.score(config())
    left = out / ".embedding" / "plan"
    left.mkdir(parents=True)
    score.score(config())
    assert not left.parent.exists()


def test_three_workers_embed_each_distinct_text_once_and_give_the_bytes_of_one(tmp_path, encoder, config):
    out = score.score(config(workers=3))
    assert encoder.encoded() == dict.fromkeys(DISTINCT, 1)
    assert len(stored(tmp_path)) == len(set(stored(tmp_path))) == len(DISTINCT)
    assert not (out / ".embedding").exists() and len(list(read_records(out, ScoredSet))) == N_ROWS
    alone = score.score(config("alone", "another cache"))
    assert files(alone) == files(out) and set(encoder.encoded().values()) == {2}
    assert os.getpid() in encoder.processes() and len(encoder.processes()) > 1


def test_a_later_run_takes_all_from_the_cache_and_embeds_only_what_is_new(tmp_path, encoder, config, make):
    out = score.score(config())
    assert files(score.score(config("again"))) == files(out)
    assert encoder.encoded() == dict.fromkeys(DISTINCT, 1)
    rows = [make.candidate_set("n", "captioning", [("dd", "dog"), ("dd", "red table"), ("dd", "red cup 3")])]
    write_dataset(tmp_path / "more", rows)
    score.score(config("new", input=tmp_path / "more"))
    assert encoder.encoded() == dict.fromkeys(DISTINCT | {"red table"}, 1)


def test_what_is_frequent_late_in_the_input_is_still_embedded_once(encoder, config, monkeypatch):
    monkeypatch.setattr(embed, "_REMEMBERED", 2)
    score.score(config())
    assert encoder.encoded() == dict.fromkeys(DISTINCT, 1)


@pytest.mark.parametrize("workers", [2, 3])
def test_a_worker_that_dies_costs_its_part_alone_and_changes_no_byte(tmp_path, encoder, config, workers):
    encoder.dies_at = "red cup 20"
    with pytest.raises(RuntimeError, match="a worker process died"):
        score.score(config(workers=workers))
    before = encoder.encoded()
    finished = set(stored(tmp_path))
    out = score.score(config(workers=workers))
    assert encoder.encoded().keys() == DISTINCT and finished
    again = {text for text, n in encoder.encoded().items() if n > 1}
    assert max(encoder.encoded().values()) <= 2 and len(again) <= (workers - 1) * PART and again <= before.keys()
    assert files(score.score(config("undisturbed", "another cache"))) == files(out)


@pytest.mark.parametrize("where", ["planning", "between parts", "scoring"])
def test_stopped_anywhere_it_resumes_and_gives_the_same_bytes(encoder, config, monkeypatch, where):
    expected = files(score.score(config("undisturbed", "another cache")))
    (encoder.folder / "encoded.jsonl").unlink()
    calls = []

    def stopped(real, after):
        def call(*arguments, **options):
            calls.append(1)
            if len(calls) > after:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if where == "planning":
            patch.setattr(embed, "text_digest", stopped(embed.text_digest, 20))
        elif where == "between parts":
            patch.setattr(RecordingEncoder, "encode", stopped(RecordingEncoder.encode, 2))
        else:
            patch.setattr(score.ScoreSets, "_scored_set", stopped(score.ScoreSets._scored_set, N_ROWS + 9))
        score.score(config())
    out = score.score(config(workers=2) if where == "between parts" else config())
    assert files(out) == expected and encoder.encoded() == dict.fromkeys(DISTINCT, 1)


def test_a_broken_row_is_dropped_by_name_and_the_rest_is_used(tmp_path, encoder, config):
    shard = tmp_path / "sets" / "shard-00002.jsonl"
    lines = shard.read_bytes().splitlines(keepends=True)
    for broken in (lines[2][:50] + b"\n", lines[2].replace(b"candidates", b"candidate5"), b"\xff" + lines[2]):
        shard.write_bytes(b"".join([*lines[:2], broken, *lines[3:]]))
        out = score.score(config(f"out-{hash(broken)}"))
        assert len(list(read_records(out, ScoredSet))) == N_ROWS - 1
        (line,) = (out / "dropped.jsonl").read_text().splitlines()
        assert '"shard-00002.jsonl:3"' in line and "not a CandidateSet" in line
    shard.write_bytes(b"".join(lines))
    assert len(list(read_records(score.score(config()), ScoredSet))) == N_ROWS


def test_the_folder_of_another_config_is_refused_before_anything_is_embedded(tmp_path, encoder, config):
    first = config(include_self=False) if "include_self" in ScoreConfig.model_fields else config(block_size=8)
    before = files(score.score(first))
    encoder.folder = tmp_path / "other"
    encoder.folder.mkdir()
    with pytest.raises(ValueError, match="belongs to another run"):
        score.score(config())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(ValueError, match="is not empty and holds no run.json"):
        score.score(config("mine"))
    assert not encoder.encoded() and files(tmp_path / "out") == before
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("full", ["plan", "cache"])
def test_a_full_disk_is_one_clear_sentence_and_the_next_try_resumes(tmp_path, encoder, config, monkeypatch, full):
    real, saved = np.save, []

    def save(path, values):
        saved.append(path)
        if ("plan" in str(path)) == (full == "plan") and len(saved) > (0 if full == "plan" else 8):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, values)

    monkeypatch.setattr(np, "save", save)
    with pytest.raises(ValueError, match="the disk is full"):
        score.score(config())
    assert not (tmp_path / "out" / "manifest.json").exists()
    half = [p for p in tmp_path.rglob("*") if p.is_dir() and p.name.startswith((".plan", "."))]
    assert {p.name for p in half} <= {".embedding", ".work"}
    monkeypatch.setattr(np, "save", real)
    done = set(encoder.encoded())
    score.score(config())
    assert encoder.encoded().keys() == DISTINCT and sum(n > 1 for n in encoder.encoded().values()) <= PART
    assert len(done) in (0, PART, 2 * PART, 3 * PART)


def test_a_cache_that_cannot_be_written_is_one_clear_sentence(tmp_path, encoder, config):
    (tmp_path / "cache").touch()
    with pytest.raises(ValueError, match="cannot be written .*cache_dir"):
        score.score(config())


def test_vectors_are_normalised_and_one_that_cannot_be_is_named_by_its_text(tmp_path, encoder, config, monkeypatch):
    score.score(config())  # the encoder's own limit may have any length
    cache = VectorCache(tmp_path / "cache" / "vectors" / "words")
    for name in cache.names():
        assert np.linalg.norm(cache.vectors(name), axis=1) == pytest.approx(1, abs=1e-6)
    real = RecordingEncoder.encode

    def encode(self, texts):
        encoded = real(self, texts)
        encoded.vectors[[t == "blue mug 2" for t in texts]] = np.nan
        return encoded

    monkeypatch.setattr(RecordingEncoder, "encode", encode)
    with pytest.raises(ValueError, match="the vector of the text 'blue mug 2' is not finite"):
        score.score(config("other", "another cache"))


def test_cut_texts_are_counted_also_when_their_vectors_are_old(tmp_path, encoder, config, make, caplog):
    rows = [make.candidate_set("n", "captioning", [("dd", "red " * 20), ("dd", "dog"), ("dd", "cup")])]
    write_dataset(tmp_path / "long", rows)
    for out in ("first", "second"):
        with caplog.at_level(logging.WARNING):
            score.score(config(out, input=tmp_path / "long"))
        assert "1 of 3 texts exceed the limit of encoder words" in caplog.text
        caplog.clear()


def test_rows_without_a_text_need_no_encoder(tmp_path, encoder, config, make):
    write_dataset(tmp_path / "cut", [make.candidate_set("n", "captioning", [("dd", "dog", "length")] * 3)])
    (row,) = read_records(score.score(config(input=tmp_path / "cut")), ScoredSet)
    assert [c.score for c in row.candidates] == [None] * 3 and not encoder.encoded()


def test_vectors_that_are_gone_and_an_input_that_changed_are_sentences(tmp_path, encoder, config, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(score.Scoring, "__call__", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        score.score(config())
    cache = VectorCache(tmp_path / "cache" / "vectors" / "words")
    plan = embed.Plan(tmp_path / "out" / ".embedding" / "plan")
    with pytest.raises(ValueError, match="'a new text' has no vector: the input has changed"):
        embed.StoredVectors(plan, cache, "words").embed(["dog", "a new text"])
    (cache.folder / cache.names()[0]).rename(tmp_path / "gone")
    with pytest.raises(ValueError, match="are missing.*Remove its hidden folder .embedding"):
        score.score(config())


def test_a_few_texts_are_embedded_outside_of_a_run(encoder, tmp_path):
    embedder = prepare.embedder_of(EncoderConfig(), tmp_path / "cache")
    found = embedder.embed(["dog", "red cup", "dog"])
    assert encoder.encoded() == {"dog": 1, "red cup": 1} and embedder.description == "words"
    assert (found[0] == found[2]).all() and np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-6)
    assert not embedder.embed([]).size and not list(tmp_path.glob("cache/**/*.npy"))


@pytest.mark.slow
def test_a_slurm_array_embeds_and_its_last_job_scores_and_selects(tmp_path, encoder, config, monkeypatch):
    pytest.importorskip("datatrove")
    monkeypatch.setenv("PATH", install(tmp_path / "slurm"))
    tests = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.environ.get("PYTHONPATH", ""), tests]))
    launch = LaunchConfig(on="slurm", tasks=2)
    encoder.dies_at = "red cup 20"
    values = {"input": (tmp_path / "sets",), "cache_dir": tmp_path / "cache", "launch": launch}
    both = CurateConfig(out_dir=tmp_path / "curated", threshold=0.0, **values)
    curate(both)
    assert not (tmp_path / "curated" / "scored" / "manifest.json").exists()  # a task died: nothing follows
    out = curate(both)
    jobs = [int(p.read_text()) for p in sorted((tmp_path / "slurm").glob("job-*"))]
    assert jobs == [9, 1, 0, 0] and len(list(read_records(out, Example))) == N_ROWS
    assert encoder.encoded().keys() == DISTINCT and max(encoder.encoded().values()) <= 2
    assert os.getpid() not in encoder.processes()
    defaults = {"block_size": 64, "rows_per_shard": 1024}
    assert files(score.score(config("here", "another cache", **defaults))) == files(tmp_path / "curated" / "scored")
    assert curate(both) == out  # finished: nothing is submitted
    assert len(list((tmp_path / "slurm").glob("job-*"))) == 4
