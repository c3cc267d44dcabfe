"""`launcher: torchrun`: run a training as several processes of this machine."""

from __future__ import annotations

import os
import subprocess
import sys

from sicog.runs.recipe import Step
from sicog.runs.states import is_done, read_state
from sicog.training.time_limit import TO_BE_CONTINUED

_SAVING_S = "600"  # seconds that torchrun gives a stopped training to save


def run_by_torchrun(step: Step, processes: int) -> None:
    """Run a step as several processes of this machine. Exits with their code; 75 means stopped and saved."""
    begin = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [*begin, "-m", "sicog", "step", str(step.run_dir), step.name, "--key", step.key]
    patience = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": _SAVING_S, **os.environ}
    with subprocess.Popen(command, env=patience) as started:
        try:
            code = started.wait()
        except BaseException:  # Ctrl-C reaches both processes; a signal to this one alone is passed on
            started.terminate()
            started.wait()
            raise
    state = read_state(step.run_dir, step.name)
    if code == 0 and is_done(step):
        return
    if state and state.state == "stopped":
        raise SystemExit(TO_BE_CONTINUED)
    raise ValueError(
        f"step {step.name!r} failed in its {processes} processes: "
        f"{state.error if state and state.error else f'exit code {code}, see above'}"
    )
