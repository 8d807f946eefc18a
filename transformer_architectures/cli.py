"""The command `tarch`. Results go to standard output, all else to standard error.

Exit codes: 0 done, 2 a usage or config error, 1 any other error of the library (one line, no traceback without
``--debug``), 130 interrupted, and for `train` those of the signals that stop a run.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from transformer_architectures.command_line import (
    BatchSize,
    BatchTokens,
    Debug,
    Device,
    Overrides,
    PrecisionOption,
    Resume,
    errors_in_one_line,
    run_app,
    write_lines,
)
from transformer_architectures.errors import ConfigError, TransformerArchitecturesError, UsageError
from transformer_architectures.processes import loader_workers

if TYPE_CHECKING:
    from transformer_architectures.training.precision import PrecisionName

ARCHITECTURES = "transformer_architectures.architectures"


app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train transformers, and use the model folders that training leaves.",
)

ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="a YAML file, see configs/")]
RunOrRoot = Annotated[str | None, typer.Argument(metavar="RUN_DIR|ROOT", help="else $CHECKPOINT_ROOT, else outputs")]
ModelDir = Annotated[str, typer.Argument(metavar="MODEL_DIR", help="a finished run's model folder")]
ImageFiles = Annotated[list[str] | None, typer.Argument(metavar="[IMAGE...]", help="pictures: files or folders")]
Input = Annotated[str | None, typer.Option("--input", help="a file, plain or .gz; standard input unless given")]
Source = Annotated[str | None, typer.Option("--source", help="a file of inputs, plain or .gz")]
Reference = Annotated[str | None, typer.Option("--reference", help="a file of right outputs, line by line")]
Images = Annotated[str | None, typer.Option("--images", help="pictures: a folder, a tar or a zip")]
Annotations = Annotated[
    str | None, typer.Option("--annotations", help="OpenImages labels (CSV); else folders are classes")
]
InterpolationName = Annotated[
    Literal["none", "voc2007"] | None, typer.Option("--interpolation", help="of average precision")
]
Data = Annotated[str | None, typer.Option("--data", help="a file of labelled inputs, as the model was trained on")]
Lowercase = Annotated[bool | None, typer.Option("--lowercase", help="ignore case in all scores")]
AsJson = Annotated[bool, typer.Option("--json", help="print one object, score to value")]
NBest = Annotated[int | None, typer.Option("--n-best", min=1, help="outputs for each input, with their scores")]
Beam = Annotated[int | None, typer.Option("--beam", min=1, help="beams of the search")]


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
        from transformer_architectures.training.command import train_config, training_options

        overrides = list(set or [])
        training = import_module(f"{ARCHITECTURES}.{architecture_of(config, overrides)}.training")
        overrides += training_options(training.SECTIONS, device, batch_tokens, batch_size)
        train_config(training.SECTIONS, training.train, config, overrides, resume)


@app.command()
def predict(
    model_dir: ModelDir,
    image: ImageFiles = None,
    input: Input = None,
    beam: Beam = None,
    n_best: NBest = None,
    batch_tokens: BatchTokens = None,
    batch_size: BatchSize = None,
    device: Device = None,
    precision: PrecisionOption = None,
    debug: Debug = False,
) -> None:
    """Write what the model gives for each input: pictures that are named, or lines of text."""
    given = {"IMAGE...": image or None, "--input": input, "--beam": beam, "--n-best": n_best}
    given |= {"--batch-tokens": batch_tokens, "--batch-size": batch_size}
    with errors_in_one_line(debug), loader_workers():
        model, options = load_for("predict", model_dir, device, precision, given)
        write_lines(model.predict_command(**options))


@app.command()
def evaluate(
    model_dir: ModelDir,
    source: Source = None,
    reference: Reference = None,
    data: Data = None,
    lowercase: Lowercase = None,
    images: Images = None,
    annotations: Annotations = None,
    interpolation: InterpolationName = None,
    as_json: AsJson = False,
    beam: Beam = None,
    batch_tokens: BatchTokens = None,
    batch_size: BatchSize = None,
    device: Device = None,
    precision: PrecisionOption = None,
    debug: Debug = False,
) -> None:
    """Score the model's outputs against the right ones."""
    given = {"--source": source, "--reference": reference, "--lowercase": lowercase, "--beam": beam, "--data": data}
    given |= {"--images": images, "--annotations": annotations, "--interpolation": interpolation}
    given |= {"--batch-tokens": batch_tokens, "--batch-size": batch_size}
    with errors_in_one_line(debug), loader_workers():
        model, options = load_for("evaluate", model_dir, device, precision, given)
        scores, signatures = model.evaluate_command(**options)
        if as_json:
            write_lines([json.dumps(scores)])
        else:
            write_lines(f"{name}\t{value:.4g}\t{signatures.get(name, '')}" for name, value in scores.items())


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

        overrides = list(set or [])
        made = make_plan(architecture_of(config, overrides), config, overrides, hardware, length, num_labels)
        if as_json:
            write_lines([json.dumps(made.as_dict(), ensure_ascii=False)])
        else:
            show(made)


@app.command()
def sync(
    path: RunOrRoot = None,
    debug: Debug = False,
) -> None:
    """Send what tracking has not delivered yet: metrics, pictures, tables."""
    with errors_in_one_line(debug):
        from transformer_architectures.training.tracking import sync as send

        report = send(Path(path or os.environ.get("CHECKPOINT_ROOT") or "outputs"))
        write_lines([str(report)])
        raise typer.Exit(0 if report.is_complete else TransformerArchitecturesError.exit_code)


@app.command()
def seal(model_dir: ModelDir, debug: Debug = False) -> None:
    """Write a model folder's manifest anew, after an intended edit of its files."""
    with errors_in_one_line(debug):
        from transformer_architectures.model_folder import seal as write_manifest

        names = write_manifest(model_dir)
        print(f"sealed {model_dir}: {', '.join(names)}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of ``tarch``."""
    run_app(app, "tarch", arguments)


def load_for(
    command: str, model_dir: str, device: str | None, precision: "PrecisionName | None", given: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The folder's model, and the options that were given, under the names that its methods use.

    Raises:
        UsageError: an option does not belong to the folder's task.
    """
    from transformer_architectures.memory import keep_freed_memory
    from transformer_architectures.model_folder import open_model_folder

    keep_freed_memory()
    folder = open_model_folder(model_dir)
    known = folder.loader.command_options[command]
    options = {}
    for option, value in given.items():
        if value is None:
            continue
        if option not in known:
            task = folder.config["task"]
            if option == "IMAGE..." and "--input" in known:
                raise UsageError(f"{value[0]}: lines of text are given as --input FILE, or to standard input")
            raise UsageError(f"{option} does not belong to {command} for {task} (known: {', '.join(sorted(known))})")
        options[option.strip("-.").lower().replace("-", "_")] = value
    return folder.load(device or "auto", precision or "fp32"), options


def architecture_of(config: str, overrides: Sequence[str]) -> str:
    """The config's ``Model.architecture``."""
    from transformer_architectures.config.loader import read_sections

    modules = iter_modules(import_module(ARCHITECTURES).__path__)
    known = sorted(module.name for module in modules if find_spec(f"{ARCHITECTURES}.{module.name}.training"))
    architecture = read_sections(config, overrides).get("Model", {}).get("architecture")
    if architecture not in known:
        found = "is missing" if architecture is None else f"is {architecture!r}"
        raise ConfigError(f"{config}: Model: architecture {found}, expected one of: {', '.join(known)}")
    return str(architecture)


if __name__ == "__main__":
    main()
