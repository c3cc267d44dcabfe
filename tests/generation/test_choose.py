"""Choosing tokens: greedy, nucleus, top-k and penalty do what they say, row by row."""

import pytest
import torch

from sicog.generation.choose import has_fixed_shapes, next_tokens
from sicog.generation.sampling import SamplingConfig, uniforms
from sicog.seeds import stream_key


def _draws(probs, n=4000, **values):
    logits = torch.tensor(probs).log().expand(n, -1)
    noise = torch.from_numpy(uniforms(0, "q", "s", 0, n))
    tokens = next_tokens(logits, noise, SamplingConfig(temperature=1.0, **values), None)
    return torch.bincount(tokens, minlength=len(probs)) / n


def test_temperature_zero_is_greedy():
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    assert next_tokens(logits, None, SamplingConfig(temperature=0), None).tolist() == [1, 0]


def test_draws_follow_the_distribution():
    shares = _draws([0.5, 0.0, 0.3, 0.2], top_p=1.0)
    assert shares[1] == 0
    assert torch.allclose(shares, torch.tensor([0.5, 0.0, 0.3, 0.2]), atol=0.03)


def test_nucleus_keeps_the_token_that_crosses_the_limit_and_no_more():
    shares = _draws([0.1, 0.5, 0.15, 0.25], top_p=0.6)
    assert torch.allclose(shares, torch.tensor([0.0, 2 / 3, 0.0, 1 / 3]), atol=0.03)


def test_top_k_then_top_p_as_transformers():
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    torch.manual_seed(0)
    logits = torch.randn(5, 3000)
    for top_k, top_p in ((7, 0.5), (0, 0.3), (0, 0.99), (2000, 0.9), (5000, 0.9)):
        expected = logits
        if top_k:
            expected = TopKLogitsWarper(min(top_k, 3000))(None, expected)
        kept = TopPLogitsWarper(top_p)(None, expected) > -torch.inf
        config = SamplingConfig(temperature=1.0, top_k=top_k, top_p=top_p)
        seen = torch.zeros_like(kept)
        for u in torch.linspace(0, 0.9999, 300):
            seen.scatter_(1, next_tokens(logits, u.expand(5), config, None)[:, None], True)
        assert not (seen & ~kept).any()
        if top_k == 7:
            assert torch.equal(seen, kept)


def test_noise_at_the_upper_end_never_leaves_the_nucleus():
    logits = torch.tensor([[0.9, 0.1, 0.0]]).log()
    noise = torch.tensor([1 - 2.0**-24])
    assert next_tokens(logits, noise, SamplingConfig(temperature=1.0, top_p=1.0), None).tolist() == [1]


def test_penalty_counts_given_tokens_only():
    logits = torch.tensor([[2.0, 1.9, -3.0]])
    seen = torch.tensor([[True, False, False]])
    config = SamplingConfig(temperature=0, repetition_penalty=1.5)
    assert next_tokens(logits, None, config, seen).tolist() == [1]
    assert next_tokens(logits, None, config, torch.zeros_like(seen)).tolist() == [0]


def test_noise_is_keyed_and_a_longer_stream_begins_with_a_shorter():
    a, b = uniforms(1, "id", "cod", 0, 50), uniforms(1, "id", "cod", 0, 10)
    assert (a[:10] == b).all() and (a >= 0).all() and (a < 1).all()
    others = [(2, "id", "cod", 0), (1, "ie", "cod", 0), (1, "id", "dd", 0), (1, "id", "cod", 1)]
    assert all((uniforms(*key, 10) != b).any() for key in others)
    assert stream_key("a", "bc") != stream_key("ab", "c") and stream_key(1) != stream_key("1")


def test_the_stream_stays_what_it_is():
    # Runs of today must be repeatable with the numpy of tomorrow.
    assert uniforms(0, "a", "cod", 0, 3).tolist() == [0.299554705619812, 0.9445773959159851, 0.14272230863571167]


def test_one_row_is_summed_as_one_of_several(monkeypatch):
    """CUDA scans a single row with a kernel that is not reproducible; here only the shapes can be seen."""
    shapes, cumsum = [], torch.Tensor.cumsum
    monkeypatch.setattr(torch.Tensor, "cumsum", lambda x, **options: shapes.append(x.shape) or cumsum(x, **options))
    generator = torch.Generator().manual_seed(5)
    logits, noise = torch.randn(6, 50, generator=generator), torch.rand(6, generator=generator)
    for sampling in (SamplingConfig(top_p=0.8), SamplingConfig(top_k=7), SamplingConfig(top_p=1.0)):
        together = next_tokens(logits, noise, sampling, None)
        alone = [next_tokens(logits[i : i + 1], noise[i : i + 1], sampling, None).item() for i in range(6)]
        assert alone == together.tolist()
    assert shapes and min(shape[0] for shape in shapes) > 1


def _plain(logits, noise, sampling):
    """All tokens in the order of the vocabulary, those that top-k or top-p drop with probability 0."""
    probs = (logits / sampling.temperature).softmax(dim=1)
    kept = probs
    if 0 < sampling.top_k < logits.shape[1]:
        kept = torch.where(probs >= probs.topk(sampling.top_k, dim=1).values[:, -1:], probs, 0.0)
        first = probs.topk(sampling.top_k, dim=1).values
    else:
        first = probs.sort(dim=1, descending=True).values
    limit = sampling.top_p * first.sum(dim=1, keepdim=True)
    n_kept = ((first.cumsum(dim=1) - first) < limit).sum(dim=1, keepdim=True)
    kept = torch.where(kept >= first.gather(1, n_kept - 1), kept, 0.0)
    total = kept.cumsum(dim=1)
    return ((total <= noise[:, None] * total[:, -1:]) & (total < total[:, -1:])).sum(dim=1)


@pytest.mark.parametrize("values", [{"top_k": 20}, {"top_k": 3, "top_p": 0.6}, {"top_p": 0.9}, {"top_p": 0.3}, {}])
@pytest.mark.parametrize("spread", [0.3, 3.0, 12.0])
def test_few_tokens_looked_at_give_what_all_would(values, spread):
    """Flat and peaked distributions; some of rounded logits, of which many are equal."""
    sampling = SamplingConfig(temperature=0.9, **{"top_p": 1.0, **values})
    generator = torch.Generator().manual_seed(0)
    logits = spread * torch.randn(600, 1500, generator=generator)
    logits[::3] = logits[::3].bfloat16().float()
    noise = torch.rand(600, generator=generator)
    found, expected = next_tokens(logits, noise, sampling, None), _plain(logits, noise, sampling)
    assert (found != expected).sum() <= 1  # noise on a border, whose sums are rounded in another order


def test_only_top_p_alone_looks_at_values():
    assert not has_fixed_shapes(SamplingConfig(temperature=0.7, top_p=0.9))
    for values in ({"temperature": 0}, {"top_k": 20}, {"top_p": 1.0}):
        assert has_fixed_shapes(SamplingConfig(**values))
