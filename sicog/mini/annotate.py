"""Annotation of the mini world: the normal `annotate` step with a local teacher that knows the scenes."""

from __future__ import annotations

from pathlib import Path

from sicog.annotation.revise import ReviseConfig, revise
from sicog.annotation.teacher import TeacherConfig
from sicog.mini.teacher_server import teacher_server
from sicog.remote.config import EndpointConfig


class MiniAnnotateConfig(ReviseConfig):
    """An annotation with a local teacher that is served while it runs. image_folder: the mini data folder."""

    # No key. An image is sent as its unchanged file, so that the teacher can identify it.
    teacher: TeacherConfig = TeacherConfig(endpoint=EndpointConfig(model="mini-teacher", api_key_env=None))


def mini_annotate(config: MiniAnnotateConfig) -> tuple[Path, Path]:
    """Write both datasets of `Example` records; returns (chain_dir, plain_dir)."""
    assert config.image_folder
    with teacher_server(config.image_folder) as url:
        endpoint = config.teacher.endpoint.model_copy(update={"base_url": url})
        teacher = config.teacher.model_copy(update={"endpoint": endpoint})
        return revise(config.model_copy(update={"teacher": teacher}))
