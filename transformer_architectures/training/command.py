"""The command line that every training module has: ``python -m ....training [--config F] [--set S.k=v] [--resume auto|PATH]``."""

from collections.abc import Callable
from typing import Annotated

import typer

from transformer_architectures.command_line import Debug, Overrides, Resume, errors_in_one_line, run_app
from transformer_architectures.config import default_config_path

Train = Callable[[str, list[str], str | None], int]


def run_command(architecture: str, train: Train) -> None:
    """Parses the arguments of a training module and exits with what `train` returns.

    Without ``--config`` it is the architecture's default.
    """
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
