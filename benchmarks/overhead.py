"""What watching costs: the time that histograms of all parameters and gradients take, over that of the steps between two of them.

    uv run python -m benchmarks.overhead [--interval 48] [--rounds 6]

Two parts are measured on their own, because they are smaller than the noise between two intervals of training on a shared machine
(5 %): the training thread's wait while it counts, and the processor time of the thread that draws. Their sum is a bound: drawing
costs training less where a core is free.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import torch

from benchmarks.environment import environment
from benchmarks.training_speed import SIZES, real_batches
from benchmarks.training_systems import ours
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.grad_logging import GradientLogger
from transformer_architectures.training.optimization import build_optimizer, build_scheduler
from transformer_architectures.training.precision import resolve_precision
from transformer_architectures.training.step import TrainingStep

OUTPUT = Path("benchmarks/results/overhead.md")


class Folder:
    """Takes the pictures as a tracker does: into a file."""

    def __init__(self, path: Path) -> None:
        self.path, self.at_close, self.pictures = path, list[Callable[[], None]](), 0

    def log_figure_png(self, png: bytes, artifact_file: str, step: int | None = None) -> None:
        (self.path / f"{step}.png").write_bytes(png)
        self.pictures += 1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--interval", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    size, batches = SIZES[1], real_batches()
    if arguments.interval % len(batches):
        parser.error(
            f"--interval must be a multiple of the {len(batches)} batches, so that all intervals do the same work"
        )
    model, loss = ours(size)
    config = TrainingConfig(max_steps=10**6)
    optimizer = build_optimizer(model, config)
    step = TrainingStep(
        model,
        lambda model, batch: loss(batch) * batch.num_labels,
        optimizer,
        build_scheduler(optimizer, config),
        resolve_precision("auto", torch.device("cpu")),
        clip_norm=1.0,
    )
    step([batches[0]])  # there must be gradients
    with tempfile.TemporaryDirectory() as path:
        folder = Folder(Path(path))
        logger = GradientLogger(folder, arguments.interval)
        drawing_clock = time.pthread_getcpuclockid(logger.thread.ident or 0)

        def drawn(pictures: int) -> float:
            """Processor seconds of the drawing thread, when it has drawn so many."""
            while folder.pictures < pictures:
                time.sleep(0.1)
            return time.clock_gettime(drawing_clock)

        logger.async_log(model, arguments.interval)
        first = drawn(1)
        steps, counts = [], []
        for number, batch in enumerate(islice(cycle(batches), arguments.interval * arguments.rounds), start=1):
            started = time.perf_counter()
            step([batch])
            stepped = time.perf_counter()
            steps.append(stepped - started)
            logger.async_log(model, number)
            if number % arguments.interval == 0:
                counts.append(time.perf_counter() - stepped)
        drawing = (drawn(1 + arguments.rounds) - first) / arguments.rounds
        for action in folder.at_close:
            action()
    interval, counted = statistics.fmean(steps) * arguments.interval, statistics.median(counts)
    bound = (counted + drawing) / interval
    lines = [
        "# What watching costs",
        "",
        f"{environment()}. Command: `uv run python -m benchmarks.overhead --interval {arguments.interval}`.",
        "",
        f"Histograms of {len(list(model.parameters()))} parameters and their gradients ({size.name}) every {arguments.interval} steps, "
        f"which take {interval:.1f} s: counting holds up training for {1000 * counted:.0f} ms, drawing takes {1000 * drawing:.0f} ms of "
        f"a core in another thread ({1000 * first:.0f} ms the first time); together at most **{bound:.1%}**. {arguments.rounds} rounds.",
    ]
    print("\n".join(lines))
    OUTPUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
