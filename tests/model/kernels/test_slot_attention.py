"""slot_attention.py: torch's kernel reads what each slot holds and nothing else, as SDPA does with a mask."""

from types import SimpleNamespace

import pytest
import torch

from sicog.generation.decoding import Decoding, run_tokens
from sicog.generation.sampling import SamplingConfig
from sicog.generation.slots import SlotCache
from sicog.model.checkpoints import load_checkpoint
from sicog.model.kernels import slot_attention
from sicog.model.kernels.slot_attention import SLOTS, attend_to_slots, slot_arguments


def kernel(calls):
    """torch's varlen_attn for one query per sequence, written out; it fails where it would read outside."""

    def varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, enable_gqa, seqused_k, **options):
        assert max_q == 1 and cu_seq_q.tolist() == list(range(len(query) + 1)) and enable_gqa
        assert all(x.dtype == torch.int32 for x in (cu_seq_q, cu_seq_k, seqused_k))
        calls.append(options)
        out = torch.empty_like(query)
        for b, (begin, end, used) in enumerate(
            zip(cu_seq_k[:-1].tolist(), cu_seq_k[1:].tolist(), seqused_k.tolist(), strict=True)
        ):
            assert 0 < used <= end - begin == max_k
            repeats = query.shape[1] // key.shape[1]
            keys, values = (
                x[begin : begin + used].repeat_interleave(repeats, dim=1).transpose(0, 1) for x in (key, value)
            )
            weights = (query[b][:, None] @ keys.transpose(1, 2) * scale).softmax(-1)
            out[b] = (weights @ values)[:, 0]
        return out

    return varlen_attn


@pytest.fixture
def slots_model(tiny_dir, monkeypatch):
    model, _ = load_checkpoint(tiny_dir)
    monkeypatch.setattr(slot_attention, "has_varlen", lambda x: True)
    calls: list[dict] = []
    monkeypatch.setattr(slot_attention, "varlen_attn", kernel(calls))
    return model, calls


@torch.no_grad()
def test_one_call_a_layer_gives_what_the_mask_gives(slots_model):
    model, calls = slots_model
    rows, noise = [[5, 9, 2, 11, 4], [7], [3, 3, 8]], torch.rand(5, 12)

    def tokens():
        decoding = Decoding(model, SamplingConfig(temperature=1.0, max_new_tokens=12), [], n_slots=6, columns=20)
        prompts = run_tokens(model, rows, pad_id=0)
        decoding.join(prompts, [0, 1, 1, 2, 0], list("abcde"), noise)
        for _ in range(11):
            decoding.step()
        return [row.token_ids for row in decoding.take_finished()]

    expected = tokens()
    assert not calls
    attend_to_slots(model)
    assert model.language_model.config._attn_implementation == SLOTS
    assert tokens() == expected and all(len(ids) == 12 for ids in expected)
    assert len(calls) == 11 * model.config.text_config.num_hidden_layers
    assert all(options == {"num_splits": 1} for options in calls)


@torch.no_grad()
def test_prompts_take_the_causal_kernel_without_a_mask_and_tails_a_mask(slots_model, monkeypatch):
    model, _ = slots_model
    attend_to_slots(model)
    masks, plain = [], slot_attention.sdpa_attention_forward

    def noted(module, q, k, v, mask, **kwargs):
        masks.append(None if mask is None else tuple(mask.shape))
        return plain(module, q, k, v, mask, **kwargs)

    monkeypatch.setattr(slot_attention, "sdpa_attention_forward", noted)
    prefix = run_tokens(model, [[5, 9, 2], [7, 1, 1, 6, 10]], pad_id=0)
    assert set(masks) == {None}
    masks.clear()
    whole = run_tokens(model, [[4], [3, 3, 8, 2]], pad_id=0, past=prefix)
    assert set(masks) == {(2, 1, 4, 9)}
    alone = model(input_ids=torch.tensor([[7, 1, 1, 6, 10, 3, 3, 8, 2]])).logits[0, -1]
    torch.testing.assert_close(whole.logits[1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lacks", ["kernel", "option", "sdpa", "full layers"])
def test_elsewhere_the_models_attention_stays(tiny_dir, monkeypatch, lacks):
    model, _ = load_checkpoint(tiny_dir)
    monkeypatch.setattr(slot_attention, "has_varlen", lambda x: lacks != "kernel")
    if lacks == "option":
        monkeypatch.setattr(slot_attention, "VARLEN_OPTIONS", frozenset({"enable_gqa"}))
    config = SimpleNamespace(
        _attn_implementation="eager" if lacks == "sdpa" else "sdpa",
        layer_types=["sliding_attention"] if lacks == "full layers" else None,
    )
    monkeypatch.setattr(model.language_model, "config", config)
    attend_to_slots(model)
    assert config._attn_implementation == ("eager" if lacks == "sdpa" else "sdpa")
    assert slot_arguments(model, SlotCache(2, 5, torch.device("cpu")), 1).keys() == {"attention_mask"}
