"""Scoring: host side against a nested loop (P9), texts encoded and padded (P10), memory as rows grow (P11).

P9 compares N = 6 candidates per row, width 384, with the direct formula: normalise vectors, then multiply all pairs of
a row. `numbers` uses lists of Python numbers as in the original, `pairs` one numpy product per pair. All picks are
compared. P10 counts the encoder's inputs when rows share texts and 8 ranks score them. It also times MiniLM in batches
of a token budget against batches in input order. P11 runs `sicog score` in separate processes on 10^3 and 10^5 rows of
3 candidates, with synthetic vectors from a file, so no encoder runs.
"""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.stages import peak_mib
from benchmarks.timing import arguments, compare, report
from sicog.curation.score.self_consistency import self_consistency
from sicog.records import Candidate, CandidateSet, Query
from sicog.stages.storage import MANIFEST, dump_record, shard_name, write_json

CANDIDATES, WIDTH = 6, 384
BLOCK = 64  # rows scored together, as in the step
RANKS = 8
WORDS = ("a", "red", "blue", "large", "circle", "cup", "dog", "on", "under", "the", "table", "sea", "near", "lies")


def units(n: int, seed: int = 0) -> np.ndarray:
    """Float32 [N, D] of length 1. Candidates of a row are similar, as in real data."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, 1, WIDTH)) + 0.5 * rng.normal(size=(n, CANDIDATES, WIDTH))
    flat = rows.reshape(-1, WIDTH)
    return (flat / np.linalg.norm(flat, axis=1, keepdims=True)).astype(np.float32)


def ours(vectors: np.ndarray) -> list[int]:
    """The pick of every row, in blocks like `sicog score`."""
    picks: list[int] = []
    for start in range(0, len(vectors), BLOCK * CANDIDATES):
        block = vectors[start : start + BLOCK * CANDIDATES]
        scores = self_consistency(block, [CANDIDATES] * (len(block) // CANDIDATES)).score
        picks += scores.reshape(-1, CANDIDATES).argmax(axis=1).tolist()
    return picks


def nested(rows: Sequence[Any], way: tuple[Callable[..., Any], Callable[..., float]]) -> list[int]:
    """The same with the direct formula: normalise vectors, then loop over all pairs of a row."""
    unit, product = way
    picks = []
    for first in range(0, len(rows), CANDIDATES):
        row = [unit(vector) for vector in rows[first : first + CANDIDATES]]
        scores = [round(sum(product(one, other) for other in row) / CANDIDATES, 6) for one in row]
        picks.append(max(range(CANDIDATES), key=lambda i: (scores[i], -i)))
    return picks


def unit_of_numbers(vector: np.ndarray) -> list[float]:
    """The normalised vector as a list. It is converted here, because 40,000 rows of lists would take 3 GB."""
    given = vector.tolist()
    length = math.sqrt(sum(a * a for a in given))
    return [a / length for a in given]


NUMBERS = (unit_of_numbers, lambda one, other: sum(a * b for a, b in zip(one, other, strict=True)))
PAIRS = (lambda vector: vector / np.linalg.norm(vector), lambda one, other: float(np.dot(one, other)))


def host_side(sizes: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """P9: seconds of scoring n rows. The loop over numbers runs only once, because it is slow."""
    rows = []
    for n in sizes:
        vectors = units(n)
        wide = list(vectors.astype(np.float64))
        picks: list[list[int]] = []
        once = compare(lambda: picks.append(nested(wide, NUMBERS)), lambda: ours(vectors), repeats=1, warm_up=False)  # noqa: B023
        if not picks[0] == nested(wide, PAIRS) == ours(vectors):
            raise AssertionError("the picks differ")
        often = compare(lambda: nested(wide, PAIRS), lambda: ours(vectors), repeats=repeats, warm_up=False)  # noqa: B023
        for name, seconds in (("numbers", once.plain_s), ("pairs", often.plain_s)):
            rows.append(_row(f"P9 {name}", f"{n} rows", "s", seconds, often.ours_s, seconds / often.ours_s))
    return rows


def _row(figure: str, case: str, unit: str, plain: float, ours: float, ratio: float) -> dict[str, Any]:
    return {"figure": figure, "case": case, "unit": unit, "plain": plain, "ours": ours, "ratio": ratio}


def captions(n: int, seed: int = 0) -> list[str]:
    """Texts of very different length, as captions and short answers are."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=min(180, max(2, round(rng.lognormvariate(2.5, 1)))))) for _ in range(n)]


def encoded_texts(n_rows: int, folder: Path) -> list[dict[str, Any]]:
    """P10: the number of encoded texts per distinct text, by counting the encoder's inputs."""
    from sicog.curation.score.score import ScoreConfig, score
    from sicog.curation.vectors import prepare as vectors
    from sicog.curation.vectors.encoders import EncoderConfig
    from sicog.curation.vectors.vector_cache import Encoded

    given: list[str] = []

    class Counting:
        description = key = "counting"

        def encode(self, texts: Sequence[str]) -> Encoded:
            given.extend(texts)
            return Encoded(np.ones((len(texts), 4), dtype=np.float32), np.zeros(len(texts), dtype=np.bool_))

        def close(self) -> None:
            pass

    texts = [f"a caption of image {i}" for i in range(n_rows)] + ["a dog"] * n_rows
    random.Random(0).shuffle(texts)
    write_rows(folder / "sets", [tuple(texts[2 * i : 2 * i + 2]) for i in range(n_rows)])
    real, vectors._encoder = vectors._encoder, lambda config, answers: Counting()  # type: ignore[assignment]
    try:
        for out in ("first", "second"):  # the second run finds them in the cache
            values = {"input": folder / "sets", "out_dir": folder / out, "cache_dir": folder / "cache"}
            score(ScoreConfig(encoder=EncoderConfig(), rows_per_shard=64, **values))
    finally:
        vectors._encoder = real
    plain, distinct = 2 * RANKS * len(texts), len(set(texts))  # every rank encodes all of them in both runs
    case = f"{2 * n_rows} texts, {distinct} distinct, {RANKS} ranks, two runs"
    return [_row("P10 encoded", case, "per distinct text", plain / distinct, len(given) / distinct, plain / len(given))]


def batches(n: int, repeats: int) -> list[dict[str, Any]]:
    """P10: MiniLM's seconds, in batches of a token budget and in batches in the order of the input."""
    from sicog.curation.vectors.encoders import EncoderConfig
    from sicog.curation.vectors.local_encoder import LocalEncoder, _load

    encoder = LocalEncoder(EncoderConfig(device="cpu"))
    model, texts = _load(encoder.folder, encoder.config), captions(n)

    def in_order() -> np.ndarray:
        parts = [texts[i : i + 64] for i in range(0, n, 64)]
        return np.concatenate([model.encode(part, batch_size=64, show_progress_bar=False) for part in parts])

    ours = encoder.encode(texts).vectors
    if not np.allclose(ours, in_order(), atol=1e-5):
        raise AssertionError("vectors differ between batches")
    timed = compare(in_order, lambda: encoder.encode(texts), repeats=repeats, warm_up=False)
    case = f"MiniLM, {n} texts of 2 to 180 words, against 64 in the order of the input"
    return [_row("P10 batches", case, "texts/s", n / timed.plain_s, n / timed.ours_s, timed.ratio)]


def write_rows(folder: Path, texts: Sequence[tuple[str, ...]]) -> None:
    """A dataset of candidate sets."""
    folder.mkdir(parents=True)
    files = {}
    for shard, start in enumerate(range(0, len(texts), 10_000)):
        with (folder / shard_name(shard)).open("wb") as file:
            for i, row in enumerate(texts[start : start + 10_000], start):
                file.write(dump_record(candidate_set(str(i), row)))
        files[shard_name(shard)] = min(10_000, len(texts) - start)
    write_json(folder / MANIFEST, {"rows_out": len(texts), "rows_per_shard": files})


def candidate_set(row_id: str, texts: Sequence[str]) -> CandidateSet:
    """A row with these captions."""
    common: dict[str, Any] = {"style": "dd", "prompt": "Describe.", "seed": 0, "finish_reason": "stop", "n_tokens": 9}
    query = Query(id=row_id, task="captioning", images=(f"{row_id}.png",))
    candidates = (
        Candidate(query_id=row_id, index=i, text=text, checkpoint="c0ffee", **common) for i, text in enumerate(texts)
    )
    return CandidateSet(id=row_id, query=query, candidates=tuple(candidates))


def memory(sizes: tuple[int, int]) -> list[dict[str, Any]]:
    """P11: peak memory of `sicog score` in MiB, without imports."""
    found = []
    for n in sizes:
        with tempfile.TemporaryDirectory() as name:
            texts = [tuple(f"row {i}, candidate {k}" for k in range(3)) for i in range(n)]
            write_rows(Path(name) / "sets", texts)
            write_vectors(Path(name) / "vectors.parquet", [text for row in texts for text in row])
            command = [sys.executable, "-m", "benchmarks.curation", "--run", name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    (few, many), (small, large) = sizes, found
    case = f"{few} rows and {many} rows; {many / large['seconds']:.0f} rows/s"
    return [_row("P11 score", case, "MiB", small["mib"], large["mib"], large["mib"] / small["mib"])]


def write_vectors(path: Path, texts: Sequence[str]) -> None:
    """Synthetic vectors of the texts, in row groups."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("digest", pa.string()), ("vector", pa.list_(pa.float32(), 32))])
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(path, schema) as file:
        for start in range(0, len(texts), 10_000):
            part = texts[start : start + 10_000]
            flat = pa.array(rng.normal(size=len(part) * 32).astype(np.float32))
            vectors = pa.FixedSizeListArray.from_arrays(flat, 32)
            digests = pa.array([sha256(text.encode()).hexdigest() for text in part])
            file.write_table(pa.Table.from_arrays([digests, vectors], schema=schema))


def run(folder: Path) -> dict[str, float]:
    """Score in this process. Returns the peak memory in MiB without imports, and seconds."""
    import pyarrow.parquet  # noqa: F401 - so that it does not count

    from sicog.curation.score.score import ScoreConfig, score
    from sicog.curation.vectors.encoders import EncoderConfig

    encoder = EncoderConfig(kind="file", path=folder / "vectors.parquet")
    config = ScoreConfig(input=folder / "sets", out_dir=folder / "out", encoder=encoder, cache_dir=folder / "cache")
    before, start = peak_mib(), time.perf_counter()
    score(config)
    return {"mib": peak_mib() - before, "seconds": time.perf_counter() - start}


def main() -> None:
    """Measure all, or score in a process that `memory` started."""
    if sys.argv[1:2] == ["--run"]:
        print(json.dumps(run(Path(sys.argv[2]))))
        return
    options = arguments(__doc__.splitlines()[0])
    rows = host_side((200, 400) if options.smoke else (10_000, 40_000), options.repeats)
    with tempfile.TemporaryDirectory() as folder:
        rows += encoded_texts(200 if options.smoke else 2_000, Path(folder))
    rows += batches(70 if options.smoke else 256, options.repeats)
    rows += memory((50, 500) if options.smoke else (1_000, 100_000))
    report("curation", rows, options.out)


if __name__ == "__main__":
    main()
