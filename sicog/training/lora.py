"""Low-rank adapters (LoRA) on the language model, with PEFT. Other trained parts are trained whole.

PEFT inserts its layers in place, so the model keeps its class. A checkpoint holds the whole model with merged adapters,
under its ordinary names. Beside it, `adapter/` holds the adapters and the parts trained whole, in PEFT's format
(`PeftModel.from_pretrained(model, "RUN/adapter")`). A run resumes from `adapter/`, because merged weights cannot be
separated again exactly.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sicog.config.packages import import_package
from sicog.model.precision import Precision, resolve_precision
from sicog.stages.provenance import RUN
from sicog.stages.storage import make_readable, read_json
from sicog.training.config import LoraSettings, ModelSource

if TYPE_CHECKING:
    from peft import LoraConfig

    from sicog.model.modeling import SicogForConditionalGeneration

ADAPTER = "adapter"
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_WHOLE = {"vision_tower": "vision_tower", "projector": "resampler"}  # part -> its module, when trained whole
_PREFIX = "base_model.model."  # of names in PEFT's files
_LORA = re.compile(r"\.lora_[AB]\.default\.")


def add_adapters(model: SicogForConditionalGeneration, settings: LoraSettings, precision: Precision) -> None:
    """Insert adapters into the language model, initialised with torch's random state. At first they add zero.

    The adapted layers' own weights are then stored in the precision of computation: half the memory, same results.
    Raises `ValueError` if PEFT is missing or a target is not a linear layer of the blocks.
    """
    known = _linear_layers(model)
    if unknown := sorted({*(settings.targets or ())} - known):
        raise ValueError(f"lora.targets: no linear layer {unknown[0]!r}; the blocks have {', '.join(sorted(known))}")
    config = _peft_config(settings, settings.targets or sorted(known))
    from peft import inject_adapter_in_model

    inject_adapter_in_model(config, model)
    if resolve_precision(precision) == "bfloat16":
        for name, parameter in model.language_model.named_parameters():
            if ".base_layer." in name:
                parameter.data = parameter.data.to(torch.bfloat16)


def freeze_except_adapters(language_model: nn.Module) -> None:
    """Freeze everything except the adapters in a language model that has some."""
    parameters = list(language_model.named_parameters())
    if any(_LORA.search(name) for name, _ in parameters):
        for name, parameter in parameters:
            parameter.requires_grad_(parameter.requires_grad and bool(_LORA.search(name)))


def merge_adapters(state: Mapping[str, torch.Tensor], settings: LoraSettings) -> dict[str, torch.Tensor]:
    """The whole state with merged adapters: their products are added to the weights in float32, under ordinary names.

    The merged layers get the adapters' dtype and are on the host.
    """
    dtype = next(value.dtype for name, value in state.items() if _LORA.search(name))
    result = {}
    for name, value in state.items():
        if _LORA.search(name):
            continue
        if name.endswith(".base_layer.weight"):
            a, b = (state[name.replace("base_layer", f"lora_{which}.default")] for which in "AB")
            product = (b.float() @ a.float()) * (settings.alpha / settings.r)
            value = value.float() + product
        if ".base_layer." in name:
            value = value.to(dtype).cpu()
        result[name.replace(".base_layer.", ".")] = value
    return result


def save_adapter(
    folder: Path, state: Mapping[str, torch.Tensor], settings: LoraSettings, trainable: Collection[str]
) -> None:
    """Write the adapters, and the parts trained whole, in PEFT's format."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = [module for part, module in _WHOLE.items() if part in trainable]
    adapters = {_LORA.sub(lambda m: m[0].replace(".default", ""), n): v for n, v in state.items() if _LORA.search(n)}
    parts = {name: value for name, value in state.items() if name.partition(".")[0] in whole}
    tensors = {_PREFIX + name: value.detach().cpu().contiguous() for name, value in {**adapters, **parts}.items()}
    save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
    names = sorted({name.split(".lora_")[0].rpartition(".")[2] for name in adapters})
    config = _peft_config(settings, names)
    config.modules_to_save = whole or None
    config.inference_mode = True
    config.save_pretrained(str(folder))


def load_adapter(model: SicogForConditionalGeneration, folder: Path) -> None:
    """Load the files of `save_adapter` into a model with adapters. Raises `ValueError` for another model."""
    stored = {name.removeprefix(_PREFIX): value for name, value in load_file(folder / _WEIGHTS).items()}
    values = {re.sub(r"(\.lora_[AB])\.", r"\1.default.", name): value for name, value in stored.items()}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    missing, unknown = model.load_state_dict(values, strict=False)
    if unknown or (lost := sorted(trained & {*missing})):
        raise ValueError(f"{folder} belongs to another model: {(unknown or lost)[0]} differs. Remove the checkpoint")


def merge_lora(source: Path, target: Path, *, base: Path | None = None) -> None:
    """Write a whole checkpoint: an adapter merged into its base.

    source: an adapter's folder, or a run or checkpoint that holds one. base: a checkpoint; None: the initial model in
    the run's run.json. Raises `ValueError` if there is no adapter, no base, or `target` exists.
    """
    if target.exists():
        raise ValueError(f"{target} exists. Give a new folder")
    folder = next((path for path in (source, source / ADAPTER) if (path / _CONFIG).is_file()), None)
    if folder is None:
        raise ValueError(f"{source} holds no {_CONFIG}; name an adapter's folder, or the run or checkpoint it is in")
    from sicog.training.load import load_model

    peft = _peft()
    model, processor = load_model(ModelSource(checkpoint=base) if base else _base_of_run(folder))
    whole: Any = peft.PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    whole.save_pretrained(target)
    processor.save_pretrained(target)
    make_readable(target)


def _base_of_run(folder: Path) -> ModelSource:
    """The initial model of the adapter's run. folder: the run or a checkpoint in it."""
    for parent in list(folder.resolve().parents)[:2]:
        if (parent / RUN).is_file():
            return ModelSource.model_validate(read_json(parent / RUN)["config"]["model"])
    raise ValueError(f"{folder} is not in a run's folder, so what it belongs to is unknown; name it with --base")


def _peft_config(settings: LoraSettings, names: Collection[str]) -> LoraConfig:
    # A pattern, not just names, because the vision tower has layers with the same names.
    pattern = rf"language_model\..*\.({'|'.join(names)})"
    config: LoraConfig = _peft().LoraConfig(
        r=settings.r, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=pattern
    )
    return config


def _linear_layers(model: SicogForConditionalGeneration) -> set[str]:
    layers: Any = model.language_model.base_model.layers
    return {n.rpartition(".")[2] for n, module in layers.named_modules() if isinstance(module, nn.Linear)}


def _peft() -> Any:
    return import_package("peft", "lora")
