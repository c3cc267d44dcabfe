"""A small data set with images, and a config to train on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sicog.records import Example, Turn
from sicog.stages.storage import write_dataset
from sicog.training.config import TrainConfig


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`rows/` (24 examples, some without an image) and `images/`."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    examples = []
    for i in range(24):
        width, height = rng.integers(30, 130, 2)
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / "images" / f"{i}.png")
        has_image = i % 6 != 0
        question = Turn(role="user", text="How many objects are there?", images_at=(0,) if has_image else ())
        answer = Turn(role="assistant", text="red circle " * int(rng.integers(1, 9)))
        examples.append(Example(id=f"row-{i}", images=(f"{i}.png",) if has_image else (), turns=(question, answer)))
    write_dataset(folder / "rows", examples)
    return folder


@pytest.fixture
def config(tiny_dir: Path, data_dir: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """`config(key=value)`: a config of 6 updates that trains the tiny checkpoint into `tmp_path / "run"`."""

    def make(**changes: Any) -> TrainConfig:
        values = {
            "stage": "sft",
            "out_dir": tmp_path / "run",
            "model": {"checkpoint": tiny_dir},
            "data": {"path": data_dir / "rows", "image_folder": data_dir / "images"},
            "learning_rate": 1e-3,
            "epochs": 2,
            "global_batch": 8,
            "device_batch": 4,
            "save_steps": 2,
            "precision": "float32",
            "tensorboard": False,
            "workers": 0,
        }
        return TrainConfig.model_validate({**values, **changes})

    return make
