"""Cross-entropy of a linear output layer, without ever holding all logits.

For a small model the vocabulary is a third of the training step, and most of that is memory traffic: logits, their
softmax and the gradient are each a ``tokens × vocabulary`` tensor. Here a chunk of rows stays in the processor's cache while
logits, loss and gradient are made one after the other; the gradients of a group of chunks go into the matrix products together;
what is kept are gradients of the size of the inputs (the idea of Hsu et al. 2024, "Liger Kernel", section 3.2).
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from transformer_architectures.kernels.linear import product, transposed_product

# Elements of one chunk of logits. CPU: what the second-level caches hold. GPU: large enough to fill the device.
CHUNK_ELEMENTS = {"cpu": 3 * 2**18, "cuda": 2**26}
# Elements of the gradients of logits that wait for one product: each product reads and writes the gradient of the whole matrix.
GROUP_ELEMENTS = {"cpu": 3 * 2**21, "cuda": 2**26}
ROW_MULTIPLE, MIN_GROUP_ROWS = 32, 256  # what products are fast with


def linear_cross_entropy(
    hidden_states: Float[Tensor, "tokens embed_dim"],
    weight: Float[Tensor, "vocab embed_dim"],
    bias: Float[Tensor, "vocab"] | None,
    labels: Int[Tensor, "tokens"],
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Summed cross-entropy of ``hidden_states @ weightᵀ + bias``, in nats, in fp32.

    Equal to ``F.cross_entropy(F.linear(...), labels, reduction="sum", label_smoothing=...)``: the smoothed target is
    ``1 - s`` on the label plus ``s / vocab`` everywhere (Szegedy et al. 2016). Every row must have a label. Under
    autocast the matrix products take its type; the softmax is always in fp32 (or wider).
    """
    inputs = [hidden_states, weight] if bias is None else [hidden_states, weight, bias]
    with_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    return _LinearCrossEntropy.apply(hidden_states, weight, bias, labels, label_smoothing, with_gradient)


def rows_at_once(device: str, vocab_size: int) -> tuple[int, int]:
    """Rows of logits that are computed together, and rows whose gradients wait for one product."""
    chunk_rows = CHUNK_ELEMENTS.get(device, 2**24) // vocab_size // ROW_MULTIPLE * ROW_MULTIPLE or ROW_MULTIPLE
    return chunk_rows, max(MIN_GROUP_ROWS, chunk_rows, GROUP_ELEMENTS.get(device, 2**24) // vocab_size)


class _LinearCrossEntropy(torch.autograd.Function):
    """Computes the gradients in the forward pass, while the logits are at hand; backward only scales them."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        hidden_states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        smoothing: float,
        with_gradient: bool,
    ) -> Tensor:
        device = hidden_states.device.type
        matmul_dtype = weight.dtype
        if torch.is_autocast_enabled(device):
            matmul_dtype = torch.get_autocast_dtype(device)
        loss_dtype = torch.promote_types(weight.dtype, torch.float32)
        vocab_size = weight.shape[0]
        chunk_rows, group_rows = rows_at_once(device, vocab_size)

        with torch.autocast(device, enabled=False):
            states, matrix = hidden_states.to(matmul_dtype), weight.to(matmul_dtype)
            # Rows of zeros, without loss or gradient: oneDNN prepares every shape anew, and the number of labels always differs.
            num_rows, padding = len(states), -len(states) % ROW_MULTIPLE
            if padding:
                states, labels = F.pad(states, (0, 0, 0, padding)), F.pad(labels, (0, padding))
            # Label smoothing needs sums over the vocabulary only: they come from these sums, not from another pass over logits.
            matrix_sum = weight.sum(dim=0, dtype=loss_dtype)
            bias_sum = 0.0 if bias is None else bias.sum(dtype=loss_dtype)
            loss = weight.new_zeros((), dtype=loss_dtype)
            grad_states = torch.empty_like(states) if with_gradient else None
            grad_matrix = torch.zeros_like(weight, dtype=loss_dtype) if with_gradient else None
            grad_bias = torch.zeros_like(bias, dtype=loss_dtype) if with_gradient and bias is not None else None
            waiting = states.new_empty(min(group_rows, len(states)), vocab_size)  # gradients of a group's logits

            for group_start in range(0, len(states), group_rows):
                group = slice(group_start, min(group_start + group_rows, len(states)))
                for start in range(group.start, group.stop, chunk_rows):
                    rows = slice(start, min(start + chunk_rows, group.stop))
                    chunk, targets = states[rows], labels[rows, None]
                    logits = product(chunk, matrix).to(loss_dtype)
                    if bias is not None:
                        logits += bias
                    row_losses, probabilities = _losses_and_probabilities(logits, targets, smoothing)
                    num_real = min(rows.stop, num_rows) - start
                    loss += row_losses[:num_real].sum()
                    if not with_gradient:
                        continue
                    grad_logits = probabilities
                    grad_logits.scatter_add_(1, targets, grad_logits.new_full((1, 1), smoothing - 1).expand_as(targets))
                    grad_logits[num_real:] = 0
                    if grad_bias is not None:
                        grad_bias += grad_logits.sum(dim=0) - smoothing * num_real / vocab_size
                    waiting[start - group.start : rows.stop - group.start] = grad_logits
                if grad_states is None or grad_matrix is None:
                    continue
                grad_group = waiting[: group.stop - group.start]
                grad_states[group] = product(grad_group, matrix.t())
                grad_matrix += transposed_product(grad_group, states[group])

            if smoothing:
                states_sum = states.sum(dim=0, dtype=loss_dtype)
                loss -= smoothing / vocab_size * (states_sum @ matrix_sum + num_rows * bias_sum)
            if grad_states is not None and grad_matrix is not None:
                share = smoothing / vocab_size
                grad_states = grad_states[:num_rows].to(hidden_states.dtype)
                if smoothing:
                    grad_states -= (share * matrix_sum).to(grad_states.dtype)
                    grad_matrix -= share * states_sum
                ctx.save_for_backward(grad_states, grad_matrix.to(weight.dtype), grad_bias)  # type: ignore[arg-type]
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad_states, grad_matrix, grad_bias = ctx.saved_tensors
        (scale,) = grad_outputs
        # In place would spoil a second backward pass through the same graph.
        return (
            grad_states * scale.to(grad_states.dtype),
            grad_matrix * scale.to(grad_matrix.dtype),
            None if grad_bias is None else grad_bias * scale,
            None,
            None,
            None,
        )


def _losses_and_probabilities(
    logits: Float[Tensor, "rows vocab"], targets: Int[Tensor, "rows 1"], smoothing: float
) -> tuple[Float[Tensor, "rows 1"], Float[Tensor, "rows vocab"]]:
    """Of each row: the loss without the part of the smoothed target that is the same for all tokens, and the softmax."""
    target_logits, largest = logits.gather(1, targets), logits.amax(dim=1, keepdim=True)
    probabilities = logits.softmax(dim=1)
    # The largest probability is at least 1 / vocab: its logarithm is exact where a label's would underflow.
    normalizers = largest - probabilities.amax(dim=1, keepdim=True).log()
    return normalizers - (1 - smoothing) * target_logits, probabilities
