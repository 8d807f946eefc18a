"""What the training loop asks of a task and of its data, and does not need in a toy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformer_architectures.training.task import Artifact, Scores


class ToyData:
    """A few batches an epoch."""

    digest, batches = "toy", 5

    def setup(self) -> None:
        pass

    def row_counts(self) -> dict[str, int]:
        return {"train": 4 * self.batches}

    def batches_per_epoch(self, epoch: int) -> int:
        return self.batches


class ToyTask:
    """Scores nothing at its end, and leaves nothing."""

    name, architecture, unit = "toy", "toy", "rows"

    def learning_rate_scale(self, model: Any, parameter: str) -> float:
        return 1.0

    def evaluate(self, model: Any, part: str, work: Any) -> Scores:
        return {"score": 0.0}

    def baseline(self, part: str) -> Scores:
        return {"score": 0.0}

    def signatures(self) -> dict[str, str]:
        return {}

    def samples(self, model: Any, part: str) -> list[dict[str, str]]:
        return []

    def artifacts(self, model: Any, part: str) -> dict[str, Artifact]:
        return {}

    def export(self, model: Any, folder: Path, results: Mapping[str, Any]) -> None:
        pass
