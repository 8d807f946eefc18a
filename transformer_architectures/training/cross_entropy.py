"""Cross-entropy of a linear output layer, without ever holding all logits.

For a small model the vocabulary is a third of the training step, and most of that is memory traffic: logits, their
log-softmax and the gradient are each a ``tokens × vocabulary`` tensor. Here a chunk of rows stays in the processor's cache
while logits, loss and gradient are made one after the other; what is kept are gradients of the size of the inputs
(the idea of Hsu et al. 2024, "Liger Kernel", section 3.2).
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx

# Elements of one chunk of logits. CPU: what the shared cache holds. GPU: large enough to fill the device.
CHUNK_ELEMENTS = {"cpu": 2**22, "cuda": 2**26}
# Each chunk reads and writes the whole gradient of the matrix: fewer rows than this, and that costs more than the cache gains.
MIN_CHUNK_ROWS = 256


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
    with_gradient = torch.is_grad_enabled() and (hidden_states.requires_grad or weight.requires_grad)
    loss: Tensor = _LinearCrossEntropy.apply(hidden_states, weight, bias, labels, label_smoothing, with_gradient)
    return loss


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
        rows_per_chunk = max(MIN_CHUNK_ROWS, CHUNK_ELEMENTS.get(device, 2**24) // vocab_size)

        with torch.autocast(device, enabled=False):
            states, matrix = hidden_states.to(matmul_dtype), weight.to(matmul_dtype)
            # Label smoothing needs sums over the vocabulary only: they come from these sums, not from another pass over logits.
            matrix_sum = weight.sum(dim=0, dtype=loss_dtype)
            bias_sum = 0.0 if bias is None else bias.sum(dtype=loss_dtype)
            loss = weight.new_zeros((), dtype=loss_dtype)
            grad_states = torch.empty_like(states) if with_gradient else None
            grad_matrix = torch.zeros_like(weight, dtype=loss_dtype) if with_gradient else None
            grad_bias = torch.zeros_like(bias, dtype=loss_dtype) if with_gradient and bias is not None else None

            for start in range(0, len(states), rows_per_chunk):
                rows = slice(start, start + rows_per_chunk)
                chunk, targets = states[rows], labels[rows, None]
                logits = chunk @ matrix.t()
                if bias is not None:
                    logits += bias.to(matmul_dtype)
                # Cast first: log_softmax with a dtype of its own is three times slower on a CPU.
                log_probs = torch.log_softmax(logits.to(loss_dtype), dim=-1)
                target_log_probs = log_probs.gather(1, targets)
                loss -= (1 - smoothing) * target_log_probs.sum()
                if smoothing:
                    normalizers = logits.gather(1, targets).to(loss_dtype) - target_log_probs
                    logits_sum = chunk.to(loss_dtype) @ matrix_sum + bias_sum
                    loss += smoothing * (normalizers.squeeze(1) - logits_sum / vocab_size).sum()
                if grad_states is None or grad_matrix is None:
                    continue
                grad_logits = log_probs.exp_()
                grad_logits.scatter_add_(1, targets, grad_logits.new_full((1, 1), smoothing - 1).expand_as(targets))
                if grad_bias is not None:
                    grad_bias += grad_logits.sum(dim=0) - smoothing * len(chunk) / vocab_size
                grad_logits = grad_logits.to(matmul_dtype)
                torch.mm(grad_logits, matrix, out=grad_states[rows])
                if matmul_dtype == loss_dtype:
                    grad_matrix.addmm_(grad_logits.t(), chunk)
                else:
                    grad_matrix += grad_logits.t() @ chunk

            if grad_states is not None and grad_matrix is not None:
                share = smoothing / vocab_size
                grad_states = grad_states.to(hidden_states.dtype)
                if smoothing:
                    grad_states -= (share * matrix_sum).to(grad_states.dtype)
                    grad_matrix -= share * states.sum(dim=0, dtype=loss_dtype)
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


__all__ = ["linear_cross_entropy"]
