"""slots.py: sequences of any lengths share buffers; each sees its own positions only, and none ever moves."""

import pytest
import torch

from sicog.generation.decoding import run_tokens
from sicog.generation.slots import SlotCache
from sicog.model.checkpoints import load_checkpoint

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tiny_dir):
    return load_checkpoint(tiny_dir)[0]


def filled(n_rows, columns, lengths, value=0.0):
    """A cache of two layers whose row b, column c holds 100 b + c + value."""
    cache = SlotCache(n_rows, columns, CPU)
    numbers = 100 * torch.arange(n_rows)[:, None] + torch.arange(columns) + value
    states = numbers[:, None, :, None].expand(-1, 3, -1, 2).contiguous()
    for layer in range(2):
        cache.update(states, -states, layer)
    cache.lengths = torch.tensor(lengths)
    return cache


def row(cache, place, n, layer=1):
    keys, values = cache.buffers[layer]
    assert torch.equal(keys[place, :n], -values[place, :n])
    assert (keys[place, :n] == keys[place, :n, :1, :1]).all()
    return keys[place, :n, 0, 0].tolist()


def test_new_positions_are_written_behind_what_a_slot_holds():
    cache = filled(3, 4, [2, 0, 3])
    cache.grow(5)
    cache.width = 5
    new = torch.tensor([7.0, 8.0, 9.0])[:, None, None, None].expand(-1, 3, 1, 2)
    keys, _ = cache.update(new, -new, 1)
    assert keys.shape == (3, 3, 5, 2) and cache.columns >= 5
    assert row(cache, 0, 4) == [0, 1, 7, 3] and row(cache, 1, 2) == [8, 101] and row(cache, 2, 4) == [200, 201, 202, 9]
    assert cache.lengths.tolist() == [2, 0, 3]


def test_what_a_position_sees():
    cache = filled(2, 6, [3, 0])
    assert cache.visible(2).int().tolist() == [
        [[[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]]],
        [[[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]]],
    ]
    cache.width = 4
    assert cache.visible(1).int().tolist() == [[[[1, 1, 1, 1]]], [[[1, 0, 0, 0]]]]


def test_rows_are_copied_to_their_slots_and_the_others_stay():
    source, cache = filled(2, 3, [3, 1], value=0.5), SlotCache(4, 6, CPU)
    cache.write_rows(torch.tensor([3, 1, 0]), source, torch.tensor([1, 0, 1]))
    assert row(cache, 3, 1) == row(cache, 0, 1) == [100.5] and row(cache, 1, 3) == [0.5, 1.5, 2.5]
    assert row(cache, 2, 6) == [0] * 6 and cache.lengths.tolist() == [1, 3, 0, 1]
    cache.write_rows(torch.tensor([1]), source, torch.tensor([1]))
    assert row(cache, 1, 1) == [100.5] and row(cache, 3, 1) == [100.5] and cache.lengths.tolist() == [1, 1, 0, 1]
    again = cache.with_rows([3, 3, 1], 2)
    assert again.n_rows == 3 and again.columns == 2 and [row(again, i, 1) for i in range(3)] == [[100.5]] * 3


def test_growing_keeps_all_and_two_whole_caches_never_coexist(monkeypatch):
    cache = filled(2, 3, [3, 2])
    before = [row(cache, place, 3, layer) for place in range(2) for layer in range(2)]
    alive, new_zeros = [], torch.Tensor.new_zeros

    def counted(self, *size):
        alive.append(sum(x.shape[1] == 3 for buffers in cache.buffers for x in buffers))
        return new_zeros(self, *size)

    monkeypatch.setattr(torch.Tensor, "new_zeros", counted)
    cache.grow(3)
    assert not alive
    cache.grow(4)
    assert alive == [4, 3, 2, 1] and cache.columns > 4
    assert [row(cache, place, 3, layer) for place in range(2) for layer in range(2)] == before


def test_unused_columns_are_finite():
    """Masked or not, a NaN would spread."""
    cache = filled(2, 3, [3, 2])
    cache.grow(100)
    assert all(x.isfinite().all() for buffers in cache.buffers for x in buffers)


@torch.no_grad()
def test_prompts_of_any_lengths_run_together_as_alone(model):
    rows = [[5, 9, 2, 11, 4], [7], [3, 3, 8]]
    together = run_tokens(model, rows, pad_id=0)
    assert together.lengths == (5, 1, 3) and together.cache.lengths.tolist() == [5, 1, 3]
    for i, ids in enumerate(rows):
        alone = model(input_ids=torch.tensor([ids])).logits[0, -1]
        torch.testing.assert_close(together.logits[i], alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_tails_of_any_lengths_follow_prefixes_of_any_lengths(model):
    heads, tails = [[5, 9, 2], [7, 1, 1, 6, 10]], [[4], [3, 3, 8, 2]]
    prefix = run_tokens(model, heads, pad_id=0)
    whole = run_tokens(model, tails, pad_id=0, past=prefix)
    assert whole.lengths == (4, 9)
    for i, (head, tail) in enumerate(zip(heads, tails, strict=True)):
        alone = model(input_ids=torch.tensor([head + tail])).logits[0, -1]
        torch.testing.assert_close(whole.logits[i], alone, rtol=1e-4, atol=1e-5)
