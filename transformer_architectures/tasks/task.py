"""Training a task whose outcome is a predictor: what all tasks do alike."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from transformer_architectures.config import Sections, StrictModel
from transformer_architectures.tasks.predictor import Predictor
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.runs.finish import FinishedRun
from transformer_architectures.training.runs.run import RunContext
from transformer_architectures.training.task import DataModule, Task

NUM_SAMPLES = 3


class PredictorTask(Task):
    """A task with its sections, its data and its predictor.

    Args:
        model_class: of the architecture, called with a model config.
        model_config: the `Model:` section.
        pretrained: what the training starts from, with the model config that counts then; None for new weights.

    Attributes:
        training_config, data_config: models of the `Training:` and `Data:` sections.
        predictor: the class of the trained model.
    """

    training_config: ClassVar[type[TrainingConfig]]
    data_config: ClassVar[type[StrictModel]]
    predictor: ClassVar[type[Predictor]]

    def __init__(
        self,
        model_class: Callable[[Any], nn.Module],
        model_config: Any,
        config: Any,
        data: Any,
        pretrained: Any = None,
    ) -> None:
        self.model_class, self.model_config = model_class, model_config
        self.config, self.data, self.pretrained = config, data, pretrained
        self.architecture: str = model_config.architecture

    @classmethod
    def reads(cls, data_config: Any) -> bool:
        """Whether this is the task for such data, where an architecture has several tasks."""
        return True

    @classmethod
    def check(cls, config_path: str, sections: Sections, model_config: Any, pretrained: Any) -> None:
        """Raises `ConfigError` for sections that do not fit together."""

    @classmethod
    @abstractmethod
    def build_data(
        cls, model_config: Any, config: Any, data_config: Any, pretrained: Any, context: RunContext
    ) -> DataModule:
        """The data module of a run."""

    @abstractmethod
    def as_predictor(self, model: Any) -> Predictor:
        """The model as others will use it."""

    def export(self, model: Any, folder: Path, results: Mapping[str, Any]) -> None:
        """Writes the model folder."""
        self.as_predictor(model).export(folder, results)

    def closing_lines(self, finished: FinishedRun) -> Iterator[str]:
        """What is printed at the end of a training, after scores and samples."""
        return iter(())

    # How the model is used from the command line: arguments of `tarch predict MODEL_DIR`.
    example_arguments: ClassVar[tuple[str, ...]] = ("--input", "FILE")


def some_of(count: int, wanted: int = NUM_SAMPLES) -> list[int]:
    """A few indices below ``count``, evenly spread."""
    step = max(1, count // wanted)
    return list(range(step // 2, count, step))[:wanted]
