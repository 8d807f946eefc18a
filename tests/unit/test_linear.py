"""Linear layers by oneDNN are those of torch, forward and backward, at sizes on both sides of the rule."""

import random

import pytest
import torch
from torch.nn import functional as F

from transformer_architectures.kernels import linear as module
from transformer_architectures.kernels.linear import Linear, linear, product, transposed_product

SIZES = [(1, 3, 5), (64, 256, 512), (300, 512, 64), (257, 131, 517)]


@pytest.mark.parametrize("rows, inner, columns", SIZES)
@pytest.mark.parametrize("with_bias", [True, False])
def test_values_and_gradients_are_true_fp32(seed: int, rows: int, inner: int, columns: int, with_bias: bool) -> None:
    """Compared with fp64: an error of bf16's or tf32's size would be a hundred times the tolerance."""
    tensors = [torch.randn(2, rows, inner), torch.randn(columns, inner)] + ([torch.randn(columns)] if with_bias else [])
    weights = torch.randn(2, rows, columns)
    found = []
    for dtype, function in ((torch.float32, linear), (torch.float64, F.linear)):
        inputs = [tensor.detach().to(dtype).requires_grad_() for tensor in tensors]
        output = function(*inputs)  # type: ignore[operator]
        (output * weights.to(dtype)).sum().backward()
        found.append([output.detach(), *(tensor.grad for tensor in inputs)])
    for ours, exact in zip(*found, strict=True):
        assert ours is not None and exact is not None and ours.is_contiguous()
        torch.testing.assert_close(ours.double(), exact, rtol=0, atol=3e-6 * float(exact.abs().max()))


def test_the_rule_is_used(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if not module._HAS_ONEDNN:
        pytest.skip("no AVX-512 here")
    used = []
    monkeypatch.setattr(module, "_onednn", lambda *tensors: used.append(1) or F.linear(*tensors))
    layer = Linear(256, 512)
    for inputs, expected in (
        (torch.randn(64, 256), 1),
        (torch.randn(1, 256), 0),
        (torch.randn(2, 32, 256), 1),
    ):
        used.clear()
        with torch.no_grad():
            layer(inputs)
        assert len(used) == expected
    used.clear()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(64, 256)).dtype == torch.bfloat16
    assert linear(torch.randn(64, 256).double(), torch.randn(512, 256).double()).dtype == torch.float64
    assert not used


@pytest.mark.parametrize("inputs_dtype", [torch.float32, torch.bfloat16])
def test_bf16_without_gradient(seed: int, inputs_dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under autocast and without it as `F.linear` does it, but by oneDNN's operator where there is one; what it refuses is refused."""
    used, onednn = [], module._onednn
    monkeypatch.setattr(module, "_onednn", lambda *tensors: used.append(1) or onednn(*tensors))
    layer, inputs = Linear(256, 512), torch.randn(64, 256).to(inputs_dtype)
    with torch.no_grad():
        exact = F.linear(inputs.double(), layer.weight.double(), layer.bias.double())
        with torch.autocast("cpu", torch.bfloat16):
            found = [layer(inputs)]
            assert linear(inputs.double(), layer.weight.double()).dtype == torch.float64
        if inputs_dtype == torch.bfloat16:
            with pytest.raises(RuntimeError, match="dtype"):
                layer(inputs)
            found.append(layer.to(torch.bfloat16)(inputs))
    assert len(used) == (len(found) if module._HAS_ONEDNN else 0)
    for output in found:
        assert output.dtype == torch.bfloat16
        torch.testing.assert_close(output.double(), exact, rtol=0.02, atol=0.02)


def test_only_what_is_asked_for_is_computed(seed: int) -> None:
    layer = Linear(256, 512)
    layer.weight.requires_grad_(False)
    inputs = torch.randn(64, 256, requires_grad=True)
    layer(inputs).sum().backward()
    assert layer.weight.grad is None and inputs.grad is not None and layer.bias.grad is not None


def test_products(seed: int) -> None:
    rows, inner, columns = random.choice([(600, 40, 200), (40, 600, 200), (5, 5, 5)])
    left, right = torch.randn(rows, inner), torch.randn(columns, inner)
    torch.testing.assert_close(product(left, right), left @ right.t(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(transposed_product(left.t(), right.t()), left @ right.t(), rtol=1e-4, atol=1e-4)
