"""Promise 10: a long run with evaluation, checkpoints and histograms grows neither in memory nor in open files nor in threads.

All three tasks train at the same time. What they hold is noted where each log line is written: always at the same place of the
loop, so that what evaluation and workers take meanwhile is not counted.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.test_exact_continuation import SIZES, TASKS
from faults.warm_process import launcher
from learning.toy_runs import Runs

OPTIONS = {
    "max_steps": 10**7,
    "checkpoint_interval": 40,
    "validation_interval": 50,
    "log_interval": 10,
    "histogram_interval": 40,
}


@dataclass(frozen=True)
class NoteResources:
    """Adds a line to a file at each log line of the run: seconds, megabytes, open files, threads."""

    file: Path

    def __call__(self) -> None:
        from transformer_architectures.training.loop import Fit

        log = Fit.log
        page = os.sysconf("SC_PAGE_SIZE") / 1e6

        def log_and_note(fit: Fit, *arguments: Any) -> None:
            log(fit, *arguments)
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * page
            row = (time.monotonic(), resident, len(os.listdir("/proc/self/fd")), threading.active_count())
            with self.file.open("a") as file:
                file.write(json.dumps(row) + "\n")

        Fit.log = log_and_note  # type: ignore[method-assign]


def slopes(rows: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Growth per minute of each column over the second half of the time, by least squares."""
    table = np.array(rows)
    minutes = (table[:, 0] - table[0, 0]) / 60
    late = minutes >= minutes[-1] / 2
    memory, files, threads = (float(np.polyfit(minutes[late], table[late, column], 1)[0]) for column in (1, 2, 3))
    return memory, files, threads


@pytest.fixture
def soak(tmp_path: Path) -> Callable[[float], dict[str, list[list[float]]]]:
    def train_for(seconds: float) -> dict[str, list[list[float]]]:
        """What each task held, from its first log line on."""
        processes = {}
        for name, (kind, config) in TASKS.items():
            (tmp_path / name).mkdir()
            options = [f"--set=Training.{key}={value}" for key, value in OPTIONS.items()]
            runs: Runs = kind(tmp_path / name, config, (*options, f"--set={SIZES[name]}"))
            runs.launch = launcher(NoteResources(tmp_path / f"{name}.rows"))
            processes[name] = runs.start("soak")
        for name, process in processes.items():
            while not (tmp_path / f"{name}.rows").exists():
                assert process.poll() is None, process.communicate()
                time.sleep(0.05)
        time.sleep(seconds)
        for process in processes.values():
            os.kill(process.pid, signal.SIGTERM)
        for name, process in processes.items():
            _, said = process.communicate()
            assert process.returncode == 143 and "entries are not at" not in said, said
        return {
            name: [json.loads(line) for line in (tmp_path / f"{name}.rows").read_text().splitlines()] for name in TASKS
        }

    return train_for


def check(held: dict[str, list[list[float]]], megabytes: float, files: float, threads: float) -> None:
    """Prints the slopes, and compares them with what they may be, per minute."""
    found = {name: slopes(rows) for name, rows in held.items()}
    for name, (memory, open_files, active) in found.items():
        last = held[name][-1]
        print(
            f"{name}: {len(held[name])} notes, at the end {last[1]:.0f} MB, {last[2]} open files, {last[3]} threads; ",
            end="",
        )
        print(f"per minute {memory:+.3f} MB, {open_files:+.4f} files, {active:+.4f} threads")
    for name, (memory, open_files, active) in found.items():
        assert memory <= megabytes and open_files <= files and active <= threads, name


def test_twenty_seconds(seed: int, soak: Callable[[float], dict[str, list[list[float]]]]) -> None:
    """Much of the memory that a run needs is taken in its first seconds: the bounds find only what grows with every step."""
    check(soak(20), megabytes=120, files=20, threads=10)


@pytest.mark.faults
def test_thirty_minutes(seed: int, soak: Callable[[float], dict[str, list[list[float]]]]) -> None:
    check(soak(30 * 60), megabytes=0.5, files=0.05, threads=0.02)
