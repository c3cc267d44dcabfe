"""`sicog lab run` and `sicog lab score FILE --train`: train the arms as a recipe, and write their results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markdown import Markdown

from sicog.console import say, stdout_console
from sicog.lab.arms import RUN, LabConfig, eval_step, load_lab, write_recipe
from sicog.lab.pictures import draw_arms, draw_curves
from sicog.lab.results import CURVES, PICTURE, RESULTS, TABLE, collect_results, markdown
from sicog.runs.recipe import load_recipe
from sicog.runs.run import run
from sicog.runs.states import read_state
from sicog.stages.storage import write_bytes, write_json
from sicog.statistics.intervals import with_limits


def lab_run(path: Path, overrides: Sequence[str] = (), *, only: Sequence[str] = ()) -> dict[str, Any]:
    """Train and evaluate the arms (of `only`, plus the arm to compare with); finished steps are skipped.

    Returns the results of all arms that have any. They are also in lab.json and lab.md of the run's folder.
    """
    lab = load_lab(path, overrides)
    run(write_recipe(lab.only(only) if only else lab))
    return lab_table(lab)


def lab_table(lab: LabConfig, out: Path | None = None) -> dict[str, Any]:
    """Write the results so far with their pictures to `out` (the run's folder unless given) and print their table."""
    results = collect_results(lab, _stale_evaluations(lab))
    if not results["arms"]:
        raise ValueError(f"{lab.run_dir} has no results yet. Run `sicog lab run` first")
    text = markdown(results)
    folder = out or lab.run_dir
    write_json(folder / RESULTS, results)
    write_bytes(folder / TABLE, text.encode())
    write_bytes(folder / PICTURE, draw_arms(results).encode())
    if lab.curves:
        write_bytes(folder / CURVES, draw_curves(results, lab.curves).encode())
    console = stdout_console()
    # Rich centres headings and wraps paragraphs, so a log file gets the raw Markdown.
    console.print(Markdown(text) if console.is_terminal else text)
    return results


def _stale_evaluations(lab: LabConfig) -> list[tuple[str, int]]:
    """Return and report existing evaluations of other candidates, or of another config than the current arms."""
    if not Path(lab.inputs[RUN].path).is_dir():
        say(f"{lab.inputs[RUN].path} is missing, so it cannot be checked that these results are of its candidates")
        return []
    steps = {step.name: step for step in load_recipe(write_recipe(lab)).steps}
    found = []
    for arm in lab.arms:
        for seed in lab.seeds:
            step = steps[eval_step(arm, seed)]
            state = read_state(step.run_dir, step.name)
            if state and state.key != step.key:
                found.append((arm, seed))
    if found:
        names = ", ".join(dict.fromkeys(arm for arm, _ in found))
        say(f"skipped, because of other candidates or another config: {names}. Run `sicog lab run` to train them again")
    return found


def lab_train(path: Path, file: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Train on a scorer's picks and on the method's, with all seeds; prints and returns the comparison.

    The results are in `scorers/NAME` of the run's folder.
    """
    lab = load_lab(path, overrides).with_scorer(file)
    run(write_recipe(lab))
    name = next(name for name in lab.arms if name != lab.compare_with)
    results = lab_table(lab, lab.run_dir / "scorers" / name)
    accuracy = results["arms"][name]["accuracy"]
    value, low, high = (math.nan if v is None else v for v in accuracy["difference"])  # one seed gives no interval
    verdict = "better" if low > 0 else "worse" if high < 0 else "no significant difference"
    say(f"{name} against {lab.compare_with}: {verdict} ({with_limits(value, low, high, '+.3f')})")
    return results
