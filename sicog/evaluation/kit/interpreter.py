"""The Python of VLMEvalKit's own environment."""

from __future__ import annotations

import os
from pathlib import Path

from sicog.config.paths import expand_home


def kit_python(python: Path | None, kit: Path | None) -> Path:
    """Return the interpreter of the kit's environment. Raises `ValueError` when it is missing.

    python: default $SICOG_EVAL_PYTHON, else the environment of `make eval-env`. kit: a checkout of VLMEvalKit.
    """
    given = python or os.environ.get("SICOG_EVAL_PYTHON")
    roots = (Path(__file__).parents[3], Path.cwd())
    places = [expand_home(Path(given))] if given else [root / ".venv-eval/bin/python" for root in roots]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ValueError(
            f"{places[0]} does not exist, but the kit needs its own Python environment. Run `make eval-env`, or set "
            f"python=... or SICOG_EVAL_PYTHON"
        )
    if kit and not any((kit / name).is_file() for name in ("run.py", "vlmeval/run.py")):
        raise ValueError(f"kit={kit} is not a checkout of VLMEvalKit: run.py is missing. Correct the path")
    return found.absolute()
