"""The loss head against the plain one: values, gradients, memory, and heads that may only be called as modules."""

import copy
import sys
import types

import pytest
import torch
from torch import nn

from sicog.model.kernels import loss_head
from sicog.model.kernels.loss_head import causal_loss, document_log_probs

B, T, E, V = 3, 11, 16, 57


def inputs(dtype=torch.float64, *, supervised=0.4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(B, T, E, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(V, (B, T), generator=generator)
    return hidden, labels.masked_fill(torch.rand(B, T, generator=generator) >= supervised, -100)


def head_of(dtype=torch.float64):
    torch.manual_seed(1)
    return nn.Linear(E, V, bias=False, dtype=dtype)


class Called(nn.Linear):
    """Not an ordinary head, as one that an adapter has wrapped."""


def called_head(dtype=torch.float64):
    torch.manual_seed(1)
    return Called(E, V, bias=False, dtype=dtype)


def run(head, hidden, labels, kind, num_items=None):
    """(loss, gradient of hidden, gradient of the weight)."""
    head = copy.deepcopy(head)
    hidden = hidden.clone().requires_grad_()
    loss = causal_loss(head, hidden, labels, num_items, kind)
    loss.backward()
    return loss.detach(), hidden.grad, head.weight.grad


@pytest.fixture(params=[head_of, called_head], ids=["fused", "called"])
def make_head(request):
    return request.param


@pytest.fixture(params=[1, 4, 1000])
def rows(request, monkeypatch):
    """Positions of a chunk."""
    monkeypatch.setattr(loss_head, "_CHUNK_BYTES_CPU", request.param * 4 * V)
    return request.param


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-9), (torch.float32, 1e-6)])
@pytest.mark.parametrize("num_items", [None, 7])
def test_equals_the_plain_head(make_head, rows, dtype, limit, num_items):
    hidden, labels = inputs(dtype)
    plain = run(make_head(dtype), hidden, labels, "plain", num_items)
    ours = run(make_head(dtype), hidden, labels, "auto", num_items)
    want = nn.functional.cross_entropy(
        make_head(dtype)(hidden[:, :-1]).flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
    ) / (num_items or (labels[:, 1:] != -100).sum())
    torch.testing.assert_close(plain[0], want.detach(), atol=limit, rtol=limit)
    for a, b in zip(plain, ours, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, atol=limit, rtol=limit)


@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16(make_head, rows, autocast):
    """As near to the exact gradients as the plain head is, and nearer than one rounding of its own sum."""
    dtype = torch.float32 if autocast else torch.bfloat16
    hidden, labels = inputs(dtype)
    exact = run(make_head(dtype).double(), hidden.double(), labels, "plain")
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        plain, ours = (run(make_head(dtype), hidden, labels, kind) for kind in ("plain", "auto"))
    assert ours[0].dtype == torch.float32
    for right, theirs, mine in zip(exact, plain, ours, strict=True):
        assert mine.dtype == theirs.dtype
        error = (mine - right).abs().max()
        assert error <= 1.5 * (theirs - right).abs().max() + 2**-8 * right.abs().max()


def test_frozen_head_or_frozen_hidden(make_head, rows):
    hidden, labels = inputs()
    want = run(make_head(), hidden, labels, "plain")
    frozen = make_head().requires_grad_(False)
    loss, d_hidden, d_weight = run(frozen, hidden, labels, "auto")
    torch.testing.assert_close((loss, d_hidden), want[:2])
    assert d_weight is None
    head = make_head()
    causal_loss(head, hidden, labels).backward()
    torch.testing.assert_close(head.weight.grad, want[2])
    with torch.no_grad():
        torch.testing.assert_close(causal_loss(head, hidden, labels), want[0])
    assert not causal_loss(frozen, hidden, labels).requires_grad


def test_no_supervised_position(make_head):
    hidden, labels = inputs(supervised=0.0)
    loss, d_hidden, d_weight = run(make_head(), hidden, labels, "auto", num_items=5)
    assert loss == 0 and not d_hidden.any() and not d_weight.any()  # there, and zero: every rank has all gradients


@pytest.mark.parametrize("kind", ["plain", "auto"])
def test_no_supervised_position_has_a_mean_of_zero(make_head, kind):
    hidden, labels = inputs(supervised=0.0)
    loss, d_hidden, d_weight = run(make_head(), hidden, labels, kind)
    assert loss == 0 and not d_hidden.any() and not d_weight.any()


@pytest.mark.parametrize("num_items", [513, 1027])  # 1 / n lies far from any bfloat16
def test_gradients_in_bfloat16_are_not_all_too_large_or_small(make_head, num_items):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, 600, 64, generator=generator).bfloat16()
    labels = torch.randint(300, (1, 600), generator=generator)
    head = type(make_head())(64, 300, bias=False, dtype=torch.bfloat16)
    exact = run(head.float(), hidden.float(), labels, "plain", num_items)
    ours = run(head.bfloat16(), hidden, labels, "auto", torch.tensor(num_items))
    for e, g in zip(exact[1:], ours[1:], strict=True):
        e, g = e.double().flatten(), g.double().flatten()
        assert abs(float(g @ e / (e @ e)) - 1) < 5e-4


@pytest.mark.parametrize("factor", [1 / 513, 1 / 1027, 1.3])
def test_a_factor_on_the_loss_is_not_rounded(factor):
    hidden, labels = inputs(torch.bfloat16)
    (d_plain, d_scaled) = (hidden.clone().requires_grad_() for _ in range(2))
    causal_loss(head_of(torch.bfloat16), d_plain, labels).backward()
    (causal_loss(head_of(torch.bfloat16), d_scaled, labels) * factor).backward()
    assert torch.equal(d_scaled.grad, (d_plain.grad.float() * factor).bfloat16())


def test_the_gradients_are_scaled_in_place_and_serve_once():
    hidden, labels = inputs()
    loss = causal_loss(head_of(), hidden.requires_grad_(), labels)
    (2 * loss).backward(retain_graph=True)
    found = hidden.grad.clone()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    plain = hidden.detach().clone().requires_grad_()
    causal_loss(head_of(), plain, labels, kind="plain").backward()
    torch.testing.assert_close(found, 2 * plain.grad, atol=1e-9, rtol=1e-9)


def test_tied_embeddings():
    """The head's weight is the embedding table: the gradients of both uses are summed."""
    _, labels = inputs()
    ids = labels.clamp(min=0)
    grads = []
    for kind in ("plain", "auto"):
        table = nn.Embedding(V, E, dtype=torch.float64, _weight=head_of().weight.detach().clone())
        head = nn.Linear(E, V, bias=False, dtype=torch.float64)
        head.weight = table.weight
        causal_loss(head, table(ids).tanh(), labels, kind=kind).backward()
        grads.append(table.weight.grad)
    torch.testing.assert_close(*grads, atol=1e-9, rtol=1e-9)


def test_full_logits_never_exist(make_head, monkeypatch):
    """The largest tensor that is made stays below a chunk, in the forward and in the backward pass."""
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            largest.extend(
                x.numel() for x in (out if isinstance(out, tuple) else (out,)) if isinstance(x, torch.Tensor)
            )
            return out

    monkeypatch.setattr(loss_head, "_CHUNK_BYTES_CPU", 16 * 4 * 40 * E)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, 401, E, generator=generator, requires_grad=True)
    labels = torch.randint(40 * E, (1, 401), generator=generator)
    head = type(make_head())(E, 40 * E, bias=False)
    with Watch():
        causal_loss(head, hidden, labels).backward()
    assert max(largest) <= (100 if isinstance(head, Called) else 16) * 40 * E


def test_calls_do_not_depend_on_the_labels():
    """Ranks of a sharded run gather the head's weight together: each must call it equally often."""
    counts = set()
    for share in (0.0, 0.1, 1.0):
        hidden, labels = inputs(supervised=share)
        head, calls = called_head(), []
        head.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        causal_loss(head, hidden.requires_grad_(), labels, 3).backward()
        counts.add(len(calls))
    assert counts == {2 * loss_head._CALLS}


def test_what_makes_a_head_extraordinary():
    assert loss_head._is_ordinary(head_of())
    assert not loss_head._is_ordinary(called_head())
    assert not loss_head._is_ordinary(nn.Linear(E, V))  # a bias
    hooked, sharded, offloaded = head_of(), head_of(), head_of()
    hooked.register_forward_pre_hook(lambda *_: None)
    sharded.weight.ds_id = 0
    offloaded.forward = offloaded.forward
    assert not any(map(loss_head._is_ordinary, (hooked, sharded, offloaded)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_liger_sums_the_weights_gradient_in_float32(dtype, monkeypatch):
    """By default it sums in the weight's own type. The kernel itself needs CUDA; a stand-in sees what it is told."""
    told = {}

    class Loss:
        def __init__(self, **options):
            told.update(options)

        def __call__(self, weight, hidden, targets):
            return nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="sum")

    monkeypatch.setitem(sys.modules, "liger_kernel", types.ModuleType("liger_kernel"))
    stand_in = types.SimpleNamespace(LigerFusedLinearCrossEntropyLoss=Loss)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", stand_in)
    hidden, labels = inputs(dtype)
    loss_head._liger(head_of(dtype), hidden[0], labels[0].clamp(min=0), 3)
    assert told == {"ignore_index": -100, "reduction": "sum", "accum_dtype": torch.float32}


@pytest.mark.parametrize(
    ("n_targets", "vocabulary", "width", "rows"),
    [(2000, 152_064, 3584, 64), (20_000, 152_064, 3584, 512), (2000, 4096, 4096, 2048), (1, 4096, 512, 1)],
)
def test_rows_of_ligers_chunks(n_targets, vocabulary, width, rows):
    """Its own rule (0.8.5): ceil(vocabulary / width) chunks, of the next power of two."""
    assert loss_head.liger_rows(n_targets, vocabulary, width) == rows


def test_auto_leaves_small_chunks_to_ours(monkeypatch):
    monkeypatch.setattr(loss_head.importlib.util, "find_spec", lambda _: True)
    hidden = types.SimpleNamespace(is_cuda=True)
    with torch.device("meta"):
        of_qwen2, of_small = nn.Linear(3584, 152_064, bias=False), nn.Linear(4096, 4096, bias=False)
    chosen = loss_head._loss_function
    assert chosen("auto", of_qwen2, hidden, 2000) is loss_head._fused_loss
    assert chosen("auto", of_qwen2, hidden, 20_000) is loss_head._liger
    assert chosen("auto", of_small, hidden, 2000) is loss_head._liger
    assert chosen("liger", of_qwen2, hidden, 2000) is loss_head._liger
    assert chosen("chunked", of_small, hidden, 2000) is loss_head._fused_loss


def test_liger_is_refused_on_a_cpu():
    hidden, labels = inputs()
    with pytest.raises(ValueError, match="needs a CUDA device"):
        causal_loss(head_of(), hidden, labels, kind="liger")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["chunked", "liger"])
def test_on_a_gpu(kind):
    if kind == "liger":
        pytest.importorskip("liger_kernel")
    hidden, labels = (x.cuda() for x in inputs(torch.float32))
    plain = run(head_of(torch.float32).cuda(), hidden, labels, "plain")
    ours = run(head_of(torch.float32).cuda(), hidden, labels, kind)
    torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-3)


def log_probs(head, hidden, labels, kind, factors):
    """(log-probabilities of the rows, gradient of hidden, gradient of the weight) for a gradient of `factors`."""
    head = copy.deepcopy(head)
    hidden = hidden.clone().requires_grad_()
    values = document_log_probs(head, hidden, labels, kind=kind)
    values.backward(factors.to(values.dtype))
    return values.detach(), hidden.grad, head.weight.grad


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_log_probs_of_documents_and_their_gradients(make_head, rows, dtype, limit):
    hidden, labels = inputs(dtype)
    labels[1] = -100  # a document without a supervised token
    factors = torch.tensor([0.3, 5.0, -2.0])
    plain, ours = (log_probs(make_head(dtype), hidden, labels, kind, factors) for kind in ("plain", "auto"))
    all_BTV = make_head(dtype)(hidden).log_softmax(dim=-1)
    want = [sum(all_BTV[b, t, labels[b, t + 1]] for t in range(T - 1) if labels[b, t + 1] != -100) for b in range(B)]
    assert want[1] == 0 and plain[0].shape == (B,)
    torch.testing.assert_close(ours[0], torch.stack([torch.as_tensor(w, dtype=dtype) for w in want]).detach())
    for a, b in zip(plain, ours, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, atol=limit, rtol=limit)


def test_log_probs_under_bfloat16_are_float32(make_head, rows):
    hidden, labels = inputs(torch.float32)
    factors = torch.tensor([0.3, 1.0, -2.0])
    exact = log_probs(make_head(torch.float64), hidden.double(), labels, "plain", factors)
    with torch.autocast("cpu", torch.bfloat16):
        plain, ours = (log_probs(make_head(torch.float32), hidden, labels, kind, factors) for kind in ("plain", "auto"))
    assert ours[0].dtype == torch.float32
    for right, theirs, mine in zip(exact, plain, ours, strict=True):
        assert mine.dtype == theirs.dtype
        error = (mine - right).abs().max()
        assert error <= 1.5 * (theirs - right).abs().max() + 2**-8 * right.abs().max()


def test_logits_of_log_probs_never_lie_in_memory_as_a_whole(monkeypatch):
    monkeypatch.setattr(loss_head, "_CHUNK_BYTES_CPU", 2 * 4 * V)
    hidden, labels = inputs(torch.float32, supervised=1.0)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        document_log_probs(head_of(torch.float32), hidden.requires_grad_(), labels).sum()
    assert max(saved) < B * (T - 1) * V


def test_log_probs_of_packed_documents_are_those_of_rows(make_head, rows):
    hidden, labels = inputs()
    labels[:, 0] = -100  # as in every packed document
    ends = (4, 11, 9)  # documents of different lengths
    packed_hidden = torch.cat([hidden[b, :end] for b, end in enumerate(ends)])[None]
    packed_labels = torch.cat([labels[b, :end] for b, end in enumerate(ends)])[None]
    for b, end in enumerate(ends):
        labels[b, end:] = -100
    of_rows = document_log_probs(make_head(), hidden, labels)
    borders = torch.tensor([0, 4, 15, 24], dtype=torch.int32)
    torch.testing.assert_close(document_log_probs(make_head(), packed_hidden, packed_labels, borders), of_rows)
