"""Training from the command line: of every training module (``python -m ....training``) and of ``tarch train``."""

from collections.abc import Callable, Mapping
from typing import Annotated

import typer
from pydantic import BaseModel

from transformer_architectures.command_line import (
    BatchSize,
    BatchTokens,
    Debug,
    Device,
    Overrides,
    Resume,
    errors_in_one_line,
    run_app,
)
from transformer_architectures.config import default_config_path
from transformer_architectures.errors import UsageError

Train = Callable[[str, list[str], str | None], int]


def run_command(architecture: str, sections: Mapping[str, type[BaseModel]], train: Train) -> None:
    """Parses the arguments of a training module and exits with what `train` returns.

    Without ``--config`` it is the architecture's default.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command()
    def command(
        config: Annotated[str | None, typer.Option("--config", help="a YAML file, see configs/")] = None,
        set: Overrides = None,
        resume: Resume = None,
        batch_tokens: BatchTokens = None,
        batch_size: BatchSize = None,
        device: Device = None,
        debug: Debug = False,
    ) -> None:
        with errors_in_one_line(debug):
            path = str(default_config_path(architecture)) if config is None else config
            options = training_options(sections["Training"], device, batch_tokens, batch_size)
            raise typer.Exit(train(path, [*(set or []), *options], resume))

    command.__doc__ = f"Train {architecture}."
    run_app(app, f"python -m transformer_architectures.architectures.{architecture}.training", None)


def training_options(
    training: type[BaseModel], device: str | None, batch_tokens: int | None, batch_size: int | None
) -> list[str]:
    """Options that other commands have too, as overrides of the `Training` section.

    Raises:
        UsageError: an option has no key there: it belongs to other architectures.
    """
    given = {"device": device, "batch_tokens": batch_tokens, "batch_size": batch_size}
    for key, value in given.items():
        if value is not None and key not in training.model_fields:
            raise UsageError(f"--{key.replace('_', '-')} does not belong to this task: Training has no {key}")
    return [f"Training.{key}={value}" for key, value in given.items() if value is not None]
