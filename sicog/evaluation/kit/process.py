"""Entry point of the kit's process: register our model and tables, then run the kit's own run.py.

`python -m sicog.evaluation.kit.process JOB.json`, in the kit's environment; torchrun starts one per device. It is a
separate process because importing the kit disables gradients and TLS checks.
"""

from __future__ import annotations

import importlib.metadata
import os
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from sicog.evaluation.kit.operators import declare_missing_operators
from sicog.evaluation.kit.work_folder import MODEL
from sicog.stages.provenance import versions
from sicog.stages.storage import read_json, write_json
from sicog.version import __version__

PACKAGE = "ms-vlmeval"
ENVIRONMENT = "environment.json"


def main(job_file: Path) -> None:
    """Run one job; run.py writes to `JOB/work_dir/sicog`."""
    job = read_json(job_file)
    if job["sicog"] != __version__:
        raise ValueError(
            f"the kit's environment has sicog {__version__}, not {job['sicog']}. Run `make eval-env` again"
        )
    declare_missing_operators()
    if job["kit"]:
        sys.path.insert(0, job["kit"])
    run_file = register(job)
    if os.environ.get("RANK", "0") == "0":
        write_json(Path(job["work_dir"]) / ENVIRONMENT, environment(run_file))
    sys.argv = [str(run_file), *arguments(job)]
    runpy.run_path(str(run_file), run_name="__main__")


def register(job: dict[str, Any]) -> Path:
    """Register our model and tables with the kit; returns its run.py."""
    import vlmeval
    import vlmeval.config
    import vlmeval.dataset
    import vlmeval.vlm

    from sicog.evaluation.kit.adapter import SicogModel
    from sicog.evaluation.kit.local_tables import register_tables

    vlmeval.vlm.SicogModel = SicogModel  # `--config` of run.py uses this name
    vlmeval.config.supported_VLM[MODEL] = partial(SicogModel, job["checkpoint"], job["forms"], **job["model"])
    register_tables(job["tables"])
    if not job["verify_data"]:
        for kind in vlmeval.dataset.DATASET_CLASSES:
            if hasattr(kind, "DATASET_MD5"):
                kind.DATASET_MD5 = {}
    package = Path(vlmeval.__file__).parent
    places = (package / "run.py", package.parent / "run.py")  # as installed, and as in the kit's repository
    return next(place for place in places if place.is_file())


def arguments(job: dict[str, Any]) -> list[str]:
    """Return the command line of run.py. Keys of judges stay in the environment."""
    given = ["--data", *job["data"], "--model", MODEL, "--work-dir", job["work_dir"]]
    given += ["--mode", job["mode"], "--judge", job["judge"]]
    if job["judge_base_url"]:
        given += ["--judge-base-url", job["judge_base_url"]]
    if job["limit"]:
        given += ["--limit", str(job["limit"])]
    return given


def environment(run_file: Path) -> dict[str, Any]:
    """Return the versions that made the predictions, and the kit."""
    found: dict[str, Any] = {"versions": versions(), "kit": {"run": str(run_file), "commit": commit(run_file.parent)}}
    for name in (PACKAGE, "torchvision", "pandas"):
        try:
            found["versions"][name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    found["kit"]["version"] = None if found["kit"]["commit"] else found["versions"].get(PACKAGE)
    return found


def commit(folder: Path) -> str | None:
    """Return the commit of a checkout; None for an installed package, even inside another repository."""
    top = next((p for p in (folder, *folder.parents[:1]) if (p / ".git").exists()), None)
    if top is None:
        return None
    done = subprocess.run(["git", "-C", str(top), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
