"""Training from the command line: of every training module (``python -m ....training``) and of ``tarch train``."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from transformer_architectures.config import StrictModel, default_config_path, find_config, load_sections
from transformer_architectures.errors import UsageError
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.distributed.torchrun import is_first_process
from transformer_architectures.training.runs.finish import FinishedRun
from transformer_architectures.training.runs.seeds import SeedRun, train_seeds, write_summary
from transformer_architectures.training.runs.suite import compare, suite_of, train_suite
from transformer_architectures.utils.console import (
    App,
    BatchSize,
    BatchTokens,
    Debug,
    Device,
    Overrides,
    Resume,
    errors_in_one_line,
    write_lines,
)

Train = Callable[[str, list[str], str | None], FinishedRun]  # config, overrides, resume
Models = Mapping[str, type[StrictModel]]  # of the config's sections


def run_command(architecture: str, models: Models, train: Train) -> None:
    """Parses the arguments of a training module and trains.

    Without ``--config`` it is the architecture's default.
    """
    app = App(f"python -m transformer_architectures.architectures.{architecture}.training")

    @app.command()
    def command(
        config: Annotated[
            str | None, typer.Option("--config", help="a YAML file, or the name of a shipped config")
        ] = None,
        set: Overrides = None,
        resume: Resume = None,
        batch_tokens: BatchTokens = None,
        batch_size: BatchSize = None,
        device: Device = None,
        debug: Debug = False,
    ) -> None:
        with errors_in_one_line(debug):
            path = str(default_config_path(architecture)) if config is None else find_config(config)
            options = training_options(models, device, batch_tokens, batch_size)
            train_config(models, train, path, [*(set or []), *options], resume)

    command.__doc__ = f"Train {architecture}."
    app.run()


def train_config(
    models: Models, train: Train, path: str, overrides: Sequence[str], resume: str | None
) -> list[SeedRun]:
    """Trains a config once, with each of its seeds, or all runs of a suite. Returns the runs, of a suite those of all its configs."""

    def needs_auto(several: str) -> None:
        if resume not in (None, "auto"):
            raise UsageError(f"--resume {resume}: one run's, but {several}: give auto")

    if (suite := suite_of(path)) is not None:
        needs_auto(f"{path} is a suite of several")
        found = train_suite(
            suite,
            Path(path).parent,
            lambda file, of_suite: train_config(models, train, file, [*of_suite, *overrides], resume),
        )
        if is_first_process():
            write_lines(compare(suite, found))
        return [run for runs in found.values() for run in runs]
    config = load_sections(path, models, overrides).of(TrainingConfig)
    if config.seeds == 1:
        return [SeedRun(config.seed, train(path, list(overrides), resume))]
    needs_auto(f"Training.seeds is {config.seeds}")
    runs = train_seeds(
        range(config.seed, config.seed + config.seeds),
        lambda seed: train(path, [*overrides, f"Training.seed={seed}", "Training.seeds=1"], resume),
    )
    if is_first_process():
        write_lines(write_summary(runs))
    return runs


def training_options(models: Models, device: str | None, batch_tokens: int | None, batch_size: int | None) -> list[str]:
    """Options that other commands have too, as overrides of the `Training` section.

    Raises:
        UsageError: an option has no key there: it belongs to other architectures.
    """
    given = {"device": device, "batch_tokens": batch_tokens, "batch_size": batch_size}
    for key, value in given.items():
        if value is not None and key not in models["Training"].model_fields:
            raise UsageError(f"--{key.replace('_', '-')} does not belong to this task: Training has no {key}")
    return [f"Training.{key}={value}" for key, value in given.items() if value is not None]
