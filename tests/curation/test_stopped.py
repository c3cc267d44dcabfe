"""Every step of curation resumes to the same bytes wherever it was stopped, and leaves no scratch files.

An unwritable folder and a full disk give one sentence and lose nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pictures_and_rows import row, words

from sicog.curation.build.build import BuildConfig, build
from sicog.curation.build.pair import PairConfig, pair
from sicog.curation.overlap.overlap import OverlapConfig, overlap
from sicog.curation.score.score import ScoreConfig, score
from sicog.curation.select.select import SelectConfig, select
from sicog.stages.storage import shards, write_dataset

ROWS, SHARD = 24, 8
LOCKS = {".lock"}  # of scored/columns: an empty file


@pytest.fixture(scope="module")
def world(tmp_path_factory, make):
    folder = tmp_path_factory.mktemp("world")
    answers = [("direct", "red"), ("direct", "red"), ("cot", make.cot("blue"))]
    sets = [make.candidate_set(f"{i}", "reasoning", answers if i % 3 else answers[:2]) for i in range(ROWS)]
    write_dataset(folder / "sets", sets)
    write_dataset(
        folder / "corrupted", [make.candidate_set(f"{i}", "reasoning", [("direct", "green")]) for i in range(20)]
    )
    score(ScoreConfig(input=folder / "sets", out_dir=folder / "scored", scorer="answer"))
    chain = make.cod("A red cup.")
    kept = [row(f"{i}", None, f"Ask {i % 20}.", chain if i % 2 else words(i), 0.9, style="cod") for i in range(ROWS)]
    write_dataset(folder / "kept", kept)
    return folder


def run(world: Path, step: str, out: Path) -> None:
    small = {"block_size": 4, "rows_per_shard": SHARD}
    if step == "score":
        score(ScoreConfig(input=world / "sets", out_dir=out, scorer="answer", **small))
    elif step == "select":
        select(SelectConfig(input=world / "scored", out_dir=out, by="vote", threshold=0.6, **small))
    elif step == "pair":
        pair(PairConfig(chosen=world / "sets", rejected=world / "corrupted", out_dir=out, **small))
    elif step == "overlap":
        overlap(OverlapConfig(input=world / "kept", out_dir=out, deduplicate={}, cache_dir=world / "cache"))
    else:
        sources = [{"name": "kept", "path": world / "kept"}]
        told = {"multi_turn": {"share": 0.5}, "deduplicate": {}, "cache_dir": world / "cache", "rows_per_shard": SHARD}
        build(BuildConfig(sources=sources, out_dir=out, **told))


def files(out: Path) -> dict[str, bytes]:
    found = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != "run.json"}
    assert {Path(name).name for name in found if "/." in f"/{name}"} <= LOCKS, sorted(found)
    return found


class Killed(BaseException):
    """As a kill: nothing catches it."""


STEPS = ["score", "select", "pair", "overlap", "build"]


@pytest.mark.parametrize("step", STEPS)
def test_stopped_anywhere_it_resumes_to_the_same_bytes(world, tmp_path, monkeypatch, step):
    run(world, step, tmp_path / "whole")
    whole = files(tmp_path / "whole")
    assert len(whole) > 3 and sum(map(len, whole.values())) > 1000
    replace, stops = os.replace, 0
    for last in (0, 1, 3, 5, 8, 12):
        left = last

        def stopping(self, target, **_):
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return replace(self, target)

        out = tmp_path / f"stopped-{last}"
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", stopping)
            try:
                run(world, step, out)
            except Killed:
                stops += 1
        run(world, step, out)
        assert files(out) == whole
    assert stops >= 3


@pytest.mark.parametrize("step", STEPS)
def test_a_full_disk_is_one_clear_sentence_and_the_next_try_resumes(world, tmp_path, step):
    part = tmp_path / "out" / ".work" / "parts" / "shard-00000.jsonl"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")  # takes no byte, whoever writes it
    with pytest.raises(ValueError, match=r"out: the disk is full; free some space and run again"):
        run(world, step, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()
    with pytest.raises(ValueError, match=r"has no manifest.json: the step that writes it has not finished"):
        shards(tmp_path / "out")
    part.unlink()
    run(world, step, tmp_path / "out")
    run(world, step, tmp_path / "whole")
    assert files(tmp_path / "out") == files(tmp_path / "whole")


@pytest.mark.parametrize("step", STEPS)
def test_where_no_folder_can_be_written_is_said_in_one_sentence(world, tmp_path, step):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo.jpg").touch()
    for out, why in (
        (taken, "cannot write to the output folder .*taken: File exists"),
        (taken / "below", "cannot write to the output folder .*below: Not a directory"),
        (tmp_path / "holiday", "holiday is not empty and holds no run.json; choose another output folder"),
        (Path("/proc/no-one-writes-here"), "cannot write to the output folder /proc/no-one-writes-here"),  # root too
    ):
        with pytest.raises(ValueError, match=why):
            run(world, step, out)
    assert taken.read_text() == "mine" and [p.name for p in (tmp_path / "holiday").iterdir()] == ["photo.jpg"]
