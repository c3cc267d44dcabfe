"""Kill a command at random moments, then let it end: what it leaves must be what one start would have left."""

import random
import signal
import subprocess
import time
from pathlib import Path

from warm_sicog import warm_python


def kill(child: subprocess.Popen) -> int:
    """Kill -9 a process, wait until what it ran is gone, and return its exit code. One of its streams is a pipe."""
    child.kill()
    child.communicate()
    return child.returncode


def killed_and_finished(script: str, folder: Path, seed: int, *, times: int = 4) -> None:
    """Start `python -c script folder`, which prints a line when it begins, kill it within 0.4 s, again and again.

    The script must sleep for 0.4 s x `times` in all, block by block: it cannot end before it was killed `times` times.
    """
    command, draw, kills = [warm_python(), "-c", script, str(folder)], random.Random(seed), 0
    for _ in range(times):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        child.stdout.readline()
        time.sleep(draw.uniform(0, 0.4))
        kills += kill(child) == -signal.SIGKILL
    assert kills == times
    subprocess.run(command, check=True, capture_output=True)
