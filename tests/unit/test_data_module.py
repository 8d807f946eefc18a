"""What all batches share, whatever an example is."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from transformer_architectures.datasets.data_module import Batch


@dataclass(frozen=True)
class Numbers(Batch):
    """Two tensors and something else."""

    first: Int[Tensor, "numbers"]
    second: Int[Tensor, "numbers"]
    indices: tuple[int, ...]

    @property
    def num_labels(self) -> int:
        return len(self.first)

    num_tokens = num_positions = num_labels


def test_a_batch_moves_all_of_its_tensors_and_keeps_the_rest() -> None:
    batch = Numbers(torch.tensor([1, 2]), torch.tensor([3, 4]), (7, 9))
    assert batch.to(torch.device("cpu")) is batch
    moved = batch.to(torch.device("meta"))
    assert isinstance(moved, Numbers) and moved.indices == (7, 9) and moved.num_tokens == 2
    assert moved.first.device.type == moved.second.device.type == "meta"
    assert list(batch.tensors()) == ["first", "second"]
