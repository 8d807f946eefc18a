"""What the training loop asks of a task and of its data, and does not need in a toy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from transformer_architectures.metrics.metric import Metric
from transformer_architectures.training.task import Scores, Task


class ToyData:
    """A few batches an epoch."""

    digest, batches = "toy", 5

    def setup(self) -> None:
        pass

    def row_counts(self) -> dict[str, int]:
        return {"train": 4 * self.batches}

    def batches_per_epoch(self, epoch: int) -> int:
        return self.batches


class ToyTask(Task):
    """Has one score, which is always the same, and leaves nothing."""

    name, architecture, unit = "toy", "toy", "rows"
    metrics = (Metric("score"),)

    def build_model(self) -> nn.Module:
        raise AssertionError("a test brings its own")

    def loss(self, model: Any, batch: Any) -> Tensor:
        raise AssertionError("a test brings its own")

    def evaluate(self, model: Any, split: str, map_batches: Any) -> Scores:
        return {"score": 0.0}

    def baseline(self, split: str) -> Scores:
        return {"score": 0.0}

    def export(self, model: Any, folder: Path, results: Mapping[str, Any]) -> None:
        pass
