"""What every command of the library shares: options, errors in one line, exit codes, and commands as the user would type them."""

import os
import shlex
import shutil
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from transformer_architectures.errors import TransformerArchitecturesError, UsageError, reason_of

INTERRUPTED = 130

# What every wrong command line raises; which module it lives in depends on typer's version, so it is found by descent.
WrongCommandLine: type[Exception] = typer.BadParameter.__bases__[0]

Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="a config key; repeatable")]
Resume = Annotated[str | None, typer.Option("--resume", help="auto, a checkpoint, or a run folder")]
BatchTokens = Annotated[int | None, typer.Option("--batch-tokens", min=1, help="tokens of a batch")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", min=1, help="the most inputs of a batch")]
Device = Annotated[Literal["auto", "cpu", "cuda"] | None, typer.Option("--device", help="where to compute")]
PrecisionOption = Annotated[
    Literal["auto", "fp32", "bf16"] | None,
    typer.Option("--precision", help="fp32 unless given; bf16 is faster, a little less exact"),
]
Debug = Annotated[bool, typer.Option("--debug", help="show the traceback of an error")]


class App(typer.Typer):
    """A command line, or one with several commands.

    Args:
        name: as the user types it.
        help: what the help begins with.
    """

    def __init__(self, name: str, help: str | None = None) -> None:
        super().__init__(name=name, help=help, add_completion=False, pretty_exceptions_enable=False)
        self.name = name

    def run(self, arguments: Sequence[str] | None = None) -> None:
        """Runs the command and exits; a wrong command line is one line on standard error, too."""
        command = typer.main.get_command(self)
        try:
            code = command(
                args=None if arguments is None else list(arguments), prog_name=self.name, standalone_mode=False
            )
        except WrongCommandLine as error:
            print(f"{self.name}: {error.format_message()}", file=sys.stderr)  # type: ignore[attr-defined]
            code = UsageError.exit_code
        except (KeyboardInterrupt, typer.Abort):
            code = INTERRUPTED
        sys.exit(code)


@contextmanager
def errors_in_one_line(debug: bool) -> Iterator[None]:
    """Turns errors into their exit code and one line (with ``debug``: their traceback)."""
    try:
        yield
    except TransformerArchitecturesError as error:
        if debug:
            traceback.print_exc()
        else:
            print(f"tarch: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None


def write_lines(lines: Iterable[str]) -> None:
    """To standard output, as UTF-8 whatever the locale; each line is there as soon as it is known.

    Raises:
        UsageError: nothing can be written there.
    """
    try:
        for line in lines:
            sys.stdout.buffer.write(line.encode("utf-8", errors="replace") + b"\n")
            sys.stdout.buffer.flush()
    except BrokenPipeError:
        _discard_output()  # whoever reads has seen enough
    except (OSError, AttributeError) as error:  # a full disk; no standard output at all
        _discard_output()
        raise UsageError(f"standard output cannot be written ({reason_of(error)})") from None


def _discard_output() -> None:
    """Python would try to write what is left, and fail, when it closes the stream."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tarch(*words: str | os.PathLike[str]) -> str:
    """``tarch <words>`` in the form that works in the user's shell: with `uv` installed, with the Makefile's, or without."""
    arguments = shlex.join(os.fspath(word) for word in words)
    if shutil.which("uv") and (os.environ.get("UV") or Path("pyproject.toml").exists()):
        return f"uv run tarch {arguments}"
    if os.environ.get("UV"):
        return f"{_uv()} run tarch {arguments}"
    if shutil.which("tarch"):
        return f"tarch {arguments}"
    return f"{shlex.quote(sys.executable)} -m transformer_architectures.cli {arguments}"


def uv(*words: str) -> str:
    """``uv <words>`` in the form that works in the user's shell."""
    return f"{_uv()} {shlex.join(words)}"


def _uv() -> str:
    """`uv` where it is installed, else the path under which it started this process (`uv run` sets ``UV``)."""
    path = os.environ.get("UV")
    if path is None or shutil.which("uv"):
        return "uv"
    relative = os.path.relpath(path)
    return shlex.quote(path if relative.startswith("..") else relative)
