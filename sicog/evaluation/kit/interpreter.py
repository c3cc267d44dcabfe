"""The Python of VLMEvalKit's own environment."""

from __future__ import annotations

import os
from pathlib import Path

from sicog.config.paths import at_home


def kit_python(python: Path | None, kit: Path | None) -> Path:
    """The interpreter of the kit's environment. Raises `ValueError` when there is none.

    python: one that was named; else $SICOG_EVAL_PYTHON, else that of `make eval-env`. kit: a checkout of VLMEvalKit.
    """
    given = python or os.environ.get("SICOG_EVAL_PYTHON")
    roots = (Path(__file__).parents[3], Path.cwd())
    places = [at_home(Path(given))] if given else [root / ".venv-eval/bin/python" for root in roots]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ValueError(
            f"{places[0]} is no Python: the kit has an environment of its own; `make eval-env` sets it up "
            f"(or name one with python=... or SICOG_EVAL_PYTHON)"
        )
    if kit and not any((kit / name).is_file() for name in ("run.py", "vlmeval/run.py")):
        raise ValueError(f"kit={kit} is no checkout of VLMEvalKit: it has no run.py")
    return found.absolute()
