"""rotary.py: frequencies are those of the formula, in float32, after anything that cast the model."""

import pytest
import torch
from tiny import tiny_checkpoint
from transformers import AutoModelForCausalLM, LlamaConfig

from sicog.model import load_checkpoint
from sicog.model.kernels.rotary import restore_frequencies


def formula(config) -> torch.Tensor:
    width = config.hidden_size // config.num_attention_heads
    exponents = torch.arange(0, width, 2, dtype=torch.float64) / width
    return (1.0 / config.rope_parameters["rope_theta"] ** exponents).float()


def test_a_model_that_was_cast_gets_its_frequencies_back(tmp_path):
    tiny_checkpoint(tmp_path)
    model, _ = load_checkpoint(tmp_path)
    assert restore_frequencies(model) == []  # loading has them right
    model.to(torch.bfloat16)  # as DeepSpeed before 0.19.2 does
    rotary = model.language_model.model.rotary_emb
    assert rotary.inv_freq.dtype == torch.bfloat16
    assert restore_frequencies(model) == [
        f"language_model.model.rotary_emb.{n}" for n in ("inv_freq", "original_inv_freq")
    ]
    assert rotary.inv_freq.dtype == torch.float32
    torch.testing.assert_close(rotary.inv_freq, formula(model.config.text_config), rtol=1e-6, atol=0)
    assert model.language_model.lm_head.weight.dtype == torch.bfloat16  # nothing else is touched


def test_frequencies_that_were_rounded_and_widened_again_are_found(tmp_path):
    tiny_checkpoint(tmp_path)
    model, _ = load_checkpoint(tmp_path)
    exact = model.language_model.model.rotary_emb.inv_freq.clone()
    model.to(torch.bfloat16).to(torch.float32)
    assert restore_frequencies(model)
    assert torch.equal(model.language_model.model.rotary_emb.inv_freq, exact)


@pytest.mark.parametrize("scaling", [{"rope_type": "linear", "factor": 4.0}, {"rope_type": "llama3", "factor": 8.0}])
def test_scaled_positions_keep_their_scale(scaling):
    more = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    rope = {"rope_theta": 1e4, **scaling, **(more if scaling["rope_type"] == "llama3" else {})}
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 9,
    }
    model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes, rope_parameters=rope))
    exact = model.model.rotary_emb.inv_freq.clone()
    model.to(torch.bfloat16)
    assert restore_frequencies(model)
    assert torch.equal(model.model.rotary_emb.inv_freq, exact)
