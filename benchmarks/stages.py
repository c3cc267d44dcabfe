"""Memory and time of the data stages as the number of rows grows.

Each stage runs in its own process on 1,000 and on 100,000 generated rows, and reports its peak memory without imports.
There is no model and no encoder: scores are synthetic, and a fake teacher and a fake sampler answer at once with the
same text. The rest of `sicog annotate` and `sicog sample` is real. Flat means that the second figure is not much larger
than the first.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from PIL import Image

from benchmarks.timing import arguments, report
from sicog.chains import COD, render
from sicog.records import Candidate, CandidateSet, Example, Query, ScoredCandidate, ScoredSet, Turn
from sicog.stages.storage import MANIFEST, dump_record, shard_name, write_json

SIZES = (1_000, 100_000)
BODIES = [f"There is a large red circle to the left of a small blue square, in part {part}." for part in range(5)]
TEXT = render(COD, BODIES)
ID = "ROW-ID"
STAGES = ("annotate", "sample", "import", "group", "select", "build", "overlap")
USERS_FILES = {"annotate": "caption", "sample": "note", "import": "candidates"}  # and its required key


def candidate(seed: int) -> Candidate:
    """A caption of usual length."""
    values: dict[str, Any] = {"style": "cod", "prompt": "Describe the image step-by-step.", "checkpoint": "a" * 64}
    return Candidate(query_id=ID, index=0, seed=seed, text=TEXT, finish_reason="stop", n_tokens=120, **values)


def a_row(stage: str, seed: int) -> bytes:
    """An input line of a stage, with `ID` for its id."""
    query = Query(id=ID, task="captioning", images=(f"{ID}.png",))
    if stage in USERS_FILES:
        image = f"{ID}.png" if stage == "import" else "image.png"
        value = [TEXT, TEXT] if stage == "import" else TEXT
        return json.dumps({"id": ID, "image": image, USERS_FILES[stage]: value}).encode() + b"\n"
    if stage == "group":
        return dump_record(CandidateSet(id=ID, query=query, candidates=(candidate(seed),)))
    if stage == "select":
        marks = [{"score": 0.7 + k / 10, "agreement": (1.1 + 3 * k / 10) / 2} for k in range(3)]
        all_ = [ScoredCandidate(candidate=candidate(k), compared=TEXT, **m) for k, m in enumerate(marks)]
        return dump_record(ScoredSet(id=ID, query=query, candidates=tuple(all_), encoder="none"))
    turns = (Turn(role="user", text="Describe.", images_at=(0,)), Turn(role="assistant", text=TEXT))
    return dump_record(Example(id=ID, images=(f"{ID}.png",), turns=turns))


def a_text(number: int) -> bytes:
    """A text-only row of 100 words. Every tenth row is nearly equal to the previous one."""
    draw = Random(number - 1 if number % 10 == 9 else number)
    said = " ".join(f"word{draw.randrange(5000)}" for _ in range(100))
    turns = (Turn(role="user", text="Tell me."), Turn(role="assistant", text=f"{said} {number}"))
    return dump_record(Example(id=str(number), turns=turns))


def prepare(stage: str, n: int, folder: Path) -> None:
    """Write the input of the stage: a JSON list, or datasets in shards of 10,000 rows."""
    for seed in range(2 if stage == "group" else 1):
        line, out = a_row(stage, seed), folder / f"in-{seed}"
        lines = (line.replace(ID.encode(), str(i).encode()) for i in range(n))
        if stage == "overlap":
            lines = (a_text(i) for i in range(n))
        if stage in USERS_FILES:
            (folder / "rows.json").write_bytes(b"[" + b",".join(lines) + b"]")
            Image.new("RGB", (28, 28)).save(folder / "image.png")
            return
        out.mkdir()
        for shard in range(-(-n // 10_000)):
            with (out / shard_name(shard)).open("wb") as file:
                file.writelines(islice(lines, 10_000))
        write_json(out / MANIFEST, {"rows_out": n})


def run(stage: str, folder: Path) -> dict[str, float]:
    """Run a stage in this process. Returns the peak memory in MiB without imports, and seconds."""
    stages = {"annotate": run_annotate, "sample": run_sample, "import": run_import, "group": run_group}
    run_stage = {**stages, "select": run_select, "build": run_build, "overlap": run_overlap}[stage](
        folder, folder / "out"
    )
    before, start = peak_mib(), time.perf_counter()
    run_stage()
    return {"mib": peak_mib() - before, "seconds": time.perf_counter() - start}


def run_annotate(folder: Path, out: Path) -> Callable[[], Any]:
    """`sicog annotate` with a teacher that answers at once. Only its transport is fake."""
    import openai

    from sicog.annotation.revise import ReviseConfig, revise

    message = {"message": {"content": TEXT}, "finish_reason": "stop"}
    raw = SimpleNamespace(http_response=SimpleNamespace(content=json.dumps({"choices": [message]}).encode()))

    async def create(**body: Any) -> Any:
        return raw

    async def close() -> None:
        pass

    chat = SimpleNamespace(completions=SimpleNamespace(with_raw_response=SimpleNamespace(create=create)))
    server = SimpleNamespace(chat=chat, close=close)
    vars(openai)["AsyncOpenAI"] = lambda **_: server
    endpoint = {"model": "m", "base_url": "http://127.0.0.1/v1", "api_key_env": None}
    files = {"input": folder / "rows.json", "image_folder": folder, "chain_dir": out, "plain_dir": folder / "dd"}
    config = ReviseConfig.model_validate({"task": "captioning", "teacher": {"endpoint": endpoint}, **files})
    return lambda: revise(config)


class Answering:
    """A fake sampler: every sample has the same text."""

    def check(self, job: Any) -> None:
        """Accept every job."""

    def run(self, jobs: Sequence[Any]) -> list[list[Any]]:
        """The samples of every job."""
        from sicog.generation.sampling import Sample

        return [
            [Sample(r.style, r.prompt, i, TEXT, "stop", (1,)) for r in job.requests for i in range(r.n)] for job in jobs
        ]

    def status(self) -> str:
        """Return nothing: there is no speed to report."""
        return ""

    def close(self) -> None:
        """Do nothing: there are no open resources."""


def run_sample(folder: Path, out: Path) -> Callable[[], Any]:
    """`sicog sample` without a model."""
    import sicog.model.image_processing  # noqa: F401 - what sampling imports when it begins
    from sicog.generation import sample

    vars(sample)["load_engine"] = lambda *_, **__: Answering()
    files = {"input": folder / "rows.json", "image_folder": folder, "checkpoint": folder / "image.png", "out_dir": out}
    config = sample.SampleConfig.model_validate({"task": "captioning", **files})
    return lambda: sample.sample(config)


def run_import(folder: Path, out: Path) -> Callable[[], Any]:
    """`sicog import-candidates`."""
    from sicog.generation.original_files import ImportCandidatesConfig, import_candidates

    config = ImportCandidatesConfig(input=folder / "rows.json", out_dir=out, task="captioning")
    return lambda: import_candidates(config)


def run_group(folder: Path, out: Path) -> Callable[[], Any]:
    """`sicog group` of two runs."""
    from sicog.generation.group import GroupConfig, group

    return lambda: group(GroupConfig(inputs=(folder / "in-0", folder / "in-1"), out_dir=out))


def run_select(folder: Path, out: Path) -> Callable[[], Any]:
    """`sicog select`."""
    from sicog.curation.select.select import SelectConfig, select

    return lambda: select(SelectConfig(input=folder / "in-0", out_dir=out, threshold=0.8))


def run_build(folder: Path, out: Path) -> Callable[[], Any]:
    """`sicog build`."""
    from sicog.curation.build.build import BuildConfig, BuildSource, build

    return lambda: build(BuildConfig(sources=(BuildSource(name="all", path=folder / "in-0"),), out_dir=out))


def run_overlap(folder: Path, out: Path) -> Callable[[], Any]:
    """`sicog overlap` of texts."""
    from sicog.curation.overlap.overlap import OverlapConfig, overlap

    return lambda: overlap(OverlapConfig(input=folder / "in-0", out_dir=out, deduplicate={}, cache_dir=folder))


def peak_mib() -> float:
    """The peak memory of this process since its start, as counted by Linux."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def run_in_process(stage: str, n: int) -> dict[str, float]:
    """The same in a fresh process, on `n` rows."""
    with tempfile.TemporaryDirectory() as folder:
        prepare(stage, n, Path(folder))
        command = [sys.executable, "-m", "benchmarks.stages", "--run", stage, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return result


def main() -> None:
    """Measure all stages, or run one of them in a process started for it."""
    if sys.argv[1:2] == ["--run"]:
        print(json.dumps(run(sys.argv[2], Path(sys.argv[3]))))
        return
    options: argparse.Namespace = arguments(__doc__.splitlines()[0])
    few, many = (50, 500) if options.smoke else SIZES
    rows = []
    for stage in STAGES:
        small, large = run_in_process(stage, few), run_in_process(stage, many)
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
