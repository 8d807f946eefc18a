"""What the loop needs to know of a task, of its batches and of its data: protocols, so that it knows no architecture."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from transformer_architectures.batch_work import BatchWork

Scores = dict[str, float]  # the first key is the main score; higher is better
Artifact = bytes | list[dict[str, Any]]  # a PNG file's content, or rows of a table


@runtime_checkable
class Batch(Protocol):
    """One micro-batch."""

    @property
    def num_labels(self) -> int:
        """Number of terms in the summed loss."""
        ...

    @property
    def num_tokens(self) -> int:
        """Tokens (or images) that are not padding."""
        ...

    @property
    def num_positions(self) -> int:
        """Tokens (or images), padding included."""
        ...

    @property
    def indices(self) -> tuple[int, ...]:
        """Which rows of the training data these are."""
        ...

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        ...


@runtime_checkable
class DataModule(Protocol):
    """Where micro-batches come from: the order is a pure function of seed, epoch and position."""

    def setup(self) -> None:
        """Makes or opens the data. Called once, before anything else."""
        ...

    def row_counts(self) -> Mapping[str, int]:
        """Rows of each part, and of each reason for which training rows were rejected (``rejected: <reason>``)."""
        ...

    @property
    def digest(self) -> str:
        """Changes when anything changes that the batches depend on: a run goes on with the data that it began with."""
        ...

    def train_dataloader(self, epoch: int = 0, start_batch: int = 0) -> Iterable[Any]:
        """This rank's share of each micro-batch of one epoch, from a position on."""
        ...

    def batches_per_epoch(self, epoch: int) -> int:
        """Number of micro-batches of that epoch; it does not depend on the number of ranks."""
        ...


@runtime_checkable
class Task(Protocol):
    """What is special to one architecture and its problem."""

    name: str  # as in `results.json` and the model folder: "translation"
    architecture: str  # names the checkpoint folder: "vanilla"
    unit: str  # what throughput counts: "tokens" or "images"

    def build_model(self) -> nn.Module:
        """A model on the CPU, its weights drawn from torch's generator or read from `Model.pretrained`."""
        ...

    def learning_rate_scale(self, model: Any, parameter: str) -> float:
        """What the learning rate is multiplied by for the parameter of that name; 1 is usual."""
        ...

    def loss(self, model: Any, batch: Any) -> Tensor:
        """Summed loss over the labels of one micro-batch."""
        ...

    def validate(self, model: Any, work: BatchWork) -> Scores:
        """Scores on the validation part while training: may be cheaper than `evaluate`.

        ``work`` computes the batches: it shares them out among the ranks, and raises when the run is to end.
        """
        ...

    def evaluate(self, model: Any, part: str, work: BatchWork) -> Scores:
        """Scores on "validation" or "test" by the path that `predict` takes; empty where there is no such part."""
        ...

    def baseline(self, part: str) -> Scores:
        """What a trivial method scores on the same part, on every key."""
        ...

    def signatures(self) -> dict[str, str]:
        """How each score is computed, so that others can repeat it."""
        ...

    def samples(self, model: Any, part: str) -> list[dict[str, str]]:
        """A few inputs of "validation" or "test" with what the model makes of them, as rows of a table."""
        ...

    def artifacts(self, model: Any, part: str) -> Mapping[str, Artifact]:
        """What else shows how the finished model does on "validation" or "test": pictures (`.png`) and tables (`.json`), by file name."""
        ...

    def export(self, model: Any, folder: Path, results: Mapping[str, Any]) -> None:
        """Writes the self-contained model folder."""
        ...


__all__ = ["Artifact", "Batch", "DataModule", "Scores", "Task"]
