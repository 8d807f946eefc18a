"""The command `tarch`. Results go to standard output, all else to standard error.

Exit codes: 0 done, 2 a usage or config error, 1 any other error of the library (one line, no traceback without
``--debug``), 130 interrupted, and for `train` those of the signals that stop a run.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from transformer_architectures.errors import TransformerArchitecturesError
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

app = App("tarch", help="Train transformers, and use the model folders that training leaves.")
main = app.run  # the entry point of ``tarch``

ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="a YAML file, or the name of a shipped config")]
RunOrRoot = Annotated[str | None, typer.Argument(metavar="RUN_DIR|ROOT", help="else $CHECKPOINT_ROOT, else outputs")]
ModelDir = Annotated[str, typer.Argument(metavar="MODEL_DIR", help="a finished run's model folder")]
# Of commands whose options only the installed tasks know.
FORWARDED: dict[str, Any] = {"ignore_unknown_options": True, "help_option_names": []}
Forwarded = Annotated[list[str] | None, typer.Argument(metavar="MODEL_DIR ...", help="see tarch COMMAND --help")]


@app.command()
def train(
    config: ConfigFile,
    set: Overrides = None,
    resume: Resume = None,
    batch_tokens: BatchTokens = None,
    batch_size: BatchSize = None,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Train the model that a config describes; its Model.architecture says which."""
    with errors_in_one_line(debug):
        from transformer_architectures.architectures import train as training
        from transformer_architectures.config import find_config
        from transformer_architectures.training.runs.command import train_config, training_options

        config, overrides = find_config(config), list(set or [])
        architecture = training.architecture_of(config, overrides)
        overrides += training_options(architecture.sections, device, batch_tokens, batch_size)
        train_config(architecture.sections, partial(training.train, architecture), config, overrides, resume)


@app.command(context_settings=FORWARDED)
def predict(arguments: Forwarded = None) -> None:
    """Write what a model gives for each input: texts, files of texts, or images."""
    from transformer_architectures.architectures.model_commands import predict_command

    run_nested(predict_command(), arguments, "tarch predict")


@app.command(context_settings=FORWARDED)
def evaluate(arguments: Forwarded = None) -> None:
    """Score a model's outputs against the right ones."""
    from transformer_architectures.architectures.model_commands import evaluate_command

    run_nested(evaluate_command(), arguments, "tarch evaluate")


@app.command()
def plan(
    config: ConfigFile,
    devices: Annotated[int, typer.Option("--devices", min=1, help="how many there are")] = 1,
    device_memory: Annotated[str, typer.Option("--device-memory", help="of each")] = "80GiB",
    set: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one object, in bytes, operations and seconds")] = False,
    length: Annotated[
        int | None, typer.Option("--length", min=1, help="tokens of a sequence; Data.max_length unless given")
    ] = None,
    num_labels: Annotated[
        int | None, typer.Option("--num-labels", min=1, help="classes, which only the data know")
    ] = None,
    device_flops: Annotated[
        str | None, typer.Option("--device-flops", help="operations a second; an H100's unless given")
    ] = None,
    utilisation: Annotated[
        float | None, typer.Option("--utilisation", min=0.001, max=1, help="share of them that training reaches; 0.4")
    ] = None,
    bandwidth: Annotated[
        str | None, typer.Option("--bandwidth", help="bytes a second that a device sends; 50GB unless given")
    ] = None,
    reserve: Annotated[
        float | None, typer.Option("--reserve", min=0, max=0.9, help="share of the memory that is left free; 0.1")
    ] = None,
    debug: Debug = False,
) -> None:
    """Say what a training would cost on so many devices, and how to spread it: needs no data and starts no run."""
    with errors_in_one_line(debug):
        from transformer_architectures.architectures.train import architecture_of
        from transformer_architectures.config import find_config
        from transformer_architectures.planning.plan import BANDWIDTH, DEVICE_FLOPS, RESERVE, UTILISATION, make_plan
        from transformer_architectures.planning.quantities import parse_quantity
        from transformer_architectures.planning.show import show
        from transformer_architectures.planning.ways import Hardware

        def hardware(precision: str) -> Hardware:
            return Hardware(
                devices=devices,
                memory=int(parse_quantity(device_memory, "--device-memory")),
                flops=(
                    DEVICE_FLOPS[precision] if device_flops is None else parse_quantity(device_flops, "--device-flops")
                ),
                utilisation=UTILISATION if utilisation is None else utilisation,
                bandwidth=BANDWIDTH if bandwidth is None else parse_quantity(bandwidth, "--bandwidth"),
                reserve=RESERVE if reserve is None else reserve,
            )

        config, overrides = find_config(config), list(set or [])
        made = make_plan(architecture_of(config, overrides).name, config, overrides, hardware, length, num_labels)
        if as_json:
            write_lines([json.dumps(made.as_dict(), ensure_ascii=False)])
        else:
            show(made)


@app.command()
def sync(
    path: RunOrRoot = None,
    debug: Debug = False,
) -> None:
    """Send what tracking has not delivered yet: metrics, images, tables."""
    with errors_in_one_line(debug):
        from transformer_architectures.training.tracking import sync as send

        report = send(Path(path or os.environ.get("CHECKPOINT_ROOT") or "outputs"))
        write_lines([str(report)])
        raise typer.Exit(0 if report.is_complete else TransformerArchitecturesError.exit_code)


@app.command()
def seal(model_dir: ModelDir, debug: Debug = False) -> None:
    """Write a model folder's manifest anew, after an intended edit of its files."""
    with errors_in_one_line(debug):
        from transformer_architectures.pretrained.model_folder import seal as write_manifest

        names = write_manifest(model_dir)
        print(f"sealed {model_dir}: {', '.join(names)}", file=sys.stderr)


def run_nested(command: typer.Typer, arguments: list[str] | None, name: str) -> None:
    """Runs a command whose options only the installed tasks know."""
    code = typer.main.get_command(command)(args=arguments or [], prog_name=name, standalone_mode=False)
    raise typer.Exit(code or 0)


if __name__ == "__main__":
    main()
