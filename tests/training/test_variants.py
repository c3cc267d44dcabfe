"""The paper's variants: each YAML is a whole config, and one step of each trains on tiny stand-ins of its parts."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import SCALE, tiny_llama, tiny_parts

from sicog.config import load_config
from sicog.generation.sampler import Sampler
from sicog.generation.sampling import Job, Picture, Request, SamplingConfig
from sicog.model import load_checkpoint, load_image
from sicog.stages.storage import read_json
from sicog.training.config import TrainConfig
from sicog.training.train import train

VARIANTS = Path(__file__).parents[2] / "recipes" / "variants"
UHD = ["model.config.query_grid=2", "model.config.max_slices=4"]
SMALL = {  # what a tiny model needs beside the variant's own values; how many placeholders a view then has
    "qwen2-uhd": (UHD, 4),
    "llama3.1-uhd": (UHD, 4),
    "qwen2-low-resolution": ([], (SCALE // 14) ** 2),
}


def test_every_variant_is_tested() -> None:
    assert {path.stem for path in VARIANTS.glob("*.yaml")} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_the_values_are_the_align_stages(name: str) -> None:
    given = ["out_dir=r", "data.path=d.json", "model.vision_tower=v", "model.language_model=l"]
    config = load_config(TrainConfig, VARIANTS / f"{name}.yaml", given)
    assert (config.stage, config.global_batch, config.learning_rate) == ("align", 256, 2e-4)
    assert config.trainable == ("projector",)
    assert config.model.turn_format == ("llama3" if "llama" in name else "chatml")
    assert config.model.config["projector_type"] == ("mlp" if "low" in name else "resampler")


@pytest.mark.parametrize("name", SMALL)
def test_a_step_trains_and_the_result_samples(name: str, tmp_path: Path, data_dir: Path) -> None:
    vision, text = tiny_parts(tmp_path)
    if "llama" in name:
        text = tiny_llama(tmp_path / "llama")
    own, per_view = SMALL[name]
    small = ["max_steps=1", "global_batch=4", "device_batch=2", "precision=float32", "tensorboard=false", "workers=0"]
    given = [f"out_dir={tmp_path / 'run'}", f"model.vision_tower={vision}", f"model.language_model={text}"]
    data = [f"data.path={data_dir / 'rows'}", f"data.image_folder={data_dir / 'images'}", "slicing=true"]
    overrides = [*small, *given, *data, f"model.config.scale={SCALE}", *own]
    run_dir = train(load_config(TrainConfig, VARIANTS / f"{name}.yaml", overrides))
    assert read_json(run_dir / "manifest.json")["steps"] == 1
    model, processor = load_checkpoint(run_dir)
    picture = Picture.of(load_image(data_dir / "images" / "1.png"))
    job = Job(id="a", images=(picture,), requests=(Request(style="direct", prompt="How many?", n=2),))
    sampler = Sampler(model, processor, SamplingConfig(max_new_tokens=4, temperature=1.0, top_p=1.0, seed=0))
    (ids,) = sampler.prompts(job)
    views = processor.image_processor.plan(*picture.size).n_slices + 1
    assert ids.count(model.image_token_id) == per_view * views
    (samples,) = sampler.run([job])
    assert len(samples) == 2
