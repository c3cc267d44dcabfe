"""`sicog group`: join the candidates of several runs to one candidate set per query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from sicog.config import Config
from sicog.records import CandidateSet
from sicog.stages.candidates import RunsSource, find_runs
from sicog.stages.config import StageOptions
from sicog.stages.runner import Stage, run_stage


class GroupConfig(Config):
    """Config of `sicog group`."""

    formerly: ClassVar[Mapping[str, str]] = {"inputs": "input"}
    input: tuple[Path, ...] = Field(min_length=1)
    """Folders of candidate sets, or globs of such folders; ids and candidates keep this order."""
    out_dir: Path
    block_size: int = Field(default=256, ge=1)


def group(config: GroupConfig) -> Path:
    """Write the grouped dataset and return its folder. Rows may have different numbers of candidates.

    Raises `ValueError` for two candidates with equal style, index, seed and checkpoint, and for different queries.
    """
    folders = find_runs(config.input)
    return run_stage(
        Stage(
            step="group",
            out_dir=config.out_dir,
            source=RunsSource(folders),
            process=_rows_unchanged,
            inputs={f"run-{i}": folder for i, folder in enumerate(folders)},
        ),
        config,
        StageOptions.of(config, max_dropped_share=None),
    )


def _rows_unchanged(block: Sequence[CandidateSet]) -> list[tuple[CandidateSet]]:
    return [(row,) for row in block]
