"""What a finished model can do, whatever its task."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from transformer_architectures.training.precision import resolve_precision

if TYPE_CHECKING:
    from transformer_architectures.model_folder import ModelFolder


class LoadedModel(ABC):
    """What a model folder becomes. `predict` and `evaluate` are for Python, the other two are the commands' bodies.

    Args:
        device: where it computes; where the model is, unless given.

    Attributes:
        precision: in which numbers it computes: fp32, so that every machine gives the same answers, until someone sets another.
    """

    command_options: ClassVar[Mapping[str, frozenset[str]]]  # for "predict" and "evaluate": the options that it knows

    def __init__(self, model: nn.Module, device: torch.device | None = None) -> None:
        self.model: Any = model.to(device)
        self.precision = resolve_precision("fp32", next(model.parameters()).device)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.precision.device

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Inside the block the model's outputs are those of `precision`, without gradients or dropout, whatever its mode."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode(), self.precision.autocast():
                yield
        finally:
            self.model.train(was_training)

    @classmethod
    @abstractmethod
    def from_folder(cls, folder: "ModelFolder", device: str) -> "LoadedModel":
        """Reads the model."""

    @abstractmethod
    def predict(self, *inputs: Any, **options: Any) -> Any:
        """Outputs for inputs, in order."""

    @abstractmethod
    def evaluate(self, *inputs: Any, **options: Any) -> dict[str, float]:
        """Score by name, the main one first."""

    @abstractmethod
    def predict_command(self, *inputs: Any, **options: Any) -> Iterator[str]:
        """Lines for standard output; its options are those of the command line."""

    @abstractmethod
    def evaluate_command(self, *inputs: Any, **options: Any) -> tuple[dict[str, float], dict[str, str]]:
        """Scores, and how each of them is computed."""


__all__ = ["LoadedModel"]
