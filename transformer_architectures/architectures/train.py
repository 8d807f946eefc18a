"""From a config to a scored model folder, for every architecture."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformer_architectures.architectures.architecture import Architecture
from transformer_architectures.architectures.model_config import TransformerModelConfig
from transformer_architectures.architectures.registry import all_architectures, architecture_names, find_architecture
from transformer_architectures.config import Sections, load_sections
from transformer_architectures.config.loader import read_sections
from transformer_architectures.errors import ConfigError
from transformer_architectures.pretrained.start import read_pretrained
from transformer_architectures.tasks.task import PredictorTask
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.runs.command import run_command
from transformer_architectures.training.runs.finish import FinishedRun, report
from transformer_architectures.training.runs.run import RunContext, run_training
from transformer_architectures.utils.console import tarch, write_lines


@dataclass(frozen=True)
class OpenedConfig:
    """A checked config.

    Attributes:
        model_config: the `Model:` section or, with ``Model.pretrained``, that of the folder with what the section changes.
        pretrained: what the training starts from; None for new weights.
    """

    architecture: Architecture
    sections: Sections
    task: type[PredictorTask]
    model_config: Any
    pretrained: Any

    @property
    def training_config(self) -> TrainingConfig:
        """The `Training:` section."""
        return self.sections.of(TrainingConfig)


def architecture_of(config_path: str, overrides: Sequence[str]) -> Architecture:
    """The architecture that a config names, or that of the family that it names.

    Raises:
        ConfigError: it names none, or one that is not installed.
    """
    model = read_sections(config_path, overrides).get("Model", {})
    name, family = model.get("architecture"), model.get("family")
    if name is None and family is not None:
        families = {
            family.name: architecture for architecture in all_architectures() for family in architecture.families
        }
        if family not in families:
            raise ConfigError(
                f"{config_path}: Model: family {family!r} does not exist, expected one of: {', '.join(families)}"
            )
        return families[family]
    architecture = find_architecture(name) if isinstance(name, str) else None
    if architecture is None:
        found = "is missing" if name is None else f"is {name!r}"
        known = ", ".join(architecture_names())
        raise ConfigError(f"{config_path}: Model: architecture {found}, expected one of: {known}")
    return architecture


def open_config(architecture: Architecture, config_path: str, overrides: Sequence[str]) -> OpenedConfig:
    """Reads a config and, if it names one, the folder that the training starts from.

    Raises:
        ConfigError: a section is wrong, or two of them do not fit together.
    """
    sections = load_sections(config_path, architecture.sections, overrides)
    model_config, data_config = sections["Model"], sections["Data"]
    pretrained = None
    if getattr(model_config, "pretrained", ""):
        pretrained = read_pretrained(sections.of(TransformerModelConfig), architecture)
        model_config = pretrained.model_config
    task = architecture.task_for(data_config)
    task.check(config_path, sections, model_config, pretrained)
    architecture.check(config_path, sections)
    return OpenedConfig(architecture, sections, task, model_config, pretrained)


def train(architecture: Architecture, config_path: str, overrides: Sequence[str], resume: str | None) -> FinishedRun:
    """Trains what a config describes; the first rank prints the result."""
    opened = open_config(architecture, config_path, overrides)
    data_config, tasks = opened.sections["Data"], list[PredictorTask]()

    def build(context: RunContext) -> tuple[PredictorTask, Any]:
        config, pretrained, model_class = opened.training_config, opened.pretrained, architecture.models[opened.task]
        data = opened.task.build_data(opened.model_config, config, data_config, pretrained, context)
        tasks.append(opened.task(model_class, opened.sections["Model"], config, data, pretrained))
        return tasks[0], data

    finished = run_training(architecture.name, opened.sections, opened.training_config, build, resume)
    if finished.is_new:
        write_lines(report(finished))
        write_lines(tasks[0].closing_lines(finished))
        command = tarch("predict", os.path.relpath(finished.model_folder), *opened.task.example_arguments)
        write_lines([f"use it        {command}"])
    return finished


def main(architecture: Architecture) -> None:
    """The command line of a training module: ``python -m ....training``."""
    run_command(
        architecture.name,
        architecture.sections,
        lambda config, overrides, resume: train(architecture, config, overrides, resume),
    )
