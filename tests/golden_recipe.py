"""How the inputs and weights behind tests/golden were drawn, and a tiny model filled with them.

Everything comes from numpy's legacy RandomState, the same on every machine; weights are seeded by their name.
"""

import json
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sicog.model import SicogConfig, SicogForConditionalGeneration

GOLDEN = Path(__file__).parent / "golden"
NEWLINE, COMMA, PLACEHOLDER = 13, 29892, 30000


def draw(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Float32 weights for the tensor `name`, seeded by the CRC-32 of its name."""
    x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(int(np.prod(shape))).reshape(shape)
    leaf = name.rsplit(".", 1)[-1]
    if ("norm" in name or "layrnorm" in name or ".ln_" in name) and leaf == "weight":
        return torch.from_numpy((1 + 0.1 * x).astype("float32"))
    return torch.from_numpy(((0.02 if leaf in ("bias", "in_proj_bias") else 0.08) * x).astype("float32"))


def draw_image(width: int, height: int, image_seed: int) -> Image.Image:
    """A smooth RGB picture: coarse noise, bilinearly enlarged."""
    noise = np.random.RandomState(image_seed).randint(0, 256, (max(2, height // 16), max(2, width // 16), 3))
    return Image.fromarray(noise.astype("uint8")).resize((width, height), Image.Resampling.BILINEAR)


def draw_token_ids(token_seed: int, n_before: int, n_after: int) -> tuple[list[int], list[int]]:
    """Ids before the image and ids after it."""
    r = np.random.RandomState(token_seed)
    return r.randint(100, 29000, n_before).tolist(), r.randint(100, 29000, n_after).tolist()


def fill_(state: dict[str, torch.Tensor], section: str, rename: dict[str, str]) -> None:
    """Fill a state dict with the drawn weights of a section of state_dict_keys.json, prefixes renamed."""
    for name, entry in json.loads((GOLDEN / "state_dict_keys.json").read_text())[section].items():
        ours = name
        for prefix, new in rename.items():
            if name.startswith(prefix):
                ours = new + name.removeprefix(prefix)
                break
        assert list(state[ours].shape) == entry["shape"], ours
        if entry["drawn"]:
            state[ours].copy_(draw(name, tuple(entry["shape"])))


@cache
def golden_model() -> SicogForConditionalGeneration:
    """The tiny model behind the golden figures."""
    vision = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
    text = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = SicogConfig(
        vision_config={**vision, "image_size": 336, "patch_size": 14},
        text_config={
            **text,
            "model_type": "qwen2",
            "vocab_size": 30000,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
            "rms_norm_eps": 1e-6,
        },
        image_token_id=PLACEHOLDER,
        row_separator_id=NEWLINE,
        slice_separator_id=COMMA,
    )
    model = SicogForConditionalGeneration(config)
    rename = {
        "model.vision_tower.vision_tower.vision_model.": "vision_tower.",
        "model.mm_projector.": "resampler.",
        "": "language_model.",
    }
    fill_(model.state_dict(), "llava_checkpoint", rename)
    return model.eval()
