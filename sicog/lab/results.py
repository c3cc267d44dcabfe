"""Results of the lab's arms: figures of every seed, means, and differences with intervals, as JSON and as a table.

Shapes: S seeds, N items (questions or images), G groups of them (images).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from sicog.lab.arms import RUN, LabConfig, eval_step, rows_step
from sicog.lab.true_candidates import truth_of_examples
from sicog.records import Example
from sicog.stages.storage import count_rows, is_finished, read_records
from sicog.statistics.intervals import Interval, with_limits

RESULTS, TABLE, PICTURE, CURVES = "lab.json", "lab.md", "lab.svg", "curves.svg"
DRAWS = 50_000
# name of a figure -> file of the evaluation, key of an item's value, key of an item's group
FIGURES: Mapping[str, tuple[str, str, str]] = {
    "accuracy": ("answers.jsonl", "right", "image"),
    "caption_f1": ("captions.jsonl", "f1", "id"),
    "chains": ("chains.jsonl", "right", "image"),
    "placed_f1": ("captions.jsonl", "placed_f1", "id"),
}
MAIN = ("accuracy", "caption_f1")  # every evaluation has these; the table shows them seed by seed
_HEADS = {"accuracy": "accuracy", "caption_f1": "caption F1", "chains": "by chains", "placed_f1": "F1 with places"}
_SHORT = {"captioning": "captions", "reasoning": "answers"}
Items = tuple[list[str], list[str], list[float]]  # ids, groups, values


def collect_results(lab: LabConfig, stale: Collection[tuple[str, int]] = ()) -> dict[str, Any]:
    """Return the results of all arms that have any: seeds, means, differences to the arm to compare with.

    stale: evaluations by arm and seed that do not count, because they are of another run or config.
    """
    found = {name: [{} if (name, seed) in stale else _read(lab, name, seed) for seed in lab.seeds] for name in lab.arms}
    arms: dict[str, Any] = {}
    for name, arm in lab.arms.items():
        done = [seed for seed, items in zip(lab.seeds, found[name], strict=True) if items]
        if not done:
            continue
        arms[name] = {"says": arm.says, "seeds": done, **_rows(lab, name, done[0])}
        for figure in FIGURES if all(items.keys() == FIGURES.keys() for items in found[name] if items) else MAIN:
            values = [float(np.mean(items[figure][2])) for items in found[name] if items]
            arms[name][figure] = {"mean": _round(float(np.mean(values))), "by_seed": [_round(v) for v in values]}
            arms[name][figure]["interval"] = [
                _round(v) for v in _arm_interval([i[figure] for i in found[name] if i])[1:]
            ]
            if name != lab.compare_with:
                both = [
                    (a[figure], b[figure])
                    for a, b in zip(found[lab.compare_with], found[name], strict=True)
                    if figure in a and figure in b
                ]
                arms[name][figure]["difference"] = [_round(v) for v in _difference(both)] if both else None
    missing = {name: [s for s, items in zip(lab.seeds, found[name], strict=True) if not items] for name in lab.arms}
    return {
        "compare_with": lab.compare_with,
        "updates": lab.updates.model_dump(),
        "order": list(arms),
        "arms": arms,
        "missing": {name: seeds for name, seeds in missing.items() if seeds},
    }


def _read(lab: LabConfig, arm: str, seed: int) -> dict[str, Items]:
    """Return each figure's items of one evaluation; empty when it is not done."""
    folder = lab.run_dir / eval_step(arm, seed)
    if not is_finished(folder):
        return {}
    return {
        name: _items(folder / file, value, group)
        for name, (file, value, group) in FIGURES.items()
        if (folder / file).is_file()
    }


def _items(path: Path, value: str, group: str) -> Items:
    rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    return [row["id"] for row in rows], [row[group] for row in rows], [float(row[value]) for row in rows]


def _rows(lab: LabConfig, arm: str, seed: int) -> dict[str, Any]:
    """Return the number of pre-training rows of an arm, and their truth."""
    if not lab.arms[arm].rows:
        return {"rows": 0, "truth": {}}
    folder = lab.run_dir / rows_step(arm, seed)
    truth = truth_of_examples(Path(lab.inputs[RUN].path), read_records(folder, Example))
    return {"rows": count_rows(folder), "truth": {task: _round(value) for task, value in truth.items()}}


def _arm_interval(seeds: Sequence[Items]) -> Interval:
    if any(items[0] != seeds[0][0] for items in seeds):
        raise ValueError(
            "evaluations of the lab have different questions. Run the lab again; it repeats what has changed"
        )
    return crossed_interval(np.array([items[2] for items in seeds]), seeds[0][1])


def _difference(both: Sequence[tuple[Items, Items]]) -> Interval:
    ids, groups = both[0][0][0], both[0][0][1]
    if any(items[0] != ids for pair in both for items in pair):
        raise ValueError(
            "evaluations of the lab have different questions. Run the lab again; it repeats what has changed"
        )
    return crossed_interval(np.array([np.subtract(b[2], a[2]) for a, b in both]), groups)


def crossed_interval(values_SN: NDArray[np.float64], groups: Sequence[str], *, seed: int = 0) -> Interval:
    """Return the 95 % interval of the mean of S seeds x N items, both sampled; fewer than two of either: nan limits.

    The error is the sum of two parts. The seeds' part is the deviation of their means, as Student's t with S - 1
    degrees of freedom. The items' part comes from the means over seeds, by groups, as a normal. The quantile of the sum
    is found by simulation (a fiducial interval). Interaction of seeds and items counts in both parts, so the interval
    is slightly too wide.
    """
    n_seeds, n_items = values_SN.shape
    names: dict[str, int] = {}
    index_N = np.array([names.setdefault(group, len(names)) for group in groups])
    mean = float(values_SN.mean())
    if n_seeds < 2 or len(names) < 2:
        return Interval(mean, math.nan, math.nan)
    of_seeds = float(values_SN.mean(axis=1).std(ddof=1)) / math.sqrt(n_seeds)
    residuals_G = np.bincount(index_N, weights=values_SN.mean(axis=0) - mean)
    n_groups = len(residuals_G)
    of_items = math.sqrt(n_groups / (n_groups - 1) * float((residuals_G**2).sum())) / n_items
    rng = np.random.default_rng(seed)
    drawn = of_seeds * rng.standard_t(n_seeds - 1, DRAWS) + of_items * rng.standard_normal(DRAWS)
    half = float(np.quantile(np.abs(drawn), 0.95))
    return Interval(mean, mean - half, mean + half)


def markdown(results: Mapping[str, Any]) -> str:
    """Return the results as a Markdown table, ending in a newline; missing arms are listed below it."""
    reference = results["compare_with"]
    minus = f"minus {reference}"
    others = [figure for figure in FIGURES if figure not in MAIN and any(figure in a for a in results["arms"].values())]
    head = ["arm", "what changes", "rows", "their truth"]
    for figure in MAIN:
        head += [_HEADS[figure], minus]
    head += [_HEADS[figure] for figure in others]
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    for name in results["order"]:
        arm = results["arms"][name]
        truth = ", ".join(f"{_SHORT.get(task, task)} {value:.3f}" for task, value in arm["truth"].items())
        cells = [f"`{name}`", arm["says"], f"{arm['rows']:,}" if arm["rows"] else "", truth]
        for figure in MAIN:
            cells += [_mean(arm[figure]), _format_difference(arm[figure].get("difference"))]
        lines.append(cells + [_mean_and_difference(arm.get(figure)) for figure in others])
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"
    missing = [_missing_seeds(name, seeds, name in results["arms"]) for name, seeds in results["missing"].items()]
    return text + (f"\nNot done yet: {', '.join(missing)}.\n" if missing else "")


def _missing_seeds(arm: str, seeds: Sequence[int], is_begun: bool) -> str:
    return f"`{arm}`" + (f" (seed {' and '.join(map(str, seeds))})" if is_begun else "")


def _mean(figure: Mapping[str, Any]) -> str:
    low, high = min(figure["by_seed"]), max(figure["by_seed"])
    return f"{figure['mean']:.3f} ({low:.3f} to {high:.3f})"


def _mean_and_difference(figure: Mapping[str, Any] | None) -> str:
    """Format a mean, and the difference after it."""
    if figure is None:
        return ""
    difference = _format_difference(figure.get("difference"))
    return f"{figure['mean']:.3f}" + (f" ({difference})" if difference else "")


def _format_difference(difference: Sequence[Any] | None) -> str:
    if difference is None:
        return ""
    value, low, high = difference
    return with_limits(value, low, high, "+.3f")


def _round(value: float) -> float | None:
    """Round a number; nan becomes None, because JSON has no nan."""
    return None if math.isnan(value) else round(value, 5)
