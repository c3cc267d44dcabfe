"""What works on the shards of a stage, as its `launch` keys say."""

from __future__ import annotations

from functools import partial

from sicog.stages.config import Backend
from sicog.stages.launch import LaunchConfig


def backend_of(launch: LaunchConfig | None) -> Backend | None:
    """A cluster; None where it is this machine. Raises `ValueError` when datatrove is missing."""
    if launch is None or launch.on == "local":
        return None
    from sicog.stages.cluster import launch_shards

    return partial(launch_shards, launch)
