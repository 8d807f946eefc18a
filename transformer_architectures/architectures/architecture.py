"""What an architecture declares: everything else is derived from it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from transformer_architectures.architectures.family import Family
from transformer_architectures.architectures.model_config import TransformerModelConfig
from transformer_architectures.config import Sections, StrictModel
from transformer_architectures.errors import ConfigError, UsageError
from transformer_architectures.pretrained.published_folder import PublishedFormat
from transformer_architectures.tasks.task import PredictorTask


def accept(config_path: str, sections: Sections) -> None:
    """Has nothing to add to what the sections' own models check."""


@dataclass(frozen=True)
class Architecture:
    """A model and the tasks that it is trained for.

    Config sections, training command, loader of model folders, planner and tests that go through all architectures read this.

    Attributes:
        name: the value of ``Model.architecture``.
        model_config: the model of the `Model:` section.
        models: for each task the model class, called with a ``model_config``. All tasks of an architecture share their `Training:` and
            `Data:` sections; which of them a config asks for is said by its data (`PredictorTask.reads`).
        published: the forms of published checkpoints that are read, beside those of the families.
        families: the values of ``Model.family``.
        check: raises `ConfigError` for sections that do not fit together in this architecture.
    """

    name: str
    model_config: type[TransformerModelConfig]
    models: Mapping[type[PredictorTask], Callable[[Any], nn.Module]]
    published: Sequence[PublishedFormat] = ()
    families: Sequence[Family] = ()
    check: Callable[[str, Sections], None] = accept

    def __post_init__(self) -> None:
        if not self.models:
            raise UsageError(f"architecture {self.name}: declare the model class of at least one task")
        for kind in ("training_config", "data_config"):
            if len({getattr(task, kind) for task in self.models}) > 1:
                raise UsageError(f"architecture {self.name}: its tasks must share their {kind}")
        default = self.model_config.model_fields["architecture"].default
        if default != self.name:
            raise UsageError(f"architecture {self.name}: {self.model_config.__name__}.architecture is {default!r}")

    @cached_property
    def sections(self) -> dict[str, type[StrictModel]]:
        """The models of a config's sections, by name."""
        task = next(iter(self.models))
        return {"Model": self.model_config, "Training": task.training_config, "Data": task.data_config}

    @property
    def formats(self) -> list[PublishedFormat]:
        """All forms of published checkpoints."""
        return [*self.published, *(family.published for family in self.families)]

    def task_for(self, data_config: StrictModel) -> type[PredictorTask]:
        """The task that reads such data.

        Raises:
            ConfigError: no task of this architecture does.
        """
        for task in self.models:
            if task.reads(data_config):
                return task
        names = ", ".join(task.name for task in self.models)
        raise ConfigError(f"Data: train: not the data of a task of {self.name} ({names})")

    def task_named(self, name: str) -> type[PredictorTask] | None:
        """The task of that name; None if the architecture has no such task."""
        return next((task for task in self.models if task.name == name), None)
