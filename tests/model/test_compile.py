"""torch.compile sees the language model's blocks whole: packed rows make no graph break. Without a compiler."""

import pytest
import torch
from model.test_modeling import tiny_model
from torch._dynamo.testing import CompileCounter

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
