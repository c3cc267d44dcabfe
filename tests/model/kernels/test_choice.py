"""Attention and kernels by what the machine has; what cannot run here is asked of stand-ins."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from sicog.model import SicogForConditionalGeneration, load_checkpoint
from sicog.model.kernels import choice
from sicog.model.kernels.choice import chosen_attention, compile_blocks, unfused_warning, use_attention, use_kernels


@pytest.fixture
def model(tiny_dir: Path) -> SicogForConditionalGeneration:
    return load_checkpoint(tiny_dir)[0]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that seems to have CUDA, flash-attn and liger-kernel."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        choice.importlib.util, "find_spec", lambda name: name in ("flash_attn", "liger_kernel") or find(name)
    )


def test_without_cuda_it_is_sdpa_and_flash_is_an_error() -> None:
    assert chosen_attention("auto", device="cpu") == chosen_attention("sdpa") == "sdpa"
    with pytest.raises(ValueError, match="attention 'flash' needs .*a CUDA device and precision bfloat16"):
        chosen_attention("flash", device="cpu")


@pytest.mark.usefixtures("cuda")
def test_with_cuda_and_the_package_it_is_flash_in_half_precision() -> None:
    assert chosen_attention("auto") == chosen_attention("flash", "bfloat16", "cuda:1") == "flash_attention_2"
    assert chosen_attention("sdpa") == chosen_attention("auto", "float32") == "sdpa"
    assert chosen_attention("auto", "bfloat16", "cpu") == "sdpa"
    with pytest.raises(ValueError, match="'flash' needs precision bfloat16\. Set"):
        chosen_attention("flash", "float32")


@pytest.mark.usefixtures("cuda")
def test_small_kernels_on_a_gpu_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unfused_warning("auto", False) == unfused_warning("liger", False) == unfused_warning("plain", True) == ""
    assert "or set compile=true" in unfused_warning("plain", False)
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda name: None)
    assert "Install liger-kernel" in unfused_warning("auto", False)
    assert unfused_warning("auto", True) == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert unfused_warning("auto", False) == ""


def test_the_parts_are_switched(model: SicogForConditionalGeneration) -> None:
    use_attention(model, language_model="eager", vision_tower="sdpa")
    config: Any = model.config
    assert config.text_config._attn_implementation == model.language_model.config._attn_implementation == "eager"
    assert model.vision_tower.config._attn_implementation == "sdpa"


def test_liger_is_an_error_where_it_cannot_run(model: SicogForConditionalGeneration) -> None:
    assert not use_kernels(model, "plain")
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    assert not use_kernels(model, "auto")
    with pytest.raises(ValueError, match="kernels 'liger' needs .*a CUDA device"):
        use_kernels(model, "liger")


@pytest.mark.usefixtures("cuda")
def test_liger_patches_the_language_model_alone(
    model: SicogForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, dict[str, Any]]] = []
    library, patches = ModuleType("liger_kernel.transformers"), ModuleType("liger_kernel.transformers.monkey_patch")
    library._apply_liger_kernel_to_instance = lambda model, **options: calls.append((model, options))  # type: ignore[attr-defined]
    patches.MODEL_TYPE_TO_APPLY_LIGER_FN = {"qwen2": None}  # type: ignore[attr-defined]
    for module in (ModuleType("liger_kernel"), library, patches):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    assert use_kernels(model, "auto")
    # The loss has a head of its own.
    assert calls == [(model.language_model, {"cross_entropy": False, "fused_linear_cross_entropy": False})]
    patches.MODEL_TYPE_TO_APPLY_LIGER_FN = {}  # type: ignore[attr-defined]
    assert not use_kernels(model, "auto")
    with pytest.raises(ValueError, match="needs a supported language model, not 'qwen2'"):
        use_kernels(model, "liger")


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or importlib.util.find_spec("liger_kernel") is None, reason="needs CUDA and Liger"
)
def test_liger_gives_the_same_loss(tiny_dir: Path) -> None:
    ids = torch.arange(3, 60, device="cuda")[None]
    losses = []
    for kind in ("plain", "liger"):
        model = load_checkpoint(tiny_dir, device="cuda")[0]
        use_kernels(model, kind)  # type: ignore[arg-type]
        losses.append(model(input_ids=ids, labels=ids).loss)
    torch.testing.assert_close(*losses, atol=1e-4, rtol=1e-4)


def test_blocks_are_compiled_in_place(model: SicogForConditionalGeneration, monkeypatch: pytest.MonkeyPatch) -> None:
    names, compiled = list(model.state_dict()), []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    compile_blocks(model)
    assert compiled == [*model.language_model.base_model.layers] and list(model.state_dict()) == names


def test_a_model_takes_cudnn_out_of_the_choices(tiny_dir: Path) -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    load_checkpoint(tiny_dir)
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()
