"""The reasons to refuse the start of one command, found without starting it. Every dry run of a command asks here."""

from __future__ import annotations

from pathlib import Path

from sicog.config import Config, paths_of
from sicog.data.rows.file_kinds import unreadable_message
from sicog.model.hub import find_model
from sicog.runs.verbs import Verb
from sicog.stages.provenance import RUN, has_no_work, holds_unknown_files, identity_differences, other_run_message
from sicog.stages.storage import is_finished, read_json


def problems(verb: Verb, config: Config, processes: int = 1) -> list[str]:
    """A sentence for each problem: a missing input, sizes that do not agree, a folder of another run. Empty: none."""
    return [*missing_inputs(verb, config), *refusals(verb, config, processes)]


def missing_inputs(verb: Verb, config: Config) -> list[str]:
    """A sentence for each input path that does not exist."""
    written = _written(verb, config)
    read = [path for path in paths_of(config) if path not in written]
    return list(dict.fromkeys(f"{path} does not exist" for path in read if find_model(path) is None))


def refusals(verb: Verb, config: Config, processes: int = 1) -> list[str]:
    """The same as `problems`, without missing inputs."""
    of_folders = [p for folder in _claimed(verb, config) for p in _of_folder(folder, config, processes)]
    of_rows = [problem for path in config.row_paths() for problem in unreadable_message(path)]
    return list(dict.fromkeys([*of_rows, *config.problems(processes), *of_folders]))


def work_is_finished(verb: Verb, config: Config, processes: int = 1) -> bool:
    """Whether the output folders hold the finished result of this config, so that a start would do nothing."""
    folders = _claimed(verb, config)
    finished = [is_finished(f) and (f / RUN).is_file() for f in folders]
    return bool(finished) and all(finished) and not any(_of_folder(f, config, processes) for f in folders)


def _claimed(verb: Verb, config: Config) -> list[Path]:
    return _written(verb, config) if verb.claims else []


def _written(verb: Verb, config: Config) -> list[Path]:
    values = [getattr(config, key, None) for key in verb.outputs]
    return [value for value in values if isinstance(value, Path)]


def _of_folder(folder: Path, config: Config, processes: int) -> list[str]:
    """The checks of `write_run_json`, without the digests of the inputs, which may take long."""
    if folder.exists() and not folder.is_dir():
        return [f"{folder} is a file; give a folder"]
    if (folder / RUN).is_file():
        differences = identity_differences(read_json(folder / RUN), config.with_resolved_auto(processes))
        return [other_run_message(folder, differences)] if differences and not has_no_work(folder) else []
    if holds_unknown_files(folder):
        return [f"{folder} is not empty and holds no {RUN}; choose another output folder"]
    return []
