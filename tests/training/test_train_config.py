"""The config of a stage, and the stages' YAML files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sicog.config import load_config, packages
from sicog.training.config import ModelSource, TrainConfig

CONFIGS = Path(__file__).parents[2] / "training_scripts" / "configs"
GIVEN = {
    "warmup": ["model.checkpoint=c"],
    "align": ["model.vision_tower=v", "model.language_model=l"],
    "pretrain": ["model.vision_tower=v", "model.language_model=l", "model.projector=p"],
    "sft": ["model.checkpoint=c"],
}


def load(stage: str, *more: str) -> TrainConfig:
    return load_config(TrainConfig, CONFIGS / f"{stage}.yaml", ["out_dir=r", "data.path=d.json", *GIVEN[stage], *more])


@pytest.mark.parametrize("stage", GIVEN)
def test_the_stages_are_the_papers(stage: str) -> None:
    config = load(stage)
    assert config.stage == stage
    assert config.learning_rate == (2e-4 if stage == "align" else 2e-5)
    assert config.global_batch == (256 if stage == "align" else 128)
    assert config.trainable == (("projector",) if stage == "align" else ("vision_tower", "projector", "language_model"))
    assert config.rows_per_update(32) == (256 if stage == "align" else 128)
    assert config.slicing == (stage != "align") and config.packing == "step"
    assert config.gradient_checkpointing == "auto" and config.max_grad_norm == 1
    assert (config.warmup_ratio, config.weight_decay, config.epochs, config.max_length) == (0.03, 0, 1, 4096)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learning_rat=1", "did you mean 'learning_rate'"),
        ("trainable=[]", "trainable must name"),
        ("trainable=[projector,projector]", "each once"),
        ("trainable=[resampler]", "projector"),
        ("model.projector=x", "give checkpoint, or else"),
        ("model.checkpoint=null", "both vision_tower and language_model"),
        ("data.path=null", "data.path or data.sources"),
        ("global_batch=0", "must be above 0, got 0"),
        ("gradient_checkpointing=true", "'none', 'selective', 'full' or 'auto'"),
        ("learning_rates.resampler=1e-3", "projector"),
        ("learning_rates.projector=0", "must be above 0, got 0"),
        ("lora.rank=8", "unknown key 'lora.rank'"),
        ("save_steps=0", "must be above 0, got 0"),
    ],
)
def test_mistakes_are_named(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load("sft", override)


def test_what_is_set_must_be_trained() -> None:
    frozen = "trainable=[projector]"
    with pytest.raises(ValueError, match="learning_rates names vision_tower, which trainable does not"):
        load("sft", frozen, "learning_rates.vision_tower=1e-6")
    with pytest.raises(ValueError, match="lora trains the language model. Add language_model to trainable"):
        load("sft", frozen, "lora.r=8")
    config = load("sft", "learning_rates.vision_tower=2e-6", "lora.r=8", "lora.targets=q_proj,v_proj")
    assert config.learning_rates == {"vision_tower": 2e-6}
    assert config.lora is not None and (config.lora.r, config.lora.targets) == (8, ("q_proj", "v_proj"))
    assert load("sft").lora is None


def test_pairs_of_options_that_do_not_work_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="compile with parallel zero3 has not been shown to work"):
        load("sft", "compile=true", "parallel=zero3")
    versions = {"transformers": "5.22.4", "torch": "2.12.1+cu128"}
    monkeypatch.setattr(packages.importlib.metadata, "version", versions.__getitem__)
    assert "compile with gradient_checkpointing selective needs transformers 5.23 or newer; 5.22.4 is installed" in (
        load("sft", "compile=true", "gradient_checkpointing=selective").problems()
    )
    assert "parallel fsdp with gradient_checkpointing needs torch 2.13 or newer; 2.12.1+cu128 is installed" in (
        load("sft", "parallel=fsdp", "gradient_checkpointing=full").problems()
    )
    versions |= {"transformers": "5.24.0.dev0", "torch": "2.13a0+git1"}
    for overrides in (
        ["compile=true", "gradient_checkpointing=selective"],
        ["parallel=fsdp", "gradient_checkpointing=full"],
    ):
        assert not [problem for problem in load("sft", *overrides).problems() if "or newer" in problem]


def test_what_saves_memory_or_time_may_change_in_a_run() -> None:
    changes = ("gradient_checkpointing=none", "keep_every=100", "compile=true", "attention=sdpa", "check_memory=false")
    assert load("sft").identity() == load("sft", *changes).identity()
    assert load("sft").identity() != load("sft", "optimizer=adamw_8bit").identity()


@pytest.mark.parametrize(
    ("overrides", "world_size", "batch"),
    [
        ([], 16, 128),
        (["global_batch=64"], 1, 64),
        (["global_batch=null"], 16, 128),
        (["global_batch=null", "accumulation=2"], 16, 128),
        (["global_batch=null", "accumulation=3"], 1, 12),
        (["accumulation=32"], 1, 128),
    ],
)
def test_the_global_batch(overrides: list[str], world_size: int, batch: int) -> None:
    assert load("sft", *overrides).rows_per_update(world_size) == batch


def test_keys_that_disagree_are_a_short_sentence() -> None:
    with pytest.raises(ValueError, match=r"config: packed rows|config: group_by_length") as told:
        load("sft", "group_by_length=true")
    assert len(str(told.value)) < 250 and "got {" not in str(told.value)


def test_sizes_that_disagree_are_an_error() -> None:
    with pytest.raises(ValueError, match="x accumulation 2 x 8 processes = 64"):
        load("sft", "accumulation=2").rows_per_update(8)
    with pytest.raises(ValueError, match="not a multiple"):
        load("sft", "packing=off").rows_per_update(3)


@pytest.mark.parametrize("stage", ["warmup", "pretrain", "sft"])
def test_only_align_begins_without_a_projector(stage: str) -> None:
    parts = ["model.checkpoint=null", "model.vision_tower=v", "model.language_model=l", "model.projector=null"]
    with pytest.raises(ValueError, match=f"stage {stage} .* random projector; give model.projector"):
        load(stage, *parts)
    assert load("align", *parts).model.projector is None


def test_more_drops_are_the_same_run() -> None:
    assert load("sft").identity() == load("sft", "data.max_dropped_share=0.5").identity()


def test_inputs_are_named_for_run_json() -> None:
    assert load("pretrain").inputs() == {
        "model.vision_tower": Path("v"),
        "model.language_model": Path("l"),
        "model.projector": Path("p"),
        "data.path": Path("d.json"),
    }


def test_the_config_needs_no_torch() -> None:
    code = "import sys, sicog.training.config; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_image_settings_are_of_models_made_from_parts() -> None:
    parts = {"vision_tower": "v", "language_model": "l"}
    assert ModelSource.model_validate({**parts, "image": {"normalize_on": "device"}}).image.max_patches == 2304
    with pytest.raises(ValueError, match="give checkpoint, or else .*image"):
        ModelSource.model_validate({"checkpoint": "c", "image": {"normalize_on": "device"}})
    with pytest.raises(ValueError, match="normalise_on"):
        ModelSource.model_validate({**parts, "image": {"normalise_on": "device"}})


def test_the_rows_behind_a_mixture_or_a_brace_form_are_inputs(tmp_path: Path) -> None:
    mixture = tmp_path / "mix.yaml"
    mixture.write_text("datasets: [{json_path: a.json, weight: 2}, {json_path: b.jsonl}]")
    inputs = load("sft", f"data.path={mixture}").data.inputs()
    assert inputs == {"data.path": mixture, "data.path.0": Path("a.json"), "data.path.1": Path("b.jsonl")}
    braces = load("sft", "data.path=x{1,2}.json").data.inputs()
    assert braces == {"data.path.0": Path("x1.json"), "data.path.1": Path("x2.json")}
