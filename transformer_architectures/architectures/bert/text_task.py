"""What BERT's three tasks have in common."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from transformer_architectures.architectures.bert.config import BertModelConfig
from transformer_architectures.architectures.bert.data import TransformerDataModule
from transformer_architectures.architectures.bert.labeled_rows import LabeledTextParts
from transformer_architectures.architectures.bert.pretrained_start import PretrainedStart
from transformer_architectures.architectures.bert.text_model import TextModel
from transformer_architectures.batch_work import BatchWork
from transformer_architectures.training.task import Artifact, Scores

NUM_SAMPLES = 3


class TextTask:
    """What the three have in common.

    Args:
        model_config: as it is asked for; with ``pretrained``, that one's is what counts.
    """

    name: ClassVar[str]
    architecture, unit = "bert", "tokens"
    model_class: ClassVar[type[Any]]

    def __init__(
        self, model_config: BertModelConfig, data: TransformerDataModule, pretrained: PretrainedStart | None = None
    ) -> None:
        self.model_config, self.data, self.pretrained = model_config, data, pretrained
        self._baselines: dict[str, Scores] = {}  # by part: validation asks for them again and again

    @property
    def classes(self) -> tuple[str, ...]:
        """Of the outputs; empty where they are tokens."""
        return ()

    def build_model(self) -> nn.Module:
        """A model on the CPU, for the classes of the training data: from nothing, or from `Model.pretrained`."""
        if self.pretrained is not None:
            built: nn.Module = self.pretrained.build_model(self.model_class, self.classes)
            return built
        # A small corpus may not have as many tokens as were asked for.
        sizes = {"vocab_size": self.data.tokenizer.vocab_size, "num_labels": len(self.classes)}
        model: nn.Module = self.model_class(self.model_config.model_copy(update=sizes))
        return model

    def learning_rate_scale(self, model: nn.Module, parameter: str) -> float:
        """The same for all."""
        return 1.0

    @abstractmethod
    def text_model(self, model: Any) -> TextModel:
        """The model as others will use it."""

    def validate(self, model: Any, work: BatchWork) -> Scores:
        """Scores on all validation rows."""
        return self.evaluate(model, "validation", work)

    @abstractmethod
    def evaluate(self, model: Any, part: str, work: BatchWork) -> Scores:
        """Scores on a whole part; empty without such a part."""

    def artifacts(self, model: Any, part: str) -> dict[str, Artifact]:
        """None, where the samples say it."""
        return {}

    def export(self, model: Any, folder: Path, results: Mapping[str, Any]) -> None:
        """Writes the model folder."""
        self.text_model(model).export(folder, results)

    @property
    def _windows(self) -> dict[str, Any]:
        return {"max_length": self.data.config.max_length, "stride": self.data.config.window_stride}


class LabelTask(TextTask):
    """What classification and tagging have in common: labelled rows."""

    @property
    def parts(self) -> LabeledTextParts:
        """The rows and their labels."""
        assert isinstance(self.data.parts, LabeledTextParts)
        return self.data.parts

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of the training data, sorted."""
        return self.parts.rows.labels

    def rows_of(self, part: str) -> tuple[Any, ...]:
        """The texts of a part, with their labels as they stood in the files."""
        found: tuple[Any, ...] = getattr(self.parts.rows, part)
        return found

    def some_rows(self, part: str) -> tuple[Any, ...]:
        """A few of them, from everywhere in the part."""
        rows = self.rows_of(part)
        return tuple(rows[index] for index in some_of(len(rows)))


def some_of(count: int) -> list[int]:
    """A few places, evenly spread."""
    step = max(1, count // NUM_SAMPLES)
    return list(range(step // 2, count, step))[:NUM_SAMPLES]


__all__ = ["LabelTask", "TextTask", "some_of"]
