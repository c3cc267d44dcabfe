"""P11: memory and start-up time of the training loader as rows grow, against reading the whole JSON.

Each way runs in its own process, which reads all rows once in a shuffled order. Private memory is the process's own
memory (peak of RssAnon). Pages of a mapped file are counted separately: the system can free them at any time, and all
ranks and workers of a machine share them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

_SIZES = (10_000, 100_000, 1_000_000)
_SMOKE_SIZES = (200, 2_000)
_PLAIN_UP_TO = 100_000  # the plain way holds about 2 KB per row
_TEXT = "A red circle stands left of a small blue square, and both lie under a green triangle. "
_READ_AT_MOST = 20_000


def main() -> None:
    """Measure all sizes; `--worker WAY FILE CACHE` is one measurement in its own process."""
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(_measure(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))))
        return
    from benchmarks.timing import arguments, report  # torch, which a worker does not need

    options = arguments("start-up time and memory of the training loader")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for n in _SMOKE_SIZES if options.smoke else _SIZES:
            path, cache = Path(name) / f"{n}.jsonl", Path(name) / f"cache-{n}"
            _write(path, n)
            results = {"first": _run("ours", path, cache), "again": _run("ours", path, cache)}
            if n <= _PLAIN_UP_TO:
                results["plain"] = _run("plain", path, cache)
            checks = {result["check"] for result in results.values()}
            assert len(checks) == 1, f"the ways read different rows: {results}"
            for way, result in results.items():
                rows.append(
                    {
                        "way": {"first": "ours, first start", "again": "ours, again", "plain": "plain"}[way],
                        "rows": n,
                        "file_mb": path.stat().st_size / 1e6,
                        "start_s": result["start_s"],
                        "rows_per_s": n / result["start_s"],
                        "private_mb": result["private_mb"],
                        "mapped_mb": result["mapped_mb"],
                    }
                )
            path.unlink()
    report("loader", rows, options.out)


def _write(path: Path, n: int) -> None:
    with path.open("w") as file:
        for i in range(n):
            turns = [
                {"from": "human", "value": f"What is in picture {i}?"},
                {"from": "gpt", "value": _TEXT * (1 + i % 5)},
            ]
            file.write(json.dumps({"id": i, "conversations": turns}) + "\n")
    os.utime(path, (1, 1))  # an old time stamp, so that the digest may be cached


def _run(way: str, path: Path, cache: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.loader", "--worker", way, str(path), str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{way} failed on {path.name}: {done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _measure(way: str, path: Path, cache: Path) -> dict[str, Any]:
    import numpy as np

    from sicog.data.mixture import Source, read_mixture
    from sicog.formats import parse_example

    if way == "ours":  # what any process loads before it starts
        import sicog.data.rows.table  # noqa: F401, I001
        import pyarrow  # noqa: F401

    peak = _Peak()
    start = time.process_time()
    if way == "ours":
        mixture = read_mixture([Source(path=path)], 0, cache)
        n = len(mixture.selection)
        start_s = time.process_time() - start
        order = np.random.default_rng(0).permutation(n)[:_READ_AT_MOST]
        read = (mixture.tables[0].row(int(i))[0] for i in order)
    else:
        with path.open() as file:
            raw = [json.loads(line) for line in file]
        n = len(raw)
        start_s = time.process_time() - start
        order = np.random.default_rng(0).permutation(n)[:_READ_AT_MOST]
        read = (parse_example(raw[i], str(raw[i]["id"])) for i in order)
    check = sum(int(row.id) * len(row.turns[1].text) for row in read)
    return {"start_s": start_s, "check": check, **peak.stop()}


class _Peak:
    """The peak memory from now on, relative to now, sampled every 10 ms."""

    def __init__(self) -> None:
        self._before = self._now()
        self._most = self._before
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, float]:
        """Megabytes above the start: the process's own memory, and mapped pages of files."""
        self._done.set()
        self._thread.join()
        self._look()
        private, mapped = (most - before for most, before in zip(self._most, self._before, strict=True))
        return {"private_mb": private / 1e3, "mapped_mb": mapped / 1e3}

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self._look()

    def _look(self) -> None:
        now = self._now()
        self._most = (max(self._most[0], now[0]), max(self._most[1], now[1]))

    @staticmethod
    def _now() -> tuple[int, int]:
        lines = Path("/proc/self/status").read_text().splitlines()
        values = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("RssAnon", "RssFile"))}
        return int(values["RssAnon"]), int(values["RssFile"])


if __name__ == "__main__":
    main()
