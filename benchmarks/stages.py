"""Memory and time of the data stages as their rows grow: what `sicog group`, `select`, `build` and the import read.

Each stage runs in a process of its own on 1,000 and on 100,000 generated rows, and tells the most memory it has held
beyond its imports. No model and no encoder: the scores are made up. Flat means that the second figure is not much above
the first; what grows are ids and places of rows, which joining, shuffling and the check of ids hold in memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.timing import arguments, report
from sicog.chains import COD, render
from sicog.records import Candidate, CandidateSet, Example, Query, ScoredCandidate, ScoredSet, Turn
from sicog.storage import MANIFEST, dump_record, shard_name, write_json

SIZES = (1_000, 100_000)
BODIES = [f"There is a large red circle to the left of a small blue square, in part {part}." for part in range(5)]
TEXT = render(COD, BODIES)
ID = "ROW-ID"
STAGES = ("import", "group", "select", "build")


def candidate(seed: int) -> Candidate:
    """A caption of usual length."""
    values: dict[str, Any] = {"style": "cod", "prompt": "Describe the image step-by-step.", "checkpoint": "a" * 64}
    return Candidate(query_id=ID, index=0, seed=seed, text=TEXT, finish_reason="stop", n_tokens=120, **values)


def a_row(stage: str, seed: int) -> bytes:
    """A line of what a stage reads, with `ID` for its id."""
    query = Query(id=ID, task="captioning", images=(f"{ID}.png",))
    if stage == "import":
        return json.dumps({"id": ID, "image": f"{ID}.png", "candidates": [TEXT, TEXT]}).encode() + b"\n"
    if stage == "group":
        return dump_record(CandidateSet(id=ID, query=query, candidates=(candidate(seed),)))
    if stage == "select":
        marks = [{"score": 0.7 + k / 10, "agreement": (1.1 + 3 * k / 10) / 2} for k in range(3)]
        all_ = [ScoredCandidate(candidate=candidate(k), compared=TEXT, **m) for k, m in enumerate(marks)]
        return dump_record(ScoredSet(id=ID, query=query, candidates=tuple(all_), encoder="none"))
    turns = (Turn(role="user", text="Describe.", images_at=(0,)), Turn(role="assistant", text=TEXT))
    return dump_record(Example(id=ID, images=(f"{ID}.png",), turns=turns))


def prepare(stage: str, n: int, folder: Path) -> None:
    """Write what the stage reads: a JSON list, or datasets in shards of 10,000 rows."""
    for seed in range(2 if stage == "group" else 1):
        line, out = a_row(stage, seed), folder / f"in-{seed}"
        lines = (line.replace(ID.encode(), str(i).encode()) for i in range(n))
        if stage == "import":
            (folder / "rows.json").write_bytes(b"[" + b",".join(lines) + b"]")
            return
        out.mkdir()
        for shard in range(-(-n // 10_000)):
            with (out / shard_name(shard)).open("wb") as file:
                file.writelines(islice(lines, 10_000))
        write_json(out / MANIFEST, {"rows_out": n})


def run(stage: str, folder: Path) -> dict[str, float]:
    """Run a stage here; returns MiB held at most beyond the imports, and seconds."""
    from sicog.curation.build import BuildConfig, BuildSource, build
    from sicog.curation.select import SelectConfig, select
    from sicog.generation.group import GroupConfig, group
    from sicog.generation.original import ImportCandidatesConfig, import_candidates

    before, start, out = peak_mib(), time.perf_counter(), folder / "out"
    if stage == "import":
        import_candidates(ImportCandidatesConfig(input=folder / "rows.json", out_dir=out, task="captioning"))
    elif stage == "group":
        group(GroupConfig(inputs=(folder / "in-0", folder / "in-1"), out_dir=out))
    elif stage == "select":
        select(SelectConfig(input=folder / "in-0", out_dir=out, threshold=0.8))
    else:
        build(BuildConfig(sources=(BuildSource(name="all", path=folder / "in-0"),), out_dir=out))
    return {"mib": peak_mib() - before, "seconds": time.perf_counter() - start}


def peak_mib() -> float:
    """The most memory that this process has held so far, as Linux counts it from the start of its program."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measured(stage: str, n: int) -> dict[str, float]:
    """The same in a fresh process, on `n` rows."""
    with tempfile.TemporaryDirectory() as folder:
        prepare(stage, n, Path(folder))
        command = [sys.executable, "-m", "benchmarks.stages", "--run", stage, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return result


def main() -> None:
    """Measure all stages, or run one of them, as a process started for it does."""
    if sys.argv[1:2] == ["--run"]:
        print(json.dumps(run(sys.argv[2], Path(sys.argv[3]))))
        return
    options: argparse.Namespace = arguments(__doc__.splitlines()[0])
    few, many = (50, 500) if options.smoke else SIZES
    rows = []
    for stage in STAGES:
        small, large = measured(stage, few), measured(stage, many)
        rows.append(
            {
                "stage": stage,
                "rows": few,
                "MiB": small["mib"],
                "more rows": many,
                "MiB then": large["mib"],
                "bytes per further row": 2**20 * (large["mib"] - small["mib"]) / (many - few),
                "rows/s": many / large["seconds"],
            }
        )
    report("stages", rows, options.out)


if __name__ == "__main__":
    main()
