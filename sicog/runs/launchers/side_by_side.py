"""`launcher.jobs`: run independent steps at once, each in a process with its share of the cores.

Two jobs with one thread each do more work than one job with two threads, which wait for each other.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence, Set
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from sicog.runs.recipe import Step
from sicog.runs.states import is_done, process_is_alive, read_state, state_file
from sicog.runs.status import progress_of
from sicog.training.time_limit import TO_BE_CONTINUED

# Imports of most steps, beside their own modules. The server imports them once before it forks, which saves seconds
# per step.
_PRELOADED = (
    "sicog.runs.execute",
    "sicog.runs.run",
    "sicog.training.trainer",
    "sicog.generation.sample",
    "sicog.training.train",
)
_LOOK_S = 0.2


@dataclass(frozen=True)
class _Running:
    step: Step
    title: str
    process: BaseProcess
    since: float

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.since


def log_file(step: Step) -> Path:
    """Return the log file of a step that runs next to others."""
    return state_file(step.run_dir, step.name).with_suffix(".log")


def run_side_by_side(steps: Sequence[Step], jobs: int, console: Console) -> None:
    """Run these steps, at most `jobs` at once, each as soon as its dependencies are done, in order.

    When a step fails, running steps finish and no other step starts. Raises `ValueError` with its error. Exits with
    code 75, like a training, when a training was stopped and has saved.
    """
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // jobs))
    context = get_context("forkserver")
    context.set_forkserver_preload([*_PRELOADED, *sorted(_modules(steps))])
    known = {step.name for step in steps}
    titles = {step.name: f"[{k}/{len(steps)}] {step.name}" for k, step in enumerate(steps, 1)}
    waiting, running, failed, done = list(steps), list[_Running](), list[Step](), set[str]()
    try:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while running or (waiting and not failed):
                for step in [] if failed else _ready_steps(waiting, known - done, jobs - len(running)):
                    waiting.remove(step)
                    console.print(f"{titles[step.name]}: {step.verb.name}", style="bold")
                    log_file(step).parent.mkdir(parents=True, exist_ok=True)
                    given = (os.getpid(), threads, step.run_dir, step.name, step.key, log_file(step))
                    process = context.Process(target=_run_in_process, args=given)
                    process.start()
                    running.append(_Running(step, titles[step.name], process, time.monotonic()))
                ended = [one for one in running if not one.process.is_alive()]
                running = [one for one in running if one not in ended]
                for one in ended:
                    how = "done" if is_done(one.step) else "failed"
                    if how == "done":
                        done.add(one.step.name)
                    else:
                        failed.append(one.step)
                    console.print(f"{one.title}: {how} after {one.seconds:.0f} s", style="dim")
                live.update(_table(running), refresh=True)
                if not ended:
                    time.sleep(_LOOK_S)
    except BaseException:  # Ctrl-C reaches the children too; other signals are passed on
        for one in running:
            one.process.terminate()
        for one in running:
            one.process.join()
        raise
    if failed:
        states = [read_state(step.run_dir, step.name) for step in failed]
        if all(state is not None and state.state == "stopped" for state in states):
            raise SystemExit(TO_BE_CONTINUED)
        raise ValueError("; ".join(_error(step) for step in failed))


def _modules(steps: Sequence[Step]) -> set[str]:
    """Return the modules of the steps' configs, which a process reads for the whole plan, and of their work."""
    return {name.partition(":")[0] for step in steps for name in (step.verb.config, step.verb.function)}


def _ready_steps(waiting: Sequence[Step], undone: Set[str], free: int) -> list[Step]:
    """Return the first steps whose dependencies are done."""
    return [step for step in waiting if undone.isdisjoint((*step.depends_on, *step.after))][: max(0, free)]


def _run_in_process(run: int, threads: str, run_dir: Path, name: str, key: str, log: Path) -> None:
    """Run a step in the new process: print to the step's log, and exit when the run's process ends."""
    import torch

    from sicog.runs.execute import run_planned

    gc.freeze()  # collections would look at all that the server has imported
    os.environ["OMP_NUM_THREADS"] = threads  # for processes that the step starts
    torch.set_num_threads(int(threads))
    threading.Thread(target=_exit_with_parent, args=(run,), daemon=True).start()

    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    run_planned(run_dir, name, key)


def _exit_with_parent(run: int) -> None:
    """Stop this process when the run's process is gone, so that a killed run leaves no running steps."""
    while process_is_alive(run):
        time.sleep(_LOOK_S)
    os.kill(os.getpid(), signal.SIGTERM)


def _table(running: Sequence[_Running]) -> Table:
    table = Table.grid(padding=(0, 2))
    for one in running:
        progress = progress_of(one.step, one.seconds) if one.step.folder.is_dir() else None
        table.add_row(f"  {one.step.name}", str(progress or ""), f"{one.seconds:.0f} s")
    return table


def _error(step: Step) -> str:
    state = read_state(step.run_dir, step.name)
    of_state = state.error if state and state.key == step.key else None
    lines = log_file(step).read_text(errors="replace").split("\n") if log_file(step).is_file() else []
    said = of_state or next((line for line in reversed(lines) if line.strip()), "it ended without output")
    return f"step {step.name!r} failed: {said} (its output: {log_file(step)})"
