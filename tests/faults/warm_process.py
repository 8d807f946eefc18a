"""Real processes that start in no time: forked from one that has imported everything and computed nothing.

A kill costs then what the run costs, not the seconds of importing torch and MLflow. Each is a process of its own, with its own
environment, arguments and output, and dies by a real signal; only the interpreter's start is shared.
"""

import atexit
import ctypes
import faulthandler
import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from faults.planted import Plant

from transformer_architectures.utils.processes import without_main_module

MODULES = [
    "faults.warm_process",
    "faults.planted",
    *(f"transformer_architectures.architectures.{name}.training" for name in ("vanilla", "vit", "bert")),
    "transformer_architectures.cli",
    "mlflow.server.handlers",
    "alembic",
    "matplotlib.backends.backend_agg",
    "sklearn.datasets",
]
LONGEST_LIFE = 300.0  # seconds
DIE_WITH_PARENT = 1  # Linux's PR_SET_PDEATHSIG


def warm_context() -> ForkServerContext:
    """Where processes are forked from; the first one waits for the imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(MODULES)
    return context


@cache
def output_folder() -> Path:
    """Where the processes write to; gone when this one ends."""
    folder = Path(tempfile.mkdtemp(prefix="warm_processes_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class WarmProcess:
    """A job in a process of its own; of `subprocess.Popen` it has what is used here.

    Args:
        faults: called in the process before the job.
    """

    def __init__(self, job: Callable[..., None], arguments: Sequence[Any], faults: Sequence[Plant] = ()) -> None:
        descriptor, output = tempfile.mkstemp(".log", dir=output_folder())
        os.close(descriptor)
        self.output = Path(output)
        self.process: ForkServerProcess = warm_context().Process(
            target=run_job, args=(job, tuple(arguments), tuple(faults), output)
        )
        with without_main_module():
            self.process.start()
        self.pid = self.process.pid or 0

    @property
    def returncode(self) -> int | None:
        """Its exit code, or minus the signal that killed it; None while it runs."""
        return self.process.exitcode

    poll = returncode.fget

    def wait(self) -> int:
        """Waits for its end. One that hangs says where, and is killed: it must not hold up all tests."""
        self.process.join(LONGEST_LIFE)
        if self.returncode is None:
            os.kill(self.pid, signal.SIGUSR2)
            self.process.join(5)
            self.kill()
            self.process.join()
            raise AssertionError(f"hangs:\n{self.output.read_text(errors='replace')[-10_000:]}")
        return self.returncode

    def kill(self) -> None:
        """By SIGKILL."""
        self.process.kill()

    def communicate(self) -> tuple[str, str]:
        """All that it wrote, when it has ended; both streams as the second, as that is the one that says what went wrong."""
        self.wait()
        return "", self.output.read_text(errors="replace")


def run_job(job: Callable[..., None], arguments: Sequence[Any], faults: Sequence[Plant], output: str) -> None:
    """What the new process does."""
    os.setsid()
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)  # else a test that is interrupted would leave it behind
    multiprocessing.set_start_method("fork", force=True)  # as in any other process: for the workers of its loaders
    descriptor = os.open(output, os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    faulthandler.register(signal.SIGUSR2)
    for plant in faults:
        plant()
    job(*arguments)


def run_command(arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
    """``python -m MODULE ...``."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    dash_m, module, *sys.argv[1:] = arguments
    assert dash_m == "-m"
    sys.modules.pop(module, None)  # it becomes the main module
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def launcher(*faults: Plant) -> Callable[[Sequence[str], Mapping[str, str], Path], WarmProcess]:
    """For `Runs.launch`: starts commands with faults in them."""

    def launch(arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> WarmProcess:
        return WarmProcess(run_command, (arguments, environment, folder), faults)

    return launch
