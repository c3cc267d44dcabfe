"""Selection: the table of thresholds and `sicog select`, on synthetic scored rows.

Plain means: read JSON files whole into a list, loop over candidates and thresholds, and write the kept rows as one JSON
file. Both ways must choose the same candidates of the same rows. `columns` is the one-time work of `sicog score`, which
validates every row, so that the rest takes seconds.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from benchmarks.timing import Comparison, arguments, compare, report
from sicog.chains import COD, render
from sicog.curation.score.columns import columns_of
from sicog.curation.select.select import SelectConfig, select
from sicog.curation.select.threshold_table import CUTS, ThresholdsConfig, table
from sicog.records import Example
from sicog.stages.storage import MANIFEST, read_records, shard_name, write_json

K, CUT, IN_SHARD = 3, 0.85, 8192
BODIES = [f"There is a large red circle to the left of a small blue square, in part {part}." for part in range(5)]
TEXT = render(COD, BODIES)


def write_scored(folder: Path, rows: int) -> None:
    """A scored dataset as from `sicog score`, with random scores; equal bytes for equal `rows`."""
    rng, number = np.random.default_rng(0), 0
    folder.mkdir(parents=True)
    counts: dict[str, int] = {}
    while number < rows:
        size = min(IN_SHARD, rows - number)
        agreement = np.clip(rng.normal(0.75, 0.12, size=(size, K)), -1, 1).round(6)
        with (folder / shard_name(len(counts))).open("wb") as file:
            file.writelines(_line(number + i, agreement[i].tolist()) for i in range(size))
        counts[shard_name(len(counts))] = size
        number += size
    manifest = {"rows_out": rows, "rows_per_shard": counts, "files": {name: str(n) for name, n in counts.items()}}
    write_json(folder / MANIFEST, manifest)


def _line(number: int, agreement: list[float]) -> bytes:
    query = {"id": f"row-{number}", "task": "captioning", "images": [f"{number}.jpg"], "question": "", "extra": {}}
    candidates: list[dict[str, Any]] = []
    for index, value in enumerate(agreement):
        candidate = {"query_id": query["id"], "style": ("cod", "cod", "dd")[index], "prompt": "Describe the image."}
        candidate |= {"index": index, "seed": number, "text": f"{TEXT} {index}", "finish_reason": "stop"}
        candidate |= {"n_tokens": 150, "checkpoint": "a" * 64, "corruptions": []}
        marks = {
            "score": round((1 + 2 * value) / 3, 6),
            "agreement": value,
            "answer": None,
            "vote": None,
            "margin": None,
        }
        compared = f"{BODIES[-1]} {index}"
        candidates.append({"candidate": candidate, "compared": compared, "excluded": None, **marks})
    return orjson.dumps({"id": query["id"], "query": query, "candidates": candidates, "encoder": "none"}) + b"\n"


def read_whole(folder: Path) -> list[dict[str, Any]]:
    """All rows in memory, as `json` reads them."""
    return [json.loads(line) for path in sorted(folder.glob("shard-*.jsonl")) for line in path.open("rb")]


def plain_table(folder: Path) -> list[int]:
    """Rows kept at each threshold."""
    rows, kept = read_whole(folder), []
    for cut in CUTS:
        kept.append(sum(max(c["score"] for c in row["candidates"]) >= cut for row in rows))
    return kept


def plain_select(folder: Path, out: Path) -> dict[str, int]:
    """The chosen candidate of each kept row. The rows are written with it."""
    kept = []
    for row in read_whole(folder):
        scores = [c["score"] for c in row["candidates"]]
        if max(scores) >= CUT:
            best = scores.index(max(scores))
            kept.append({**row, "chosen": row["candidates"][best]["candidate"]["text"], "best": best})
    out.write_text(json.dumps(kept, indent=2))
    return {row["id"]: row["best"] for row in kept}


def our_select(folder: Path, out: Path) -> Path:
    """`sicog select` into a fresh folder."""
    shutil.rmtree(out, ignore_errors=True)
    return select(SelectConfig(input=folder, out_dir=out, threshold=CUT))


def _row(case: str, rows: int, found: Comparison) -> dict[str, Any]:
    plain_s, ours_s = found.plain_s, found.ours_s
    return {
        "case": case,
        "rows": rows,
        "plain s": plain_s,
        "ours s": ours_s,
        "ratio": plain_s / ours_s,
        "rows/s": rows / ours_s,
    }


def measure(rows: int, folder: Path, repeats: int) -> list[dict[str, Any]]:
    """All cases."""
    write_scored(folder / "scored", rows)
    start = time.process_time()
    columns_of(folder / "scored")
    seconds = time.process_time() - start
    lines = [{**_row("columns, once", rows, Comparison(seconds, seconds, 1.0)), "plain s": "", "ratio": ""}]
    config = ThresholdsConfig(input=folder / "scored")
    assert [line["rows_kept"] for line in table(config)["table"]] == plain_table(folder / "scored")
    timed = compare(partial(plain_table, folder / "scored"), partial(table, config), repeats=repeats, warm_up=False)
    lines.append(_row("thresholds", rows, timed))
    kept = {e.id: e.extra["index"] for e in read_records(our_select(folder / "scored", folder / "out"), Example)}
    assert kept == plain_select(folder / "scored", folder / "kept.json")
    plain, ours = (partial(f, folder / "scored") for f in (plain_select, our_select))
    timed = compare(lambda: plain(folder / "kept.json"), lambda: ours(folder / "out"), repeats=repeats, warm_up=False)
    lines.append(_row("select", rows, timed))
    return lines


def main() -> None:
    """Measure; or, with `--rows N FOLDER`, select from N rows once and print wall time and memory."""
    if sys.argv[1:2] == ["--rows"]:
        once(int(sys.argv[2]), Path(sys.argv[3]))
        return
    options = arguments(__doc__.splitlines()[0])
    with tempfile.TemporaryDirectory() as folder:
        rows = 500 if options.smoke else 100_000
        report("selection", measure(rows, Path(folder), options.repeats), options.out)


def once(rows: int, folder: Path) -> None:
    """One run that is too large for the plain way. The rows are created in the folder unless they exist."""
    from benchmarks.stages import peak_mib

    if not (folder / "scored").is_dir():
        write_scored(folder / "scored", rows)
    for name, work in (
        ("columns", partial(columns_of, folder / "scored")),
        ("thresholds", partial(table, ThresholdsConfig(input=folder / "scored"))),
        ("select", partial(our_select, folder / "scored", folder / "out")),
    ):
        start, cpu = time.perf_counter(), time.process_time()
        work()
        spent = time.process_time() - cpu
        print(f"{name}: {time.perf_counter() - start:.1f} s, processor {spent:.1f} s, peak {peak_mib():.0f} MiB so far")


if __name__ == "__main__":
    main()
