"""Training of BERT's tasks: pre-training, classification of texts, tagging of words; the form of `Data.train` says which.

uv run python -m transformer_architectures.architectures.bert.training [--config F] [--set S.k=v] [--resume auto|PATH] [--device D]
"""

import os
import sys

from pydantic import Field

from transformer_architectures.architectures.bert.config import BertModelConfig
from transformer_architectures.architectures.bert.data import TransformerDataModule
from transformer_architectures.architectures.bert.data_config import BertDataConfig, Kind
from transformer_architectures.architectures.bert.masked_language_model import MaskedLanguageModelTask
from transformer_architectures.architectures.bert.pretrained_start import PretrainedStart, read_pretrained
from transformer_architectures.architectures.bert.text_classification import TextClassificationTask
from transformer_architectures.architectures.bert.text_task import TextTask
from transformer_architectures.architectures.bert.token_classification import TokenClassificationTask
from transformer_architectures.command_line import tarch, write_lines
from transformer_architectures.config import Sections, StrictModel, load_sections
from transformer_architectures.errors import ConfigError
from transformer_architectures.training.command import run_command
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.finish import FinishedRun, report
from transformer_architectures.training.run import RunContext, run_training
from transformer_architectures.training.task import Task


class BertTrainingConfig(TrainingConfig):
    """The `Training:` section of BERT's tasks."""

    batch_tokens: int = Field(4096, ge=16, description="tokens of a micro-batch on each device")


SECTIONS: dict[str, type[StrictModel]] = {
    "Model": BertModelConfig,
    "Training": BertTrainingConfig,
    "Data": BertDataConfig,
}

TASKS: dict[Kind, type[TextTask]] = {
    "documents": MaskedLanguageModelTask,
    "texts": TextClassificationTask,
    "tags": TokenClassificationTask,
}


def open_config(config_path: str, overrides: list[str]) -> tuple[Sections, PretrainedStart | None]:
    """The checked sections, and what the training starts from.

    Raises:
        ConfigError: a section is wrong, or two of them do not fit together.
    """
    sections = load_sections(config_path, SECTIONS, overrides)
    model_config, data_config = sections.of(BertModelConfig), sections.of(BertDataConfig)
    if "num_labels" in model_config.model_fields_set:
        raise ConfigError(f"{config_path}: Model: num_labels: comes with the data; leave it out")
    pretrained = read_pretrained(model_config) if model_config.pretrained else None
    if pretrained is None and "pretrained" in model_config.model_fields_set:
        # Perhaps a variable was meant to be set.
        print("Model.pretrained is empty: the model starts from nothing", file=sys.stderr)
    if pretrained is not None:
        model_config = pretrained.model_config
        if given := sorted({"tokenizer", "lowercase"} & data_config.model_fields_set):
            raise ConfigError(f"{config_path}: Data: {given[0]}: comes with Model.pretrained; leave it out")
    if model_config.positions == "learned" and data_config.max_length > model_config.max_positions:
        raise ConfigError(
            f"{config_path}: Data: max_length {data_config.max_length} is more than the {model_config.max_positions} "
            "positions of Model.max_positions"
        )
    return sections, pretrained


def train(config_path: str, overrides: list[str], resume: str | None) -> FinishedRun:
    """Trains what a config describes; the first rank prints the result."""
    sections, pretrained = open_config(config_path, overrides)
    data_config, training_config = sections.of(BertDataConfig), sections.of(BertTrainingConfig)
    model_config = sections.of(BertModelConfig) if pretrained is None else pretrained.model_config

    def build(context: RunContext) -> tuple[Task, TransformerDataModule]:
        data = TransformerDataModule(
            data_config,
            model_config.vocab_size,
            seed=training_config.seed,
            batch_tokens=training_config.batch_tokens,
            tokenizer=None if pretrained is None else pretrained.tokenizer,
            loading=context.loading,
            rejected_path=context.run_folder / "rejected.jsonl" if context.ranks.is_main else None,
        )
        task = TASKS[data_config.train.kind](model_config, data, pretrained)
        assert isinstance(task, Task)
        return task, data

    finished = run_training("bert", sections, training_config, build, resume)
    if finished.is_new:
        write_lines(report(finished))
        write_lines(["use it        " + tarch("predict", os.path.relpath(finished.model_folder), "--input", "FILE")])
    return finished


if __name__ == "__main__":
    run_command("bert", SECTIONS, train)
