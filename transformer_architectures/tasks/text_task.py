"""What the tasks of an encoder have in common: sections, data, classes."""

import sys
from abc import abstractmethod
from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from transformer_architectures.config import Sections
from transformer_architectures.datasets.text.data_config import EncoderDataConfig, Kind
from transformer_architectures.datasets.text.data_module import EncoderDataModule
from transformer_architectures.datasets.text.labeled_rows import LabeledTextSplits
from transformer_architectures.errors import ConfigError
from transformer_architectures.tasks.task import PredictorTask, some_of
from transformer_architectures.tasks.text_predictor import TextPredictor
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.runs.run import RunContext


class TextTrainingConfig(TrainingConfig):
    """The `Training:` section of an encoder's tasks."""

    batch_tokens: int = Field(4096, ge=16, description="tokens of a micro-batch, over all devices")


class TextTask(PredictorTask):
    """A task over texts. The form of ``Data.train`` says which one it is."""

    unit = "tokens"
    training_config = TextTrainingConfig
    data_config = EncoderDataConfig
    kind: ClassVar[Kind]

    @classmethod
    def reads(cls, data_config: Any) -> bool:
        """Whether the training text has the form of this task."""
        return bool(data_config.train.kind == cls.kind)

    @classmethod
    def check(cls, config_path: str, sections: Sections, model_config: Any, pretrained: Any) -> None:
        """Classes come with the data, the tokenizer with a pretrained model; windows must fit into learned positions."""
        asked, data_config = sections["Model"], sections.of(EncoderDataConfig)
        if "num_labels" in asked.model_fields_set:
            raise ConfigError(f"{config_path}: Model: num_labels: comes with the data; leave it out")
        if pretrained is None and "pretrained" in asked.model_fields_set:
            # Perhaps a variable was meant to be set.
            print("Model.pretrained is empty: the model starts from nothing", file=sys.stderr)
        if pretrained is not None and (given := sorted({"tokenizer", "lowercase"} & data_config.model_fields_set)):
            raise ConfigError(f"{config_path}: Data: {given[0]}: comes with Model.pretrained; leave it out")
        if model_config.positions == "learned" and data_config.max_length > model_config.max_positions:
            raise ConfigError(
                f"{config_path}: Data: max_length {data_config.max_length} is more than the {model_config.max_positions} "
                "positions of Model.max_positions"
            )

    @classmethod
    def build_data(
        cls, model_config: Any, config: Any, data_config: Any, pretrained: Any, context: RunContext
    ) -> EncoderDataModule:
        """Packed batches of texts."""
        return EncoderDataModule(
            data_config,
            model_config.vocab_size,
            seed=config.seed,
            batch_tokens=config.batch_tokens,
            tokenizer=None if pretrained is None else pretrained.tokenizer,
            loading=context.loading,
            rejected_path=context.rejected_path,
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Of the outputs; empty where they are tokens."""
        return ()

    def build_model(self) -> nn.Module:
        """A model on the CPU, for the classes of the training data: with new weights, or from `Model.pretrained`."""
        if self.pretrained is not None:
            return self.pretrained.build_model(self.model_class, self.classes)
        # A small corpus may not have as many tokens as were asked for.
        sizes = {"vocab_size": self.data.tokenizer.vocab_size, "num_labels": len(self.classes)}
        return self.model_class(self.model_config.model_copy(update=sizes))

    @abstractmethod
    def as_predictor(self, model: Any) -> TextPredictor:
        """The model as others will use it."""

    @property
    def windows(self) -> dict[str, Any]:
        """How texts are cut, for the settings of a predictor."""
        return {"max_length": self.data.config.max_length, "stride": self.data.config.window_stride}


class LabelTask(TextTask):
    """A task over labelled examples: texts with labels, or words with tags."""

    @property
    def examples(self) -> LabeledTextSplits:
        """All splits and their labels."""
        assert isinstance(self.data.splits, LabeledTextSplits)
        return self.data.splits

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of the training data, sorted."""
        return self.examples.rows.labels

    def examples_of(self, split: str) -> tuple[Any, ...]:
        """The texts of a split, with their labels as in the files."""
        return getattr(self.examples.rows, split)

    def some_examples(self, split: str) -> tuple[Any, ...]:
        """A few of them, evenly spread."""
        found = self.examples_of(split)
        return tuple(found[index] for index in some_of(len(found)))
