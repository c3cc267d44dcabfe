"""Plans of packed micro-batches for 32 ranks, against a fixed number of padded rows: useful tokens, balance, seconds.

Lengths come from the real arithmetic of slices and tokens on image sizes as data sets have them, with text of
log-normal length; FLOPs are those of the full-size model (recipes/configs/sicog-7b.json) with checkpointing. The mix
for SFT: photos of COCO and Visual Genome, book covers, photos with text, charts, and 6 % long text without image.
Captions: unsliced photos and descriptions. All plans draw from the same rows.

P4, useful: in each micro-batch all ranks wait for the one with the most positions. P4 is the share of row tokens in the
positions that all ranks had time for, padding included, over the whole run. P5, imbalance: the FLOPs of the slowest
rank over the mean, over the whole run. Both ignore that a micro-batch may be smaller than the limits, because that
makes nobody wait. `full` shows it: the used share of the scarcer limit.
"""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import arguments, report
from sicog.data.batching import RunPlan, plan_run
from sicog.data.packing import PackLimits, PackRows, plan_epoch, plan_steps
from sicog.estimates.arithmetic.flops import row_cost
from sicog.model import SicogConfig
from sicog.model.layout import count_tokens
from sicog.model.lengths import RowLengths
from sicog.model.part_names import PARTS
from sicog.model.slicing import plan_slices

RANKS, ROWS, SEED = 32, 1_000_000, 0
_MODEL = Path(__file__).parents[1] / "recipes" / "configs" / "sicog-7b.json"
_MAX_LENGTH = 4096
_PROMPT = 30  # tokens of the turn format and the system turn
# Share of rows, long sides, range of short side / long side, share of upright images.
_MIX = [
    (0.54, (640,), (0.56, 1.0), 0.25),  # COCO
    (0.24, (500, 500, 800, 1024), (0.6, 0.8), 0.25),  # Visual Genome, GQA
    (0.12, (475, 500), (0.62, 0.8), 1.0),  # book covers
    (0.03, (1024,), (0.56, 0.8), 0.3),  # photos with text
    (0.07, (850, 1200, 1700), (0.5, 1.0), 0.4),  # charts and documents
]


def image_lengths(n: int, mix: list[Any], rng: np.random.Generator, *, slicing: bool) -> np.ndarray:
    """int64 [n, 3]: tokens, views and patches of one image each."""
    kind = rng.choice(len(mix), n, p=np.array([m[0] for m in mix]) / sum(m[0] for m in mix))
    found = np.zeros((n, 3), dtype=np.int64)
    for k, (_, sides, (low, high), upright) in enumerate(mix):
        of_kind = np.flatnonzero(kind == k)
        table = []
        for _ in range(500):
            long = int(rng.choice(sides))
            short = int(long * rng.uniform(low, high))
            plan = plan_slices(*((short, long) if rng.random() < upright else (long, short)))
            plan = plan if slicing else plan.without_slices()
            views = plan.views()
            table.append((count_tokens(plan.grid, 12), len(views), sum(h * w for h, w in views)))
        found[of_kind] = np.array(table)[rng.integers(0, len(table), len(of_kind))]
    return found


def sft_mix(n: int, rng: np.random.Generator) -> RowLengths:
    """Sliced images with conversations of some 150 tokens (a tenth above 500), and 6 % text of some 900."""
    images = image_lengths(n, _MIX, rng, slicing=True)
    text = np.where(rng.random(n) < 0.06, rng.lognormal(6.8, 0.7, n), rng.lognormal(5.0, 0.9, n)).astype(np.int64) + 8
    images[rng.random(n) < 0.06] = 0
    return _lengths(images, text)


def captions(n: int, rng: np.random.Generator) -> RowLengths:
    """One view and a description of some 60 tokens, a tenth above 200."""
    return _lengths(image_lengths(n, _MIX[:2], rng, slicing=False), rng.lognormal(4.1, 0.95, n).astype(np.int64) + 8)


def _lengths(images: np.ndarray, text: np.ndarray) -> RowLengths:
    text = np.minimum(text, _MAX_LENGTH - _PROMPT - images[:, 0])
    columns = (images[:, 0] + text + _PROMPT, text * 6 // 10 + 1, images[:, 1], images[:, 2])
    return RowLengths(*(column.astype(np.int32) for column in columns))


# Name, lengths, trained parts, rows of a padded micro-batch, global batch, limits: the stage scripts' defaults
# (device_batch x 4096 tokens, device_batch x 8 views), more views to a token, and few enough rows for the global batch.
CASES = [
    ("SFT mix", sft_mix, PARTS, 4, 128, (PackLimits(16384, 32), PackLimits(8192, 64), PackLimits(4096, 32))),
    ("captions", captions, ("projector",), 8, 256, (PackLimits(32768, 64), PackLimits(8192, 64), PackLimits(4096, 8))),
]


def measure(plan: RunPlan, lengths: RowLengths, cost: Any, limits: PackLimits | None) -> dict[str, Any]:
    """The figures of a plan."""
    starts, sizes = plan.borders[:-1], np.diff(plan.borders)
    tokens = lengths.tokens[plan.rows].astype(np.int64)
    computed = np.repeat(np.maximum.reduceat(tokens, starts), sizes) if plan.padded else tokens
    chosen = RowLengths(computed, *(x[plan.rows] for x in (lengths.supervised, lengths.views, lengths.patches)))
    positions, flops, views = (
        np.add.reduceat(x, starts).reshape(-1, plan.world_size) for x in (computed, cost.of(chosen), chosen.views)
    )
    full = limits and max(positions.mean() / limits.tokens, views.mean() / limits.views)
    return {
        "accumulation": plan.accumulation,
        "rows an update": len(plan.rows) / plan.n_steps,
        "P4 useful": float(tokens.sum() / (positions.max(axis=1).sum() * plan.world_size)),
        "P5 imbalance": float(flops.max(axis=1).sum() / flops.mean(axis=1).sum()),
        "full": full,
    }


def main() -> None:
    """Measure all cases."""
    options = arguments(__doc__.splitlines()[0])
    n = 20_000 if options.smoke else ROWS
    ranks = 4 if options.smoke else RANKS
    model = SicogConfig.from_dict(json.loads(_MODEL.read_text()))
    table = []
    for name, draw, trainable, device_batch, global_batch, choices in CASES:
        lengths = draw(n, np.random.default_rng(SEED))
        cost = row_cost(model, trainable, checkpointing=True)
        rows = PackRows.of(lengths, cost.of(lengths))
        shared: dict[str, Any] = {"global_batch": global_batch, "world_size": ranks, "seed": SEED}
        padded = partial(plan_run, lengths.tokens, device_batch=device_batch, **shared)
        ways: list[tuple[str, PackLimits | None, Any]] = [
            ("padded", None, padded),
            ("padded, length-grouped", None, partial(padded, group_by_length=True)),
        ]
        for limits in choices:
            ways.append(("packing: step", limits, partial(plan_steps, rows, limits, **shared)))
            ways.append(("packing: epoch", limits, partial(plan_epoch, rows, limits, **shared)))
        for way, limits, make in ways:
            start = time.process_time()
            plan = make()
            seconds = time.process_time() - start
            counts = np.bincount(plan.rows, minlength=n)
            assert counts.min() >= 1 and len(plan.rows) - n < (1 if "epoch" in way else global_batch)
            words = f"{limits.tokens} tokens, {limits.views} views" if limits else f"{device_batch} rows"
            found = measure(plan, lengths, cost, limits)
            table.append(
                {"data": name, "way": way, "micro-batch": words, **found, "seconds": seconds, "rows/s": n / seconds}
            )
    report(f"packing of {n} rows for {ranks} ranks", table, options.out)


if __name__ == "__main__":
    main()
