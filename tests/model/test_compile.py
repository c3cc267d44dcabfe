"""torch.compile sees the language model's blocks whole: packed rows make no graph break. Without a compiler."""

import pytest
import torch
from model.test_modeling import tiny_model
from torch._dynamo.testing import CompileCounter
from torch.nn.attention import varlen

from sicog.model.kernels import document_attention
from sicog.model.kernels.document_attention import attend_within_documents, packed_arguments
from tests.model.kernels.test_packed import kernel

LENGTHS = (7, 5, 4)


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def packed(lengths=LENGTHS, width=32):
    """Hidden states, position ids that begin again with every row, and the mask that keeps rows apart."""
    generator = torch.Generator().manual_seed(0)
    row_of = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    causal = torch.ones(sum(lengths), sum(lengths), dtype=torch.bool).tril()
    return {
        "inputs_embeds": torch.randn(1, sum(lengths), width, generator=generator),
        "position_ids": torch.cat([torch.arange(n) for n in lengths])[None],
        "attention_mask": (causal & (row_of[:, None] == row_of))[None, None],
    }


@pytest.mark.parametrize("training", [False, True])
def test_all_blocks_are_one_graph(training):
    base = tiny_model().language_model.base_model.train(training)
    batch = packed()
    batch["inputs_embeds"].requires_grad_(training)
    found = torch._dynamo.explain(lambda **kwargs: base(**kwargs, use_cache=False).last_hidden_state)(**batch)
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


def test_compiled_blocks_give_the_same_and_packed_rows_stay_apart():
    base = tiny_model().language_model.base_model
    batch = packed()
    whole = torch.compile(base, backend="eager", fullgraph=True)(**batch, use_cache=False).last_hidden_state
    torch.testing.assert_close(whole, base(**batch, use_cache=False).last_hidden_state)
    rows = batch["inputs_embeds"].split(LENGTHS, dim=1)
    apart = [base(inputs_embeds=row, use_cache=False).last_hidden_state for row in rows]
    torch.testing.assert_close(whole, torch.cat(apart, dim=1), atol=1e-5, rtol=1e-4)


def test_blocks_compiled_by_themselves_serve_rows_of_any_length():
    """As in training: every block is compiled in place; from the second length on nothing is compiled again."""
    base, compiled = (tiny_model().language_model.base_model.train() for _ in range(2))
    counter, counts = CompileCounter(), []
    for layer in compiled.layers:
        layer.compile(backend=counter, fullgraph=True)
    for lengths in (LENGTHS, (3, 9), (6, 6, 6, 2), (11,)):
        batch = packed(lengths)
        batch["inputs_embeds"].requires_grad_()
        out = compiled(**batch, use_cache=False).last_hidden_state
        torch.testing.assert_close(out, base(**batch, use_cache=False).last_hidden_state)
        out.sum().backward()
        counts.append(counter.frame_count)
    assert counts[0] == 1 and counts[1:] == [2, 2, 2]  # all blocks share the code: one length, then any


def by_borders(model, lengths):
    """Hidden states and what `forward` hands to the blocks with `document_borders`."""
    batch = packed(lengths)
    borders = torch.tensor([0, *lengths]).cumsum(0).int()
    arguments = packed_arguments(model.language_model.config, batch["inputs_embeds"], borders, None)
    return {**arguments, "inputs_embeds": batch["inputs_embeds"].requires_grad_()}


@pytest.fixture(scope="module")
def kernel_on_cpu():
    """Torch's own varlen operator, as the compiler knows it, computed by a stand-in: the kernel needs CUDA."""

    @varlen._varlen_attn.register_kernel("cpu")
    def _(q, k, v, ends, ends_k, longest, longest_k, causal, scale, window, gqa, *_):
        out = kernel(q, k, v, ends, ends, longest, longest_k, scale=scale, window_size=tuple(window), enable_gqa=gqa)
        return out.contiguous(), q.new_zeros(q.shape[1], len(q)), torch.zeros(2, dtype=torch.uint64)


@pytest.mark.parametrize("way", ["varlen", "sdpa"])
def test_blocks_that_are_given_borders_make_no_graph_break(monkeypatch, kernel_on_cpu, way):
    """CUDA's operator is compiled for one batch, then for any. SDPA, on a CPU or a GPU without the operator, has one
    call per document: no break either, but every new set of lengths is compiled."""
    plain, model = tiny_model().train(), tiny_model().train()
    attend_within_documents(model)
    if way == "varlen":
        monkeypatch.setattr(document_attention, "has_varlen", lambda x: True)
    counter, counts = CompileCounter(), []
    for layer in model.language_model.model.layers:
        layer.compile(backend=counter, fullgraph=True)
    for lengths in (LENGTHS, (3, 9), (6, 6, 6, 2), (5, 3, 8)):
        batch = by_borders(model, lengths)
        out = model.language_model.base_model(**batch).last_hidden_state
        wanted = plain.language_model.base_model(**packed(lengths), use_cache=False).last_hidden_state
        torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-4)
        counts.append(counter.frame_count)
    assert counts == ([1, 2, 2, 2] if way == "varlen" else [1, 2, 3, 4])
