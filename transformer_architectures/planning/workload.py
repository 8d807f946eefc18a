"""One training step as the planner sees it: the parts of a model, what each computes and keeps, and how often."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from transformer_architectures.attention import AttentionConfig, ScaledDotProductAttention
from transformer_architectures.kernels.linear import count_product_weights
from transformer_architectures.planning.block_costs import FP32, Bytes, ElementSizes
from transformer_architectures.training.config import TrainingConfig

BF16 = 2  # bytes
PrecisionName = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Part:
    """A part of a model, for one micro-batch.

    Attributes:
        count: how many alike there are.
        flops: of one, forward and backward.
        kept: bytes that one keeps for the backward pass.
        block_input: bytes of the input of a block, which are all that it keeps if it is computed again; None: no block.
    """

    name: str
    flops: int
    kept: Mapping[str, int]
    count: int = 1
    block_input: int | None = None


@dataclass(frozen=True)
class Workload:
    """What a config asks for; each architecture says its `parts`.

    Attributes:
        model: with the declared sizes, on the meta device: it has shapes and no numbers.
        num_rows: sequences (or images) of one micro-batch, over all devices.
        unit: what a row is.
        shapes: sizes that the numbers come from, for the reader.
        assumptions: what was not in the config.
    """

    model: nn.Module
    training: TrainingConfig
    num_rows: int
    unit: str
    shapes: Mapping[str, int]
    assumptions: Sequence[str] = field(default=())

    @abstractmethod
    def parts(self, num_rows: int) -> list[Part]:
        """All that computes or keeps something, for so many rows."""

    @abstractmethod
    def estimate_flops(self) -> int:
        """Of one row, forward and backward, by the model's own closed form."""

    @abstractmethod
    def loss_bytes(self, num_rows: int) -> Bytes:
        """What the loss needs: logits, and gradients that it keeps."""

    @property
    def precision(self) -> PrecisionName:
        """`auto` is bf16 on the devices that a plan is made for."""
        return "fp32" if self.training.precision == "fp32" else "bf16"

    @property
    def product_bytes(self) -> int:
        """Of an element of what is multiplied."""
        return FP32 if self.precision == "fp32" else BF16

    @property
    def device(self) -> str:
        """`auto` is a GPU."""
        return "cpu" if self.training.device == "cpu" else "cuda"

    def numbers(self, attention: AttentionConfig, queries: int, keys: int) -> ElementSizes:
        """How attention of this size keeps its numbers: by the rule of `ScaledDotProductAttention`."""
        is_cpu = self.device == "cpu"
        dtype = torch.float32 if self.precision == "fp32" else torch.bfloat16
        is_large = queries * keys > ScaledDotProductAttention.LARGEST_MATH_SCORES[dtype]
        by_rule = not is_cpu or (is_large and not attention.dropout)
        fused = attention.backend == "sdpa" or (attention.backend == "auto" and by_rule)
        # Autocast on a GPU computes the softmax in fp32 and casts the weights for the product; on a CPU it leaves them bf16.
        weight = self.product_bytes if is_cpu or self.product_bytes == FP32 else FP32 + BF16
        return ElementSizes(self.product_bytes, fused, weight)

    def flops(self, num_rows: int) -> int:
        """Of a micro-batch of so many rows, forward and backward."""
        total = sum(part.count * part.flops for part in self.parts(num_rows))
        assert total == num_rows * self.estimate_flops(), "the parts do not add up to the model's own estimate"
        return total

    def recomputed_flops(self, num_rows: int) -> int:
        """What activation checkpointing computes once more: the blocks' forward passes, a third of their work."""
        return sum(part.count * part.flops for part in self.parts(num_rows) if part.block_input is not None) // 3

    def activations(self, num_rows: int, activation_checkpointing: bool) -> int:
        """Bytes kept for the backward pass; with checkpointing every block keeps its input, and one at a time all the rest."""
        kept, largest_block = 0, 0
        for part in self.parts(num_rows):
            whole = sum(part.kept.values())
            if activation_checkpointing and part.block_input is not None:
                kept += part.count * part.block_input
                largest_block = max(largest_block, whole - part.block_input)
            else:
                kept += part.count * whole
        return kept + largest_block

    def cast_weights(self) -> int:
        """Bytes of the bf16 copies of weights that autocast makes in the forward pass and the backward pass needs."""
        return BF16 * self.num_product_weights() if self.precision == "bf16" else 0

    def num_product_weights(self) -> int:
        """Weights of linear layers that autocast casts; the output layer of the loss casts its own."""
        return count_product_weights(self.model)


def fill_budget(batch_tokens: int, length: int, num_sides: int = 1) -> tuple[int, int]:
    """Rows of one length that fill a micro-batch of so many tokens, and that length: at most the given one, so that no budget is left.

    A single row that is longer than the budget is a micro-batch alone.
    """
    if batch_tokens <= num_sides * length:
        return 1, length
    num_rows = -(-batch_tokens // (num_sides * length))
    return num_rows, batch_tokens // (num_sides * num_rows)
