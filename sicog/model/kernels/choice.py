"""Which attention and which kernels run, by what the machine has: one choice for training and generation.

Needs no torch until it is asked.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

from sicog.model.precision import Precision, named_device, resolve_precision

Attention = Literal["auto", "sdpa", "flash", "eager"]
Kernels = Literal["auto", "liger", "plain"]


def chosen_attention(attention: Attention, precision: Precision = "auto", device: str = "auto") -> str:
    """Transformers' name of the attention: `auto` is flash-attn where it is installed, on CUDA in half precision.

    `eager`, plain matrix products, is the faster one on a CPU in bfloat16 where heads are small and rows short.

    Raises `ValueError` where flash is asked for and cannot run.
    """
    if attention == "eager":
        return "eager"
    missing = _missing("flash_attn", "flash-attn", device)
    if resolve_precision(precision, device) == "float32":
        missing.append("precision bfloat16")
    if attention == "flash" and missing:
        raise ValueError(f"attention 'flash' needs {' and '.join(missing)}; leave it at 'auto', which then takes SDPA")
    return "flash_attention_2" if attention != "sdpa" and not missing else "sdpa"


def use_attention(model: Any, *, language_model: str, vision_tower: str) -> None:
    """Switch the parts of a model to an attention, by Transformers' names."""
    model.set_attn_implementation({"text_config": language_model, "vision_config": vision_tower})


def use_kernels(model: Any, kernels: Kernels) -> bool:
    """Patch the language model's norms, rotary positions and gated layers with Liger's kernels; whether it was done.

    `auto`: where liger-kernel is installed, on CUDA, and knows the language model. The loss head has its own choice.
    Raises `ValueError` where Liger is asked for and cannot be used.
    """
    if kernels == "plain":
        return False
    missing = _missing("liger_kernel", "liger-kernel")
    model_type = model.config.text_config.model_type
    if not missing:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

        if model_type in MODEL_TYPE_TO_APPLY_LIGER_FN:
            _apply_liger_kernel_to_instance(model.language_model, cross_entropy=False, fused_linear_cross_entropy=False)
            return True
        missing.append(f"a language model that it knows, not {model_type!r}")
    if kernels == "liger":
        raise ValueError(f"kernels 'liger' needs {' and '.join(missing)}; leave it at 'auto', which takes plain ones")
    return False


def compile_blocks(model: Any) -> None:
    """Compile each block of the language model in place: names and checkpoints stay as they are.

    The blocks share one compiled code, which from the second length on serves rows of any length.
    """
    for layer in model.language_model.base_model.layers:
        layer.compile()


def _missing(module: str, package: str, device: str = "auto") -> list[str]:
    here = {
        f"the package {package}": importlib.util.find_spec(module) is not None,
        "a CUDA device": named_device(device).startswith("cuda"),
    }
    return [name for name, is_here in here.items() if not is_here]
