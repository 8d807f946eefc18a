"""The fused output layer and loss against torch's plain ones, and dropout."""

import random

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from transformer_architectures.kernels import cross_entropy
from transformer_architectures.kernels.cross_entropy import linear_cross_entropy
from transformer_architectures.kernels.dropout import Dropout, dropout

Inputs = tuple[Tensor, Tensor, Tensor | None, Tensor]


def draw(rows: int, width: int, vocab: int, bias: bool = True, dtype: torch.dtype = torch.float64) -> Inputs:
    def parameter(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype, requires_grad=True)

    labels = torch.randint(vocab, (rows,))
    return parameter(rows, width), parameter(vocab, width), parameter(vocab) if bias else None, labels


def plain(states: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, smoothing: float) -> Tensor:
    return F.cross_entropy(F.linear(states, weight, bias), labels, reduction="sum", label_smoothing=smoothing)


def gradients(loss: Tensor, inputs: Inputs, retain_graph: bool = False) -> list[Tensor]:
    wanted = [tensor for tensor in inputs[:3] if tensor is not None]
    return list(torch.autograd.grad(loss, wanted, retain_graph=retain_graph))


def small_chunks(monkeypatch: pytest.MonkeyPatch, rows: int, vocab: int) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", {"cpu": rows * vocab})
    monkeypatch.setattr(cross_entropy, "ROW_MULTIPLE", 1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows_per_chunk", [None, 1, 7, 50])
def test_values_and_gradients_are_those_of_torch(
    seed: int, monkeypatch: pytest.MonkeyPatch, smoothing: float, bias: bool, rows_per_chunk: int | None
) -> None:
    rows, vocab = 50, random.randint(2, 40)
    if rows_per_chunk is not None:
        small_chunks(monkeypatch, rows_per_chunk, vocab)
    inputs = draw(rows, 8, vocab, bias)
    fused, expected = linear_cross_entropy(*inputs, smoothing), plain(*inputs, smoothing)
    assert fused.dtype == torch.float64 and fused.shape == ()
    torch.testing.assert_close(fused, expected, rtol=1e-12, atol=1e-12)
    for one, other in zip(gradients(3 * fused, inputs), gradients(3 * expected, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


def test_numeric_gradients(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch, 2, 5)
    inputs = draw(5, 3, 5)
    assert torch.autograd.gradcheck(lambda *parts: linear_cross_entropy(*parts, inputs[3], 0.2), inputs[:3])


def test_large_logits_do_not_overflow(seed: int) -> None:
    states, weight, bias, labels = draw(20, 8, 30, dtype=torch.float32)
    with torch.no_grad():
        states *= 1e4
    inputs: Inputs = (states, weight, bias, labels)
    fused, expected = linear_cross_entropy(*inputs, 0.1), plain(*inputs, 0.1)
    assert bool(torch.isfinite(fused))
    torch.testing.assert_close(fused, expected, rtol=1e-4, atol=0.0)


def test_a_second_backward_gives_the_same_gradients(seed: int) -> None:
    inputs = draw(12, 4, 9)
    loss = linear_cross_entropy(*inputs, 0.1)
    first = gradients(loss, inputs, retain_graph=True)
    doubled = gradients(2 * loss, inputs, retain_graph=True)
    for one, two, again in zip(first, doubled, gradients(loss, inputs), strict=True):
        assert torch.equal(one, again) and torch.equal(2 * one, two)


def test_without_gradients_none_are_made(seed: int) -> None:
    inputs = draw(12, 4, 9)
    with torch.no_grad():
        loss = linear_cross_entropy(*inputs, 0.1)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, plain(*inputs, 0.1).detach())


def test_a_part_may_need_no_gradient(seed: int) -> None:
    states, weight, bias, labels = draw(12, 4, 9)
    frozen: Inputs = (states.detach(), weight, bias, labels)
    for inputs, wanted in ((frozen, weight), ((states, weight.detach(), bias, labels), states)):
        losses = (linear_cross_entropy(*inputs, 0.1), plain(*inputs, 0.1))
        one, other = (torch.autograd.grad(loss, wanted)[0] for loss in losses)
        torch.testing.assert_close(one, other)


def test_no_labels_cost_nothing(seed: int) -> None:
    inputs = draw(0, 4, 9)
    loss = linear_cross_entropy(*inputs, 0.1)
    assert float(loss.detach()) == 0.0
    assert all(float(gradient.abs().sum()) == 0.0 for gradient in gradients(loss, inputs))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_bf16_autocast_stays_near(seed: int, monkeypatch: pytest.MonkeyPatch, smoothing: float) -> None:
    """Products in bf16 (8 bits of mantissa); loss, softmax and sums over chunks in fp32."""
    small_chunks(monkeypatch, 64, 100)
    inputs = draw(300, 32, 100, dtype=torch.float32)
    with torch.no_grad():
        inputs[0].mul_(0.3)
    expected = plain(*inputs, smoothing)
    with torch.autocast("cpu", torch.bfloat16):
        fused = linear_cross_entropy(*inputs, smoothing)
    assert fused.dtype == torch.float32
    torch.testing.assert_close(fused, expected, rtol=3e-3, atol=0.0)
    for one, other in zip(gradients(fused, inputs), gradients(expected, inputs), strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).norm() / other.norm()) < 0.02


def test_no_logits_are_kept(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the size tokens × vocabulary is saved for the backward pass."""
    rows, vocab = 400, 500
    small_chunks(monkeypatch, 20, vocab)
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    inputs = draw(rows, 4, vocab)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        linear_cross_entropy(*inputs, 0.1)
    assert sizes and max(sizes) <= vocab * 4


# -------------------------------------------------------------------- dropout
@pytest.mark.parametrize("p", [0.1, 0.25, 0.9])
def test_dropout_keeps_the_mean(seed: int, p: float) -> None:
    size = 400_000
    output = dropout(torch.ones(size), p)
    zeros = float((output == 0).double().mean())
    deviation = (p * (1 - p) / size) ** 0.5
    assert abs(zeros - p) < 6 * deviation
    assert abs(float(output.double().mean()) - 1) < 6 * deviation / (1 - p)
    kept = output[output != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - p)), rtol=1e-3, atol=0.0)


def test_dropout_draws_each_element_for_itself(seed: int) -> None:
    """Four elements share one random number of 64 bits: their fates must not."""
    dropped = (dropout(torch.ones(100_000, 4), 0.5) == 0).double()
    correlation = torch.corrcoef(dropped.t()) - torch.eye(4, dtype=torch.float64)
    assert float(correlation.abs().max()) < 6 / 100_000**0.5
    rows = dropped.flatten()
    assert abs(float(torch.corrcoef(torch.stack([rows[:-4], rows[4:]]))[0, 1])) < 6 / 400_000**0.5


def test_the_gradient_is_dropped_where_the_output_was(seed: int) -> None:
    inputs = torch.randn(33, 17, dtype=torch.float64, requires_grad=True)
    output = dropout(inputs, 0.3)
    upstream = torch.randn_like(output)
    (gradient,) = torch.autograd.grad(output, inputs, upstream)
    factor = (output / inputs).detach()
    torch.testing.assert_close(gradient, upstream * factor)
    assert 0 < int((gradient == 0).sum()) < gradient.numel()


def test_dropout_is_off_in_eval_and_at_zero(seed: int) -> None:
    inputs = torch.randn(50, 3)
    layer = Dropout(0.5)
    assert not torch.equal(layer(inputs), inputs)
    state = torch.get_rng_state()
    assert torch.equal(layer.eval()(inputs), inputs)
    assert torch.equal(Dropout(0.0)(inputs), inputs)
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_is_a_function_of_torchs_generator(seed: int) -> None:
    for size in (1, 3, 4, 1001):
        inputs = torch.randn(size)
        torch.manual_seed(seed)
        first, then = dropout(inputs, 0.5), dropout(inputs, 0.5)
        torch.manual_seed(seed)
        assert torch.equal(dropout(inputs, 0.5), first) and torch.equal(dropout(inputs, 0.5), then)
        if size == 1001:
            assert not torch.equal(first, then)


def test_dropout_under_autocast_keeps_the_type(seed: int) -> None:
    inputs = torch.randn(20, 20, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        output = dropout(inputs, 0.2)
    assert output.dtype == torch.bfloat16
    output.sum().backward()
    assert inputs.grad is not None and inputs.grad.dtype == torch.bfloat16
