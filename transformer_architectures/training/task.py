"""What the loop asks of a task, of its batches and of its data: it knows no architecture."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from transformer_architectures.metrics.metric import Metric
from transformer_architectures.utils.map_batches import MapBatches

Scores = dict[str, float]  # by name, in the order of the task's metrics: the first one is the main score
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
        """Indices of the examples in the training data."""
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
        """Examples of each split, and of each reason for which training examples were rejected (``rejected: <reason>``)."""
        ...

    @property
    def digest(self) -> str:
        """Changes when anything changes that the batches depend on: a run goes on with the data that it began with."""
        ...

    def train_dataloader(self, epoch: int = 0, start_batch: int = 0) -> Iterable[Any]:
        """This rank's slice of each micro-batch of one epoch, from a position on."""
        ...

    def batches_per_epoch(self, epoch: int) -> int:
        """Number of micro-batches of that epoch; it does not depend on the number of ranks."""
        ...


class Task(ABC):
    """A task: model, loss and scores. A subclass overrides the defaults that do not suit it.

    Attributes:
        name: as in `results.json` and in the model folder, for example "translation".
        unit: what throughput counts: "tokens" or "images".
        architecture: names the folder of the task's runs, for example "vanilla".
    """

    name: str
    unit: str
    architecture: str

    @abstractmethod
    def build_model(self) -> nn.Module:
        """A model on the CPU, its weights drawn from torch's generator or read from `Model.pretrained`."""

    @abstractmethod
    def loss(self, model: Any, batch: Any) -> Tensor:
        """Summed loss over the labels of one micro-batch."""

    @property
    @abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """What is scored, the main metric first."""

    @abstractmethod
    def evaluate(self, model: Any, split: str, map_batches: MapBatches) -> Scores:
        """Scores on "validation" or "test" by the path that `predict` takes; empty if there is no such split.

        Args:
            map_batches: computes something for each batch: it divides the batches among the ranks, and raises when the run is to end.
        """

    @abstractmethod
    def baseline(self, split: str) -> Scores:
        """What a trivial method scores on the same split, on every metric."""

    @abstractmethod
    def export(self, model: Any, folder: Path, results: Mapping[str, Any]) -> None:
        """Writes the self-contained model folder."""

    def validate(self, model: Any, map_batches: MapBatches) -> Scores:
        """Scores on the validation split during training: may be cheaper than `evaluate`."""
        return self.evaluate(model, "validation", map_batches)

    def learning_rate_scale(self, model: Any, parameter: str) -> float:
        """Factor on the learning rate of the parameter of that name."""
        return 1.0

    def samples(self, model: Any, split: str) -> list[dict[str, str]]:
        """A few inputs of a split with the model's outputs, as rows of a table."""
        return []

    def artifacts(self, model: Any, split: str) -> Mapping[str, Artifact]:
        """What else shows how the finished model does on a split: images (`.png`) and tables (`.json`), by file name."""
        return {}
