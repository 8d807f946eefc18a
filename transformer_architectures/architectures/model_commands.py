"""The commands `tarch predict` and `tarch evaluate`: their options are those of the tasks of all installed architectures."""

import inspect
import json
from typing import Annotated, Any

import typer

from transformer_architectures.architectures.registry import all_architectures
from transformer_architectures.pretrained.model_folder import open_folder
from transformer_architectures.tasks.predictor import Predictor
from transformer_architectures.utils.console import Debug, Device, PrecisionOption, errors_in_one_line, write_lines
from transformer_architectures.utils.memory import keep_freed_memory
from transformer_architectures.utils.option_models import Options, command_parameters, given_options
from transformer_architectures.utils.processes import loader_workers

ModelDir = Annotated[str, typer.Argument(metavar="MODEL_DIR", help="a finished run's model folder, or a published one")]
Inputs = Annotated[
    list[str] | None,
    typer.Argument(metavar="INPUTS", help="texts, files of texts, or images and folders of images"),
]
AsJson = Annotated[bool, typer.Option("--json", help="print one object, score to value")]


def predict_command() -> typer.Typer:
    """Writes what a model gives for each input."""

    def predict(
        model_dir: ModelDir,
        inputs: Inputs = None,
        device: Device = None,
        precision: PrecisionOption = None,
        debug: Debug = False,
        **given: Any,
    ) -> None:
        with errors_in_one_line(debug), loader_workers():
            model, options = load_for("predict", model_dir, device, precision, given)
            write_lines(model.predict_lines(inputs or [], options))

    return _app(predict, "predict", "Write what a model gives for each input: texts, files of texts, or images.")


def evaluate_command() -> typer.Typer:
    """Scores a model's outputs against the right ones."""

    def evaluate(
        model_dir: ModelDir,
        as_json: AsJson = False,
        device: Device = None,
        precision: PrecisionOption = None,
        debug: Debug = False,
        **given: Any,
    ) -> None:
        with errors_in_one_line(debug), loader_workers():
            model, options = load_for("evaluate", model_dir, device, precision, given)
            scores = model.evaluate_files(options)
            if as_json:
                write_lines([json.dumps(scores)])
                return
            signatures = {metric.name: metric.signature for metric in model.metrics(options)}
            write_lines(f"{name}\t{value:.4g}\t{signatures.get(name, '')}" for name, value in scores.items())

    return _app(evaluate, "evaluate", "Score a model's outputs against the right ones.")


def options_of_tasks(command: str) -> dict[str, type[Options]]:
    """The option models of a command, by task."""
    tasks = (task for architecture in all_architectures() for task in architecture.models)
    return {task.name: getattr(task.predictor, f"{command}_options") for task in tasks}


def load_for(
    command: str, model_dir: str, device: str | None, precision: Any, given: dict[str, Any]
) -> tuple[Predictor, Options]:
    """The folder's model and the options that were given.

    Raises:
        UsageError: an option does not belong to the folder's task, or has a wrong value.
    """
    keep_freed_memory()
    folder = open_folder(model_dir)
    own = getattr(folder.predictor, f"{command}_options")
    options = given_options(own, given, options_of_tasks(command), f"{command} for {folder.task_class.name}")
    return folder.load(device or "auto", precision or "fp32"), options


def _app(function: Any, command: str, help_text: str) -> typer.Typer:
    """A command of one function, with the options of all tasks in place of its keyword arguments."""
    signature = inspect.signature(function)
    fixed = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    fixed = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in fixed]
    options = command_parameters(options_of_tasks(command))
    function.__signature__ = signature.replace(parameters=[*fixed, *options])
    # typer reads annotations, not signatures.
    function.__annotations__ = {p.name: p.annotation for p in (*fixed, *options)} | {"return": None}
    function.__doc__ = help_text
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(function)
    return app
