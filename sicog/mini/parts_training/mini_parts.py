"""`sicog mini-parts`: the mini world's CLIP and Qwen2, in the same folders as the downloaded real models.

vision_tower/     a CLIP vision model        language_model/     a Qwen2 with its tokenizer
manifest.json     digests of all files, and the figures measured when the parts were trained
*.done.json       marks a trained and saved part, so that a stopped training keeps it

They are unpacked from the package (`parts/`: one safetensors file in float16, and small JSON files), or trained.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    GenerationConfig,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.utils import logging

from sicog.console import say, say_finished, stderr_console
from sicog.mini.parts_training.fit import device
from sicog.mini.parts_training.measure_language import measure_language
from sicog.mini.parts_training.parts_config import MiniPartsConfig
from sicog.mini.parts_training.probe_tower import probe_tower
from sicog.mini.parts_training.train_language import train_language
from sicog.mini.parts_training.train_vision import SELECT_LAYER, train_vision
from sicog.mini.tokenizer import train_tokenizer
from sicog.model.vision_tower import VisionTower
from sicog.stages.provenance import digest_file, write_run_json
from sicog.stages.storage import MANIFEST, make_readable, read_json, write_json

SHIPPED = Path(__file__).parents[1] / "parts"
WEIGHTS = "parts.safetensors"
FIGURES = "figures.json"
VISION, LANGUAGE = "vision_tower", "language_model"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def mini_parts(config: MiniPartsConfig) -> Path:
    """Write both parts to `out_dir` and return it; a finished folder is not changed."""
    if config.source == "shipped" and not (SHIPPED / WEIGHTS).is_file():
        raise ValueError(f"{WEIGHTS} is missing in this package. Train the parts with source=train")
    out_dir = config.out_dir
    write_run_json(
        out_dir, step="mini-parts", config=config, inputs={"shipped": SHIPPED} if config.source == "shipped" else {}
    )
    if not (out_dir / MANIFEST).exists():
        logging.disable_progress_bar()  # progress bars per file are useless here
        figures = unpack(SHIPPED, out_dir) if config.source == "shipped" else _train(config)
        for part in (VISION, LANGUAGE):
            make_readable(out_dir / part)
        files = sorted(p for name in (VISION, LANGUAGE) for p in (out_dir / name).iterdir())
        digests = {p.relative_to(out_dir).as_posix(): digest_file(p) for p in files}
        write_json(out_dir / MANIFEST, {"files": digests, "figures": figures})
        say(f"mini-parts: vision tower and language model are in {out_dir}")
    else:
        say_finished("mini-parts", out_dir)
    if config.ship:
        pack(out_dir, SHIPPED)
    return out_dir


def _train(config: MiniPartsConfig) -> dict[str, Any]:
    """Train and save both parts; returns the figures. A part that an earlier start finished is kept."""
    console = stderr_console()
    seen = _vision(config)
    console.print("vision tower, linear probe on fresh scenes:", seen)
    tokenizer = train_tokenizer(config.seed, config.language.vocabulary)
    model = _language(config, tokenizer)
    read = measure_language(model, tokenizer, config.language, config.seed, items=config.language.measured)
    console.print("language model, from cells, on fresh scenes:", _round_figures(read))
    return {VISION: seen, LANGUAGE: _round_figures(read), "made_by": {"seed": config.seed, **_training_configs(config)}}


def _vision(config: MiniPartsConfig) -> dict[str, float]:
    """Train and save the vision tower unless it exists; returns its figures."""
    if (found := _finished_figures(config, VISION)) is not None:
        return found
    clip = train_vision(config.vision, config.seed, config.out_dir / f"{VISION}.state.pt", config.workers)
    tower = VisionTower(clip.config, SELECT_LAYER).eval()
    tower.load_state_dict(clip.state_dict())
    probed = {"fitted": 3 * config.vision.measured, "tested": config.vision.measured}
    figures = _round_figures(probe_tower(tower.to(device()), config.vision.scale, config.seed, **probed))
    clip.save_pretrained(config.out_dir / VISION)
    _mark_finished(config, VISION, figures)
    return figures


def _language(config: MiniPartsConfig, tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
    """Train and save the language model unless it exists; returns it on the device for measuring."""
    folder = config.out_dir / LANGUAGE
    if _finished_figures(config, LANGUAGE) is None:
        state = config.out_dir / f"{LANGUAGE}.state.pt"
        model = train_language(config.language, tokenizer, config.seed, state, config.workers)
        _save_language_model(model, folder)
        tokenizer.save_pretrained(folder)
        _mark_finished(config, LANGUAGE, {})
    model = Qwen2ForCausalLM.from_pretrained(folder).eval()
    model.to(device())
    return model


def _marker(config: MiniPartsConfig, part: str) -> Path:
    return config.out_dir / f"{part}.done.json"


def _finished_figures(config: MiniPartsConfig, part: str) -> dict[str, float] | None:
    """Return the figures of a part that was fully trained with this config, or None."""
    marker, weights = _marker(config, part), config.out_dir / part / "model.safetensors"
    done = read_json(marker) if marker.is_file() and weights.is_file() else {}
    return done["figures"] if done.get("made_by") == _part_identity(config, part) else None


def _mark_finished(config: MiniPartsConfig, part: str, figures: dict[str, float]) -> None:
    """Mark a part as trained; written after its files."""
    write_json(_marker(config, part), {"made_by": _part_identity(config, part), "figures": figures})


def _part_identity(config: MiniPartsConfig, part: str) -> dict[str, Any]:
    return {"seed": config.seed, "config": _training_configs(config)[part]}


def _training_configs(config: MiniPartsConfig) -> dict[str, dict[str, Any]]:
    return {VISION: config.vision.model_dump(), LANGUAGE: config.language.model_dump()}


def _round_figures(figures: dict[str, Any]) -> dict[str, Any]:
    return {k: _round_figures(v) if isinstance(v, dict) else round(v, 4) for k, v in figures.items()}


def _save_language_model(model: Qwen2ForCausalLM, folder: Path) -> None:
    model.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
        do_sample=False,
    )
    model.save_pretrained(folder)


def pack(parts_dir: Path, folder: Path) -> None:
    """Write the files of the package: all weights as float16 in one file, configs, tokenizer, figures.

    They are written next to `folder` and then moved into it, the weights last, so a full disk keeps the old files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
        packed = Path(name)
        _write_packed(parts_dir, packed)
        for path in sorted(packed.iterdir(), key=lambda path: path.name == WEIGHTS):
            path.replace(folder / path.name)


def _write_packed(parts_dir: Path, folder: Path) -> None:
    weights = {}
    for name in (VISION, LANGUAGE):
        with safe_open(parts_dir / name / "model.safetensors", framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (not a dict)
                weights[f"{name}.{key}"] = file.get_tensor(key).to(torch.float16).contiguous()
        shutil.copyfile(parts_dir / name / "config.json", folder / f"{name}.json")
    for name in TOKENIZER_FILES:
        shutil.copyfile(parts_dir / LANGUAGE / name, folder / name)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    make_readable(folder / WEIGHTS)
    write_json(folder / FIGURES, read_json(parts_dir / MANIFEST)["figures"])


def unpack(folder: Path, out_dir: Path) -> dict[str, Any]:
    """Write the packed parts as ordinary model folders in float32; returns their figures."""
    weights: dict[str, dict[str, torch.Tensor]] = {VISION: {}, LANGUAGE: {}}
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 (not a dict)
            part, _, name = key.partition(".")
            weights[part][name] = file.get_tensor(key).float()
    # Save with the model classes, so that the folders match the installed version of Transformers.
    tower = CLIPVisionModel(CLIPVisionConfig.from_pretrained(folder / f"{VISION}.json"))
    tower.load_state_dict(weights[VISION])
    tower.save_pretrained(out_dir / VISION)
    model = Qwen2ForCausalLM(Qwen2Config.from_pretrained(folder / f"{LANGUAGE}.json"))
    model.load_state_dict(weights[LANGUAGE])
    _save_language_model(model, out_dir / LANGUAGE)
    for name in TOKENIZER_FILES:
        shutil.copyfile(folder / name, out_dir / LANGUAGE / name)
    return read_json(folder / FIGURES)
