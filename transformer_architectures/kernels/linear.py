"""Linear layers. On CPUs with AVX-512 their fp32 products go to oneDNN.

torch sends fp32 products to MKL, which on AMD processors computes with AVX2: 200 GFLOP/s on two cores of Zen 5, where oneDNN reaches
450 in the same true fp32. On Zen 4 oneDNN is up to a fifth faster for most products, and slower for small ones and for weight
gradients of narrow layers (`benchmarks/results/matrix_products.md`, `matrix_products_zen5.md`): there it hardly matters. Both libraries come with torch; it has no setting for
this, but the operator that its compiler uses. Where that operator is missing, and for all other types and devices, this is
`torch.nn.functional.linear`.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

# Multiplications below which oneDNN's preparations cost more than it gains, and the same for rows.
MIN_MULTIPLICATIONS, MIN_ROWS = 2**21, 32

_HAS_ONEDNN = (
    torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


class Linear(nn.Linear):
    """`torch.nn.Linear`."""

    def forward(self, inputs: Float[Tensor, "*batch in_features"]) -> Float[Tensor, "*batch out_features"]:
        """``inputs @ weightᵀ + bias``."""
        return linear(inputs, self.weight, self.bias)


def linear(
    inputs: Float[Tensor, "*batch in_features"],
    weight: Float[Tensor, "out_features in_features"],
    bias: Float[Tensor, "out_features"] | None = None,
) -> Float[Tensor, "*batch out_features"]:
    """``inputs @ weightᵀ + bias``."""
    if torch.compiler.is_compiling() or not prefers_onednn(inputs, weight):
        return F.linear(inputs, weight, bias)
    parts = [inputs, weight] if bias is None else [inputs, weight, bias]
    needs_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in parts)
    dtype = product_dtype(inputs, weight)
    if dtype == torch.float32 and needs_gradient:
        return _LinearByOneDNN.apply(inputs, weight, bias)
    if dtype is None or needs_gradient:
        # In bf16 torch takes oneDNN itself, but adds the bias in a pass of its own: only without gradients that costs something.
        return F.linear(inputs, weight, bias)
    return _onednn(*(tensor.to(dtype) for tensor in parts))


def count_product_weights(module: nn.Module) -> int:
    """Weights of all linear layers in a module: what each of its positions is multiplied by, biases not counted."""
    return sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Linear))


def product(left: Float[Tensor, "rows inner"], right: Float[Tensor, "columns inner"]) -> Float[Tensor, "rows columns"]:
    """``left @ rightᵀ``, without gradient."""
    is_fp32 = left.dtype == right.dtype == torch.float32
    return _onednn(left, right) if is_fp32 and prefers_onednn(left, right) else left @ right.t()


def product_dtype(left: Tensor, right: Tensor) -> torch.dtype | None:
    """What `torch.nn.functional.linear` computes a product of the two in, if that is fp32 or bf16."""
    known = (torch.float32, torch.bfloat16)
    if left.dtype not in known or right.dtype not in known:
        return None  # autocast leaves fp64 alone
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        return dtype if dtype in known else None
    return left.dtype if left.dtype == right.dtype else None


def prefers_onednn(left: Tensor, right: Tensor) -> bool:
    """Whether the product of ``left`` and the transpose of ``right`` is one for oneDNN: a fixed rule of device and size."""
    num_rows = left.numel() // max(1, left.shape[-1])
    return (
        _HAS_ONEDNN
        and left.device.type == "cpu"
        and min(num_rows, right.shape[0]) >= MIN_ROWS
        and num_rows * right.numel() >= MIN_MULTIPLICATIONS
    )


def _onednn(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")


class _LinearByOneDNN(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return _onednn(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        inputs, weight = ctx.saved_tensors
        needs_inputs, needs_weight, needs_bias = ctx.needs_input_grad
        grad = grad_output.flatten(0, -2)
        grad_inputs = product(grad, weight.t()).view(inputs.shape) if needs_inputs else None
        grad_weight = transposed_product(grad, inputs.flatten(0, -2)) if needs_weight else None
        return grad_inputs, grad_weight, grad.sum(dim=0) if needs_bias else None


def transposed_product(
    left: Float[Tensor, "inner rows"], right: Float[Tensor, "inner columns"]
) -> Float[Tensor, "rows columns"]:
    """``leftᵀ @ right``: a weight's gradient. oneDNN is faster the way round that gives a wide result."""
    if left.shape[1] <= right.shape[1]:
        return product(left.t(), right.t())
    return product(right.t(), left.t()).t().contiguous()
