"""`sicog run RECIPE --dry-run`: missing inputs, numbers of rows, costs, and every resolved config."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from sicog.console import stdout_console
from sicog.estimates.arithmetic.readable import large, small
from sicog.estimates.costs import Cost, Shapes, cost_of, most_disk
from sicog.estimates.counts import Counts
from sicog.estimates.refusals import refusals
from sicog.model.hub import find_model
from sicog.runs.recipe import Recipe, Step, load_recipe
from sicog.runs.states import is_done


def show_plan(path: Path, overrides: Sequence[str] = (), *, until: str | None = None) -> bool:
    """Print the plan of a recipe and write nothing. Returns whether a start would be accepted."""
    console = stdout_console()
    recipe = load_recipe(path, overrides)
    steps = recipe.until(until)
    counts = Counts(recipe)
    if recipe.inputs:
        console.print(_inputs(recipe, counts))
    console.print(_steps(recipe, steps, counts))
    for line in _notes(recipe):
        console.print(line)
    _print_configs(steps, console)
    missing, refused = recipe.missing(steps), refusals(recipe, steps, counts)
    for line in [*(f"MISSING {m}" for m in missing), *(f"REFUSED {r}" for r in refused)]:
        console.print(line, soft_wrap=True)
    return not missing and not refused


def _inputs(recipe: Recipe, counts: Counts) -> Table:
    table = Table("input", "path", "there", "rows", "expected", title="inputs", title_justify="left")
    for name, given in recipe.inputs.items():
        there = find_model(Path(given.path)) is not None
        rows = counts.at(Path(given.path)) if there and given.rows is not None else None
        other = given.rows is not None and rows is not None and rows.n != given.rows
        expected = f"{given.rows:,}" if given.rows is not None else ""
        style = "red" if not there else "yellow" if other else None
        found = f"{rows}{' (not as expected)' if other else ''}" if rows else ""
        table.add_row(name, given.path, "yes" if there else "no", found, expected, style=style)
    return table


def _steps(recipe: Recipe, steps: Sequence[Step], counts: Counts) -> Table:
    columns = ("rows in", "rows out", "tokens", "GPU-hours", "GPUs", "disk GB", "GiB a GPU")
    table = Table("step", "verb", "", *columns, title=f"{recipe.run_dir}", title_justify="left")
    for column in table.columns[3:]:
        column.justify, column.no_wrap = "right", True
    shapes, costs = Shapes(recipe), list[Cost]()
    for step in steps:
        rows = counts.of(step)
        cost = None if is_done(step) else cost_of(step, rows.given, shapes)
        state = "done" if is_done(step) else "to do"
        given, gives = (str(n) if n else "" for n in (rows.given, rows.gives))
        table.add_row(step.name, step.verb.name, state, given, gives, *(_cells(cost) if cost else [""] * 5))
        costs += [cost] if cost else []
    if costs:
        table.add_section()
        sums = [large(sum(c.tokens for c in costs)), small(sum(c.hours for c in costs)), ""]
        most = f"{max(c.memory for c in costs) / 2**30:.1f}"
        table.add_row("all that is computed", "", "", "", "", *sums, small(most_disk(costs) / 1e9), most)
    return table


def _cells(cost: Cost) -> list[str]:
    figures = (large(cost.tokens), small(cost.hours), str(cost.devices), small(cost.disk / 1e9))
    return [*figures, f"{cost.memory / 2**30:.1f}"]


def _notes(recipe: Recipe) -> list[str]:
    a = recipe.assume
    return [
        "rows: counted where the data exists; <= before drops; ~ as assumed (keep_share of a threshold's rows).",
        f"tokens, hours, disk and memory are computed, not measured, for images of {a.image}, prompts of "
        f"{a.prompt_tokens} and answers of {a.answer_tokens} tokens (assume.* changes what is assumed):",
        f"  rates and shares were measured on {a.device} ({a.measured}):"
        if a.device
        else "  hours are those of the assumed device, whatever this machine has:",
        f"  training hours = FLOP / ({a.tflops:g} TFLOP/s x {a.utilisation:g}); decoding hours = bytes moved / "
        f"({a.bandwidth:g} TB/s x {a.decode_share:g}); not counted: encoders, evaluation, waiting",
        "  disk: the most while the step runs, with checkpoints, which are deleted when it is done; in the last line "
        "also what earlier steps left. memory: of one GPU, without buffers of communication",
    ]


def _print_configs(steps: Sequence[Step], console: Console) -> None:
    for number, step in enumerate(steps, 1):
        needed = [*step.depends_on, *step.after]
        after = f", after {', '.join(needed)}" if needed else ""
        status = "done" if is_done(step) else "to do"
        console.print(
            f"[{number}/{len(steps)}] {step.name}: {step.verb.name} ({status}{after})", style="bold", soft_wrap=True
        )
        text = yaml.safe_dump(step.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        indented = text.rstrip().replace("\n", "\n    ").join(["    ", ""])
        console.print(indented, soft_wrap=True)
