"""Bytes that the losses need."""

from transformer_architectures.kernels.cross_entropy import rows_at_once
from transformer_architectures.planning.block_costs import FP32, Bytes

# Tensors of (rows, classes) in fp32: logits, labels, masks, logarithms, weights ... of the costliest multi-label loss.
TENSORS_OF_MULTI_LABEL_LOSS = 18
TENSORS_OF_CROSS_ENTROPY = 3  # logits, their copy in fp32, their log-softmax


def linear_cross_entropy_bytes(
    num_rows: int, vocab_size: int, embed_dim: int, has_bias: bool, product_bytes: int, device: str
) -> Bytes:
    """Of `linear_cross_entropy`: it keeps gradients of the size of its inputs, and has logits of some rows for a moment."""
    chunk_rows, group_rows = rows_at_once(device, vocab_size)
    cast = (num_rows + vocab_size) * embed_dim * product_bytes if product_bytes != FP32 else 0
    return {
        "gradients": FP32 * (embed_dim * (num_rows + vocab_size) + (vocab_size if has_bias else 0)),
        "logits": 2 * FP32 * min(chunk_rows, num_rows) * vocab_size,  # and their softmax
        "gradients of logits": product_bytes * min(group_rows, num_rows) * vocab_size,
        "cast": cast,
    }


def classification_bytes(num_rows: int, num_classes: int, tensors: int) -> Bytes:
    """Of a loss that keeps so many tensors of a number for each row and class."""
    return {"logits": FP32 * tensors * num_rows * num_classes}
