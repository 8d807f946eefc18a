"""Every attention backend against plain mathematics in double precision, gradients included."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from transformer_architectures.attention import AdditiveAttention, ScaledDotProductAttention
from transformer_architectures.masking import AttentionMask

BATCH, HEADS, QUERIES, KEYS, HEAD_DIM = 3, 2, 5, 7, 4


def masks() -> dict[str, object]:
    padding = torch.ones(BATCH, KEYS, dtype=torch.bool)
    padding[0, 4:] = False
    padding[2] = False  # nothing but padding
    rows = torch.rand(BATCH, HEADS, QUERIES, KEYS) > 0.5
    rows[1, 0, 2] = False  # one query of one head sees nothing
    return {
        "none": None,
        "padding": padding,
        "per query": torch.rand(BATCH, QUERIES, KEYS) > 0.5,
        "per head": rows,
        "causal": AttentionMask(causal=True, first_query=KEYS - QUERIES),
        "causal and padding": AttentionMask.from_any(padding).with_causality(first_query=KEYS - QUERIES),
    }


def reference(scores: Tensor, v: Tensor, mask: object) -> Tensor:
    """Row by row, as one would on paper."""
    allowed = AttentionMask.from_any(mask).render(QUERIES, KEYS, scores.device)  # type: ignore[arg-type]
    allowed = torch.ones(1, dtype=torch.bool) if allowed is None else allowed
    allowed = allowed.expand(BATCH, HEADS, QUERIES, KEYS)
    context = torch.zeros(BATCH, HEADS, QUERIES, v.shape[-1], dtype=scores.dtype)
    rows = []
    for b in range(BATCH):
        for h in range(HEADS):
            for i in range(QUERIES):
                seen = allowed[b, h, i].nonzero().flatten()
                weights = (
                    (scores[b, h, i, seen] - scores[b, h, i, seen].detach().max().item()).exp() if len(seen) else None
                )
                rows.append(context[b, h, i] if weights is None else (weights / weights.sum()) @ v[b, h, seen])
    return torch.stack(rows).view_as(context)


def dot_product_scores(function: ScaledDotProductAttention, q: Tensor, k: Tensor) -> Tensor:
    return torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(HEAD_DIM)


def additive_scores(function: AdditiveAttention, q: Tensor, k: Tensor) -> Tensor:
    return torch.einsum("hd,bhqkd->bhqk", function.score_vector, torch.tanh(q[:, :, :, None] + k[:, :, None]))


FUNCTIONS: dict[str, tuple[Callable[[], torch.nn.Module], Callable[..., Tensor]]] = {
    "math": (lambda: ScaledDotProductAttention(backend="math"), dot_product_scores),
    "sdpa": (lambda: ScaledDotProductAttention(backend="sdpa"), dot_product_scores),
    "auto": (lambda: ScaledDotProductAttention(), dot_product_scores),
    "additive": (lambda: AdditiveAttention(HEADS, HEAD_DIM), additive_scores),
    "additive in chunks": (lambda: AdditiveAttention(HEADS, HEAD_DIM, max_chunk_elements=1), additive_scores),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("mask_name", masks())
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_backend_equals_mathematics(name: str, mask_name: str, dtype: torch.dtype, tolerance: float, seed: int) -> None:
    build, scores = FUNCTIONS[name]
    function = build().to(dtype)
    mask = masks()[mask_name]
    q = torch.randn(BATCH, HEADS, QUERIES, HEAD_DIM, dtype=dtype, requires_grad=True)
    k, v = (torch.randn(BATCH, HEADS, KEYS, HEAD_DIM, dtype=dtype, requires_grad=True) for _ in range(2))
    inputs = [q, k, v, *function.parameters()]
    expected = reference(scores(function, q, k), v, mask)
    context = function(q, k, v, mask)
    torch.testing.assert_close(context, expected, atol=tolerance, rtol=tolerance)
    direction = torch.randn_like(expected)
    actual_gradients = torch.autograd.grad((context * direction).sum(), inputs, allow_unused=True)
    for actual, wanted in zip(
        actual_gradients, torch.autograd.grad((expected * direction).sum(), inputs, allow_unused=True), strict=True
    ):
        assert actual is not None and wanted is not None
        torch.testing.assert_close(actual, wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_query_that_sees_nothing_gives_zero_and_zero_gradient(name: str, seed: int) -> None:
    function = FUNCTIONS[name][0]()
    q = torch.randn(BATCH, HEADS, QUERIES, HEAD_DIM, requires_grad=True)
    k, v = (torch.randn(BATCH, HEADS, KEYS, HEAD_DIM, requires_grad=True) for _ in range(2))
    context = function(q, k, v, masks()["padding"])
    assert torch.count_nonzero(context[2]) == 0
    for gradient in torch.autograd.grad(context.square().sum(), (q, k, v)):
        assert gradient.isfinite().all() and torch.count_nonzero(gradient[2]) == 0


def test_plain_causal_fast_path_equals_the_rendered_mask(seed: int) -> None:
    q, k, v = (torch.randn(2, 2, 6, 4) for _ in range(3))
    function = ScaledDotProductAttention(backend="sdpa")
    lower = torch.ones(6, 6, dtype=torch.bool).tril()[None]
    torch.testing.assert_close(function(q, k, v, AttentionMask(causal=True)), function(q, k, v, lower))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_eval_has_no_dropout(name: str, seed: int) -> None:
    function = FUNCTIONS[name][0]()
    function.dropout = 0.5  # type: ignore[assignment]
    q, k, v = (torch.randn(2, HEADS, 5, HEAD_DIM) for _ in range(3))
    function.eval()
    torch.testing.assert_close(function(q, k, v), function(q, k, v), rtol=0, atol=0)
    function.train()
    assert not torch.equal(function(q, k, v), function(q, k, v))


def test_additive_attention_memory_is_bounded_by_its_chunks(seed: int) -> None:
    queries, keys = 64, 48
    function = AdditiveAttention(1, 8, max_chunk_elements=keys * 8 * 4)
    q, k, v = torch.randn(1, 1, queries, 8), torch.randn(1, 1, keys, 8), torch.randn(1, 1, keys, 8)
    saved: list[int] = []

    def remember(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        function(q.requires_grad_(), k, v).sum().backward()
    # Nothing of size queries x keys x head_dim is kept for the backward pass; chunks of it come and go.
    assert max(saved) <= max(queries * keys, function.max_chunk_elements) < queries * keys * 8
