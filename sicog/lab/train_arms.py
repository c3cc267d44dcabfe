"""`sicog lab run` and `sicog lab score FILE --train`: train the arms as a recipe, and write what they came to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markdown import Markdown

from sicog.console import say, stderr_console, stdout_console
from sicog.lab.arms import RUN, LabConfig, eval_step, load_lab, write_recipe
from sicog.lab.pictures import draw_arms, draw_curves
from sicog.lab.results import CURVES, PICTURE, RESULTS, TABLE, collect, markdown
from sicog.runs.recipe import load_recipe
from sicog.runs.run import run
from sicog.runs.states import read_state
from sicog.stages.storage import write_bytes, write_json


def lab_run(path: Path, overrides: Sequence[str] = (), *, only: Sequence[str] = ()) -> dict[str, Any]:
    """Train and evaluate the arms (those of `only`, and the one they are held against), skipping what is done.

    Returns the results of all arms that have any, which are also in the run's folder as lab.json and lab.md.
    """
    lab = load_lab(path, overrides)
    run(write_recipe(lab.only(only) if only else lab))
    return lab_table(lab)


def lab_table(lab: LabConfig, out: Path | None = None) -> dict[str, Any]:
    """Write the results so far with their pictures to `out` (the run's folder unless given) and print their table."""
    results = collect(lab, _stale(lab))
    if not results["arms"]:
        raise ValueError(f"{lab.run_dir} holds no result yet; sicog lab run makes them")
    text = markdown(results)
    folder = out or lab.run_dir
    write_json(folder / RESULTS, results)
    write_bytes(folder / TABLE, text.encode())
    write_bytes(folder / PICTURE, draw_arms(results).encode())
    if lab.curves:
        write_bytes(folder / CURVES, draw_curves(results, lab.curves).encode())
    console = stdout_console()
    # Rich centres headings and wraps paragraphs; a log gets the Markdown itself, line by line.
    console.print(Markdown(text) if console.is_terminal else text, markup=False, highlight=False)
    return results


def _stale(lab: LabConfig) -> list[tuple[str, int]]:
    """Evaluations that lie there, of other candidates or another config than the arms have now; says which."""
    if not Path(lab.inputs[RUN].path).is_dir():
        say(f"{lab.inputs[RUN].path} is gone: whether these results are of its candidates cannot be checked")
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
        say(f"left out, of other candidates or another config: {names}; sicog lab run trains them again")
    return found


def lab_train(path: Path, file: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Train what a scorer picks, with all seeds, beside the method; prints the comparison and returns it.

    The results are in `scorers/NAME` of the run's folder.
    """
    lab = load_lab(path, overrides).with_scorer(file)
    run(write_recipe(lab))
    name = next(name for name in lab.arms if name != lab.compare_with)
    results = lab_table(lab, lab.run_dir / "scorers" / name)
    accuracy = results["arms"][name]["accuracy"]
    value, low, high = (math.nan if v is None else v for v in accuracy["difference"])
    verdict = "better" if low > 0 else "worse" if high < 0 else "not to be told apart"
    limits = "" if math.isnan(low) else f" [{low:+.3f}, {high:+.3f}]"  # of one seed there are none
    stderr_console().print(f"  {name} against {lab.compare_with}: {verdict} ({value:+.3f}{limits})")
    return results
