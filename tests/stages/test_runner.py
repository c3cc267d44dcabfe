"""pipeline.py: rows in = out + dropped + failed, resume by block, same bytes after a kill."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from multiprocessing import get_context
from pathlib import Path

import pytest

from sicog.config import Config
from sicog.records import Dropped, Example, Failed, Query, Turn
from sicog.runs.states import process_is_alive
from sicog.stages.backends import backend_of
from sicog.stages.config import StageOptions
from sicog.stages.journal import Appending
from sicog.stages.provenance import has_no_work
from sicog.stages.reader import FolderSource
from sicog.stages.runner import Stage, run_stage
from sicog.stages.shard import Limit, Line
from sicog.stages.storage import dump_record, read_json, read_records, write_dataset, write_json


class StageConfig(Config):
    out_dir: Path
    k: int = 1


def example(query, text="yes"):
    turns = (Turn(role="user", text=query.question), Turn(role="assistant", text=text))
    return Example(id=query.id, turns=turns)


def process(block):
    """Every 10th row is dropped, row 7 fails, the others become one or two examples."""
    for query in block:
        n = int(query.id)
        if n % 10 == 0:
            yield Dropped(id=query.id, step="s", reason="tenth")
        elif n == 7:
            yield Failed(id=query.id, step="s", reason="unlucky")
        else:
            yield [example(query)] * (1 + n % 2)


def stopping():
    """A process that is interrupted in its third block."""
    seen = []

    def until_the_third(block):
        seen.append(len(block))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return process(block)

    return until_the_third


def prepare(tmp_path, n=100):
    rows = [Query(id=str(i), task="reasoning", question=f"q{i}?") for i in range(n)]
    write_dataset(tmp_path / "in", rows, rows_per_shard=33)
    return FolderSource(tmp_path / "in", Query)


def run(tmp_path, out="out", process=process, k=1, launch=None, **given):
    """given: fields of the stage and of its options."""
    out_dir = tmp_path / out
    options = {f.name: given.pop(f.name) for f in fields(StageOptions) if f.name in given}
    stage = Stage(
        step="s",
        out_dir=out_dir,
        source=FolderSource(tmp_path / "in", Query),
        process=process,
        **{"inputs": {"rows": tmp_path / "in"}, **given},
    )
    options = {"block_size": 8, "rows_per_shard": 32, "max_dropped_share": 0.2, **options}
    return run_stage(stage, StageConfig(out_dir=out_dir, k=k), StageOptions(backend=backend_of(launch), **options))


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name != "run.json"}


def test_every_row_is_accounted_for_and_order_is_kept(tmp_path):
    prepare(tmp_path)
    manifest = read_json(run(tmp_path) / "manifest.json")
    assert (manifest["rows_in"], manifest["rows_kept"]) == (100, 89)
    assert (manifest["dropped"], manifest["failed"]) == ({"tenth": 10}, {"unlucky": 1})
    ids = [int(e.id) for e in read_records(tmp_path / "out", Example)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 89
    assert len(ids) == manifest["rows_out"]


def test_a_stage_says_where_its_rows_are_also_when_it_runs_again(tmp_path, capsys):
    prepare(tmp_path)
    out = run(tmp_path)
    assert f"s: 100 rows in, 89 kept, 10 dropped (tenth 10), 1 failed (unlucky 1); written to {out}\n" in told(capsys)
    run(tmp_path)
    assert told(capsys) == f"  s: {out} is finished already, nothing to do\n"


def told(capsys):
    return capsys.readouterr().err


def test_the_time_of_a_stage_is_noted_unless_it_was_interrupted(tmp_path):
    """What an interrupted start took is not known, and a part would be taken for the whole."""
    prepare(tmp_path)
    assert 0 <= read_json(run(tmp_path, "whole") / "run.json")["seconds"] < 60
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "again", stopping())
    assert "seconds" not in read_json(run(tmp_path, "again") / "run.json")


class Waits:
    """Says that it has begun, and then takes an hour for a block."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, block):
        (self.folder / f"begun-{os.getpid()}").touch()
        time.sleep(3600)


@pytest.mark.usefixtures("importable")
def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    """They would write on, and the next start would be refused."""
    prepare(tmp_path)
    parent = get_context("spawn").Process(
        target=run, args=(tmp_path,), kwargs={"process": Waits(tmp_path), "workers": 2}
    )
    parent.start()
    pids = [int(path.name.split("-")[1]) for path in two_that_began(tmp_path)]
    parent.kill()
    parent.join()
    end = time.monotonic() + 20
    while any(map(process_is_alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(process_is_alive, pids))


def two_that_began(folder):
    while len(found := list(folder.glob("begun-*"))) < 2:
        time.sleep(0.05)
    return found


@pytest.mark.usefixtures("importable")
def test_ctrl_c_ends_the_workers_at_once(tmp_path, monkeypatch):
    prepare(tmp_path)

    def interrupted(futures):
        two_that_began(tmp_path)
        raise KeyboardInterrupt

    monkeypatch.setattr("sicog.stages.workers.as_completed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, process=Waits(tmp_path), workers=2)
    assert not any(process_is_alive(int(path.name.split("-")[1])) for path in tmp_path.glob("begun-*"))


@pytest.fixture
def importable(monkeypatch):
    """Worker processes import what they are given, so this module must be findable by its name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))


@pytest.mark.usefixtures("importable")
def test_number_of_workers_changes_no_byte(tmp_path):
    import torch  # not at the top: worker processes import this module

    prepare(tmp_path)
    stop = threading.Event()
    others = [threading.Thread(target=stop.wait, daemon=True) for _ in range(4)]
    for thread in others:  # as a process that trained before has: what it forks would inherit their locks
        thread.start()
    torch.ones(256, 256) @ torch.ones(256, 256)
    try:
        assert files(run(tmp_path, "a")) == files(run(tmp_path, "b", workers=2))
    finally:
        stop.set()


class DiesAtOnce:
    """Ends its process as a lack of memory does: without a word."""

    def __call__(self, block):
        os._exit(9)


@pytest.mark.usefixtures("importable")
def test_a_worker_that_dies_is_an_error_and_not_a_wait_without_end(tmp_path):
    prepare(tmp_path)
    with pytest.raises(RuntimeError, match="a worker process died"):
        run(tmp_path, process=DiesAtOnce(), workers=2)
    assert files(run(tmp_path, workers=2)) == files(run(tmp_path, "undisturbed"))


class Dies:
    """Raises once, in the third block it sees; what it saw is noted outside."""

    def __init__(self, log):
        self.log = log

    def __call__(self, block):
        with self.log.open("a") as file:
            file.write(block[0].id + "\n")
        if len(self.log.read_text().split()) == 3:
            raise RuntimeError("power cut")
        return process(block)


def test_a_stage_that_died_continues_with_the_unfinished_block(tmp_path):
    prepare(tmp_path)
    log = tmp_path / "log"
    with pytest.raises(RuntimeError):
        run(tmp_path, process=Dies(log))
    journal = next((tmp_path / "out" / ".work").glob("journal-00000*"))
    journal.write_bytes(journal.read_bytes() + b'{"rows": 8, "kep')  # the write in flight when the power went
    run(tmp_path, process=Dies(log))
    seen = log.read_text().split()
    assert sorted(set(seen), key=seen.index) == [str(8 * b) for b in range(4)] + [
        str(32 * s + 8 * b) for s in (1, 2) for b in range(4)
    ] + ["96"]
    assert seen.count("16") == 2
    assert len(seen) == 14
    assert files(tmp_path / "out") == files(run(tmp_path, "whole"))


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from stages import test_runner as t
def slow(block):
    time.sleep(0.05)
    print(block[0].id, flush=True)
    return t.process(block)
t.run(Path(sys.argv[1]), process=slow)
"""


def test_kill_9_at_any_moment_gives_the_same_bytes(tmp_path):
    prepare(tmp_path)
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parents[1])]
    for kills in range(2):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for _ in range(2 + kills):
            child.stdout.readline()
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        assert not (tmp_path / "out" / "manifest.json").exists()
    subprocess.run(command, check=True, capture_output=True)
    assert files(tmp_path / "out") == files(run(tmp_path, "whole"))


KILLED_TWICE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from stages import test_runner as t
if __name__ == "__main__":
    t.run(Path(sys.argv[1]), process=t.Noted(Path(sys.argv[1]) / "seen"), workers=3)
"""


class Noted:
    """Slow, and notes the blocks it has begun."""

    def __init__(self, log):
        self.log = log

    def __call__(self, block):
        with self.log.open("a") as file:
            file.write(block[0].id + "\n")
        time.sleep(0.1)
        return list(process(block))


@pytest.mark.slow
def test_three_workers_killed_twice_give_the_bytes_of_one(tmp_path):
    prepare(tmp_path)
    script, seen = tmp_path / "script.py", tmp_path / "seen"
    script.write_text(KILLED_TWICE)
    command = [sys.executable, script, tmp_path, Path(__file__).parents[1]]
    for kills in (1, 2):
        child = subprocess.Popen(command, start_new_session=True)
        while not seen.exists() or len(seen.read_text().split()) < 3 * kills:
            assert child.poll() is None
            time.sleep(0.02)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        assert not (tmp_path / "out" / "manifest.json").exists()
    subprocess.run(command, check=True)
    begun = seen.read_text().split()
    assert len(set(begun)) == 13 and len(begun) <= 13 + 2 * 3  # only blocks in flight were begun again
    assert files(tmp_path / "out") == files(run(tmp_path, "whole"))


def show_gpu(block):
    """What the worker process may use, as the text of an example."""
    time.sleep(0.2)
    return [[example(q, os.environ.get("CUDA_VISIBLE_DEVICES", "all"))] for q in block]


@pytest.mark.usefixtures("importable")
def test_each_worker_has_a_gpu_of_its_own(tmp_path, monkeypatch):
    prepare(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    folder = run(tmp_path, process=show_gpu, workers=2, rows_per_shard=8)
    assert {e.turns[1].text for e in read_records(folder, Example)} == {"4", "6"}


def test_a_finished_stage_is_not_run_again_and_another_config_is_refused(tmp_path):
    prepare(tmp_path)
    run(tmp_path)
    before = files(tmp_path / "out")
    run(tmp_path, process=None)
    with pytest.raises(ValueError, match=r"belongs to another run \(k was 1, now 2\)"):
        run(tmp_path, k=2)
    write_dataset(tmp_path / "other", [Query(id="1", task="reasoning", question="?")])
    (tmp_path / "in").rename(tmp_path / "old")
    (tmp_path / "other").rename(tmp_path / "in")
    with pytest.raises(ValueError, match="belongs to another run"):
        run(tmp_path)
    assert files(tmp_path / "out") == before


def test_too_many_unusable_rows_stop_the_run_which_resumes_when_more_are_allowed(tmp_path):
    prepare(tmp_path)
    seen = []

    def noted(block):
        seen.extend(query.id for query in block)
        return process(block)

    with pytest.raises(ValueError, match=r"6 of 100 rows .* \(tenth 5, unlucky 1\), more than 5%"):
        run(tmp_path, process=noted, max_dropped_share=0.05, rows_per_shard=104)
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert len((tmp_path / "out" / "dropped.jsonl").read_text().splitlines()) == 5
    run(tmp_path, process=noted, max_dropped_share=0.2, rows_per_shard=104)
    assert sorted(seen, key=int) == [str(i) for i in range(100)]  # no block was done twice
    assert files(tmp_path / "out") == files(run(tmp_path, "undisturbed", rows_per_shard=104))


@pytest.mark.parametrize(("bad", "rows", "exceeded"), [(1, 3, False), (1, 8, False), (2, 8, True), (5, 100, False)])
def test_one_row_may_always_be_bad(bad, rows, exceeded):
    assert Limit(0.05).is_exceeded(bad, rows) == exceeded


def test_a_folder_that_another_process_writes_is_refused(tmp_path):
    prepare(tmp_path)

    def meanwhile(block):
        with pytest.raises(ValueError, match="is being written by another process"):
            run(tmp_path)
        return process(block)

    run(tmp_path, process=meanwhile, rows_per_shard=128, block_size=128)
    assert len(read_json(tmp_path / "out" / "manifest.json")["files"]) == 1


def test_torchrun_is_not_for_data_stages(tmp_path, monkeypatch):
    prepare(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="as one process, with workers=N"):
        run(tmp_path)


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.usefixtures("importable")
def test_more_workers_than_rows(tmp_path, n):
    prepare(tmp_path, n)
    manifest = read_json(run(tmp_path, workers=8, max_dropped_share=None) / "manifest.json")
    assert manifest["rows_in"] == manifest["rows_kept"] + sum(manifest["dropped"].values()) == n


def test_records_of_other_types_go_to_their_own_folder(tmp_path):
    prepare(tmp_path, 12)

    def both(block):
        return [[example(q), q] for q in block]

    run(tmp_path, process=both, outputs={Query: "queries"})
    assert len(list(read_records(tmp_path / "out", Example))) == 12
    assert [q.id for q in read_records(tmp_path / "out" / "queries", Query)] == [str(i) for i in range(12)]


def test_an_outcome_too_few_is_our_mistake_and_loses_nothing(tmp_path):
    prepare(tmp_path)
    with pytest.raises(AssertionError, match="8 rows went in, 7 outcomes"):
        run(tmp_path, process=lambda block: [[example(q)] for q in block][1:])


@pytest.mark.parametrize("n", [100, 20, 0])
def test_processes_that_share_a_stage_write_the_same_bytes(tmp_path, n):
    """Three ranks, with more shards than ranks, with fewer, and with nothing to do; the first one starts last."""
    prepare(tmp_path, n)
    run(tmp_path, "alone")
    done = []

    def rank(number):
        run(tmp_path, "shared", share=(number, 3))
        done.append((tmp_path / "shared" / "manifest.json").is_file())

    threads = [threading.Thread(target=rank, args=(number,), daemon=True) for number in (2, 1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert done == [True] * 3 and files(tmp_path / "shared") == files(tmp_path / "alone")


def test_each_rank_resumes_where_it_was_stopped(tmp_path):
    prepare(tmp_path)
    run(tmp_path, "alone")
    with pytest.raises(KeyboardInterrupt):  # rank 0, in the first of its two shards
        run(tmp_path, "shared", stopping(), share=(0, 2))
    again = threading.Thread(target=run, args=(tmp_path, "shared"), kwargs={"share": (1, 2)}, daemon=True)
    again.start()
    run(tmp_path, "shared", share=(0, 2))
    again.join(timeout=60)
    assert files(tmp_path / "shared") == files(tmp_path / "alone")


def test_a_rank_refuses_the_folder_of_another_config(tmp_path):
    prepare(tmp_path)
    with pytest.raises(ValueError, match="tenth"):
        run(tmp_path, max_dropped_share=0.01)
    with pytest.raises(ValueError, match="belongs to another run"):
        run(tmp_path, k=2, share=(1, 2))


def as_lines(block):
    """What `process` returns, as bytes."""
    for outcome in process(block):
        yield outcome if isinstance(outcome, (Dropped, Failed)) else [Line(dump_record(e)) for e in outcome]


def test_records_may_come_as_bytes(tmp_path):
    prepare(tmp_path)
    assert files(run(tmp_path, "lines", as_lines)) == files(run(tmp_path, "records"))
    both = run(tmp_path, "folders", lambda block: [[Line(b"1\n"), Line(b"2\n", "twos")] for _ in block], outputs=TWOS)
    assert (both / "shard-00000.jsonl").read_bytes() == b"1\n" * 32
    assert (both / "twos" / "shard-00003.jsonl").read_bytes() == b"2\n" * 4


TWOS = {Query: "twos"}


@pytest.mark.parametrize("lost", [1, 200, 10_000])
def test_bytes_that_never_reached_the_disk_are_made_again(tmp_path, lost):  # the journal's did, and the power went
    prepare(tmp_path)
    with pytest.raises(RuntimeError):
        run(tmp_path, process=Dies(tmp_path / "log"))
    part = tmp_path / "out" / ".work" / "parts" / "shard-00000.jsonl"
    os.truncate(part, max(0, part.stat().st_size - lost))
    assert files(run(tmp_path)) == files(run(tmp_path, "whole"))


@pytest.mark.parametrize("died_at", [1, 2, 3])
def test_a_kill_while_shards_are_put_in_place(tmp_path, monkeypatch, died_at):
    prepare(tmp_path)
    replace, calls = Path.replace, []

    def dying(self, target):
        calls.append(target)
        if "parts" in self.parts and len([c for c in calls if c.name.startswith("shard")]) == died_at:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    monkeypatch.undo()
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert files(run(tmp_path, process=None)) == files(run(tmp_path, "whole"))


def test_a_full_disk_is_one_clear_sentence_and_the_run_resumes_later(tmp_path, monkeypatch):
    prepare(tmp_path)
    append, calls = Appending.append, []

    class Full:
        def writelines(self, lines):
            raise OSError(errno.ENOSPC, "No space left on device")

    def failing(self, entry, records):
        calls.append(entry)
        if len(calls) == 3:
            self.parts = dict.fromkeys(self.parts, Full())
        append(self, entry, records)

    monkeypatch.setattr(Appending, "append", failing)
    with pytest.raises(ValueError, match=r"out: the disk is full; .* what is finished is kept"):
        run(tmp_path)
    monkeypatch.undo()
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert files(run(tmp_path)) == files(run(tmp_path, "whole"))


def test_a_damaged_dataset_is_named_by_file_and_line(tmp_path):
    prepare(tmp_path)
    first, second = (tmp_path / "in" / f"shard-0000{i}.jsonl" for i in (0, 1))
    lines = first.read_bytes().splitlines(keepends=True)
    first.write_bytes(b"".join([lines[0], b'{"id": 3}\n', b"\xff\n", *lines[3:]]))
    os.truncate(second, second.stat().st_size - 1500)
    manifest = read_json(tmp_path / "in" / "manifest.json")
    write_json(tmp_path / "in" / "manifest.json", {**manifest, "rows_per_shard": dict(ROWS)})
    source = FolderSource(tmp_path / "in", Query, step="s")
    rows = list(source.read(0, len(source)))
    dropped = [row.id for row in rows if isinstance(row, Dropped)]
    assert len(rows) == 100 and dropped[:2] == ["shard-00000.jsonl:2", "shard-00000.jsonl:3"]
    assert dropped[2:] == [f"shard-00001.jsonl:{n}" for n in range(33 - len(dropped) + 3, 34)] and len(dropped) > 4
    assert list(source.read(40, 100)) == rows[40:]
    with pytest.raises(ValueError, match=r"shard-00000.jsonl:2 is not a Query"):
        list(FolderSource(tmp_path / "in", Query).read(0, 5))


ROWS = (("shard-00000.jsonl", 33), ("shard-00001.jsonl", 33), ("shard-00002.jsonl", 33), ("shard-00003.jsonl", 1))


class Shrinking:
    """A source that loses rows after it was counted."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return 20

    def read(self, start: int, stop: int) -> Iterator[Query]:
        yield from (Query(id=str(i), task="reasoning", question="q?") for i in range(start, min(stop, self.n)))


@pytest.mark.parametrize("n", [0, 3, 8, 19])
def test_a_source_that_gives_fewer_rows_than_it_counted_is_an_error_and_never_a_wait(tmp_path, n):
    prepare(tmp_path, 1)

    def attempt(rows: int) -> Path:
        out_dir = tmp_path / "out"
        return run_stage(
            Stage(
                step="s",
                out_dir=out_dir,
                source=Shrinking(rows),
                process=process,
                inputs={"rows": tmp_path / "in"},
            ),
            StageConfig(out_dir=out_dir),
            StageOptions(block_size=8, max_dropped_share=1.0),
        )

    with pytest.raises(ValueError, match=f"gave {n} rows where 20 were counted"):
        attempt(n)
    assert read_json(attempt(20) / "manifest.json")["rows_in"] == 20  # put back, it goes on and has them all


def refuses(*, after):
    """A process that stops the stage, as a model that cannot be loaded does, before or after its first block."""
    blocks = []

    def stopping(block):
        blocks.append(block)
        if len(blocks) > after:
            raise ValueError("no such model")
        return list(process(block))

    return stopping


def test_a_start_that_was_refused_leaves_the_folder_to_the_corrected_one(tmp_path, caplog):
    prepare(tmp_path)
    with pytest.raises(ValueError, match="no such model"):
        run(tmp_path, process=refuses(after=0))
    run(tmp_path, k=2)
    assert "did no work (k was 1, now 2); it begins anew" in caplog.text
    assert read_json(tmp_path / "out" / "run.json")["identity"] == {"k": 2}
    assert files(tmp_path / "out") == files(run(tmp_path, "fresh", k=2))


def test_one_finished_block_makes_the_folder_its_own(tmp_path):
    prepare(tmp_path)
    with pytest.raises(ValueError, match="no such model"):
        run(tmp_path, process=refuses(after=1))
    with pytest.raises(ValueError, match=r"belongs to another run \(k was 1, now 2\)"):
        run(tmp_path, k=2)
    run(tmp_path)


def test_jobs_that_wait_keep_their_folder_whatever_it_is_called(tmp_path):
    prepare(tmp_path)
    out = "parts/out"
    with pytest.raises(ValueError, match="no such model"):
        run(tmp_path, out, process=refuses(after=0))
    write_json(tmp_path / out / ".work" / "jobs.json", {"job": 1})
    with pytest.raises(ValueError, match="belongs to another run"):
        run(tmp_path, out, k=2)


def test_a_start_that_is_still_at_work_keeps_its_folder(tmp_path):
    prepare(tmp_path)
    with pytest.raises(ValueError, match="no such model"):
        run(tmp_path, process=refuses(after=0))
    lock = (
        f"import fcntl, sys; f = open(r'{tmp_path}/out/.work/lock', 'a'); fcntl.flock(f, 2); print(flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", lock], stdin=-1, stdout=-1) as other:
        other.stdout.readline()
        with pytest.raises(ValueError, match="is being written by another process"):
            run(tmp_path, k=2)
        other.communicate(b"\n")
    run(tmp_path, k=2)


def test_a_run_json_that_is_being_written_is_no_work_of_a_folder(tmp_path):
    (tmp_path / ".run.json.tmp").write_text("{")  # the first process writes it; the others wait for its claim
    assert has_no_work(tmp_path)
    (tmp_path / "shard-00000.jsonl").write_text("{}\n")
    assert not has_no_work(tmp_path)
