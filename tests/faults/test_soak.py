"""Promise 10: a long run with evaluation, checkpoints and histograms grows neither in memory nor in open files nor in threads.

All three tasks train at the same time. What they hold is noted where each log line is written: always at the same place of the
loop, so that what evaluation and workers take meanwhile is not counted.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Sequence
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
    "log_interval": 5,
    "histogram_interval": 40,
}
FEWEST_NOTES = 10


@dataclass(frozen=True)
class NoteResources:
    """Adds a line to a file at each log line of the run: seconds, megabytes, open files, threads."""

    file: Path

    def __call__(self) -> None:
        from transformer_architectures.training.loop import Trainer

        log = Trainer.log
        page = os.sysconf("SC_PAGE_SIZE") / 1e6

        def log_and_note(trainer: Trainer, *arguments: Any) -> None:
            log(trainer, *arguments)
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * page
            row = (time.monotonic(), resident, len(os.listdir("/proc/self/fd")), threading.active_count())
            with self.file.open("a") as file:
                file.write(json.dumps(row) + "\n")

        Trainer.log = log_and_note  # type: ignore[method-assign]


def slopes(notes: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Growth per minute of each column over the second half of the time, by least squares."""
    table = np.array(notes)
    minutes = (table[:, 0] - table[0, 0]) / 60
    late = minutes >= minutes[-1] / 2
    memory, files, threads = (float(np.polyfit(minutes[late], table[late, column], 1)[0]) for column in (1, 2, 3))
    return memory, files, threads


def train_for(seconds: float, folder: Path) -> dict[str, list[list[float]]]:
    """What each task held, from its first log line on. Goes on for longer where a task has hardly come to log anything."""
    processes, files = {}, {name: folder / f"{name}.rows" for name in TASKS}
    for name, (kind, config) in TASKS.items():
        (folder / name).mkdir()
        options = [f"--set=Training.{key}={value}" for key, value in OPTIONS.items()]
        runs: Runs = kind(folder / name, config, (*options, f"--set={SIZES[name]}"))
        runs.launch = launcher(NoteResources(files[name]))
        processes[name] = runs.start("soak")
    started = time.monotonic()
    while time.monotonic() < started + seconds or any(len(rows(file)) < FEWEST_NOTES for file in files.values()):
        time.sleep(0.5)
        for process in processes.values():
            assert process.poll() is None, process.communicate()
    for process in processes.values():
        os.kill(process.pid, signal.SIGTERM)
    for process in processes.values():
        _, said = process.communicate()
        assert process.returncode == 143 and "entries are not at" not in said, said
    return {name: rows(file) for name, file in files.items()}


def rows(file: Path) -> list[list[float]]:
    """What `NoteResources` has written so far."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def check(held: dict[str, list[list[float]]], megabytes: float, files: float, threads: float) -> None:
    """Prints the slopes, and compares them with what they may be, per minute."""
    print()
    found = {name: slopes(notes) for name, notes in held.items()}
    for name, (memory, open_files, active) in found.items():
        last = held[name][-1]
        print(
            f"{name}: {len(held[name])} notes, at the end {last[1]:.0f} MB, {last[2]} open files, {last[3]} threads; ",
            end="",
        )
        print(f"per minute {memory:+.3f} MB, {open_files:+.4f} files, {active:+.4f} threads")
    for name, (memory, open_files, active) in found.items():
        assert memory <= megabytes and open_files <= files and active <= threads, name


@pytest.mark.slow
def test_twenty_seconds(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a run needs once is taken in these seconds: the bounds find only what grows with every step."""
    held = train_for(20, tmp_path)
    with capsys.disabled():
        check(held, megabytes=600, files=60, threads=30)


@pytest.mark.faults
def test_thirty_minutes(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = train_for(30 * 60, tmp_path)
    with capsys.disabled():
        check(held, megabytes=1.0, files=0.05, threads=0.02)
