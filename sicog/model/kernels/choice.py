"""Choose attention and kernels for this machine; used by training and generation.

Imports torch only when a function is called.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

from sicog.model.precision import Precision, named_device, resolve_precision

Attention = Literal["auto", "sdpa", "flash", "eager"]
Kernels = Literal["auto", "liger", "plain"]
Checkpointing = Literal["none", "selective", "full"]  # see `sicog.training.recompute`
CheckpointingChoice = Literal["none", "selective", "full", "auto"]


def chosen_attention(attention: Attention, precision: Precision = "auto", device: str = "auto") -> str:
    """Transformers' name of the attention. `auto` is flash-attn if it is installed, on CUDA in half precision.

    `eager` means plain matrix products. It is faster on a CPU in bfloat16 with small heads and short rows.

    Raises `ValueError` if flash is requested and cannot run.
    """
    if attention == "eager":
        return "eager"
    missing = _missing_requirements("flash_attn", "flash-attn", device)
    if resolve_precision(precision, device) == "float32":
        missing.append("precision bfloat16")
    if attention == "flash" and missing:
        raise ValueError(f"attention 'flash' needs {' and '.join(missing)}. Set it to 'auto', which then uses SDPA")
    return "flash_attention_2" if attention != "sdpa" and not missing else "sdpa"


def avoid_cudnn_attention() -> None:
    """Take cuDNN out of the choices of torch's SDPA, in the whole process.

    With torch 2.11 and newer it would be the first choice on H100, H200 and B200. It makes a plan for every new shape,
    and each decoded token is a new shape (measured elsewhere: 23 to 37 ms each, huggingface/transformers#48163). Its
    backward pass in bfloat16 has given NaN. `torch.backends.cuda.enable_cudnn_sdp(True)` allows it again.
    """
    import torch

    torch.backends.cuda.enable_cudnn_sdp(False)


def use_attention(model: Any, *, language_model: str, vision_tower: str) -> None:
    """Switch the parts of a model to an attention, by Transformers' names."""
    model.set_attn_implementation({"text_config": language_model, "vision_config": vision_tower})


def use_kernels(model: Any, kernels: Kernels) -> bool:
    """Patch the language model's norms, rotary positions and gated layers with Liger's kernels. Returns whether it did.

    `auto`: if liger-kernel is installed and supports the language model, on CUDA. The loss head has its own option.
    Raises `ValueError` if Liger is requested and cannot be used.
    """
    if kernels == "plain":
        return False
    missing = _missing_requirements("liger_kernel", "liger-kernel")
    model_type = model.config.text_config.model_type
    if not missing:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

        if model_type in MODEL_TYPE_TO_APPLY_LIGER_FN:
            _apply_liger_kernel_to_instance(model.language_model, cross_entropy=False, fused_linear_cross_entropy=False)
            return True
        missing.append(f"a supported language model, not {model_type!r}")
    if kernels == "liger":
        raise ValueError(
            f"kernels 'liger' needs {' and '.join(missing)}. Set it to 'auto', which then uses plain kernels"
        )
    return False


def unfused_warning(kernels: Kernels, compiled: bool) -> str:
    """What to do where a GPU would run small operations one by one; nothing elsewhere."""
    fused = kernels != "plain" and importlib.util.find_spec("liger_kernel") is not None
    if compiled or fused or named_device() == "cpu":
        return ""
    return (
        "WARNING: norms, rotary positions and gated layers run as many small kernels, a sixth of the time of a step "
        "(computed). Install liger-kernel (pip install 'sicog[gpu]') with kernels=auto, or set compile=true"
    )


def compile_blocks(model: Any) -> None:
    """Compile each block of the language model in place. Names and checkpoints do not change.

    All blocks share the compiled code. From the second row length on, it serves rows of any length.
    """
    for layer in model.language_model.base_model.layers:
        layer.compile()


def _missing_requirements(module: str, package: str, device: str = "auto") -> list[str]:
    here = {
        f"the package {package}": importlib.util.find_spec(module) is not None,
        "a CUDA device": named_device(device).startswith("cuda"),
    }
    return [name for name, is_here in here.items() if not is_here]
