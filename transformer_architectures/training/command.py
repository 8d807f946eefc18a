"""The command line that every training module has: ``python -m ....training [--config F] [--set S.k=v] [--resume auto|PATH]``."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from transformer_architectures.config import default_config_path

Train = Callable[[str, list[str], str | None], int]


def run_command(architecture: str, train: Train) -> None:
    """Parses the arguments of a training module and exits with what `train` returns.

    Without ``--config`` it is the architecture's default.
    """
    from transformer_architectures.cli import Debug, Overrides, Resume, errors_in_one_line, run_app

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command()
    def command(
        config: Annotated[str | None, typer.Option("--config", help="a YAML file, see configs/")] = None,
        set: Overrides = None,
        resume: Resume = None,
        debug: Debug = False,
    ) -> None:
        with errors_in_one_line(debug):
            path = str(default_config_path(architecture)) if config is None else config
            raise typer.Exit(train(path, set or [], resume))

    command.__doc__ = f"Train {architecture}."
    run_app(app, f"python -m transformer_architectures.architectures.{architecture}.training", None)


def command_as_typed(arguments: str) -> str:
    """``tarch <arguments>`` in the form that works in the user's shell: with `uv` installed, with the Makefile's, or without."""
    uv = os.environ.get("UV")  # `uv run` says where it lies
    if shutil.which("uv") and (uv or Path("pyproject.toml").exists()):
        return f"uv run tarch {arguments}"
    if uv:
        relative = os.path.relpath(uv)
        return f"{uv if relative.startswith('..') else relative} run tarch {arguments}"
    if shutil.which("tarch"):
        return f"tarch {arguments}"
    return f"{sys.executable} -m transformer_architectures.cli {arguments}"
