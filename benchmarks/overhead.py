"""What watching costs: the time of a training step with histograms of all gradients and parameters, over that without.

    uv run python -m benchmarks.overhead [--interval 48] [--rounds 6]

The two kinds of steps are taken in turn, an interval of each, in one process on the same model and batches; which comes first
changes every round, and each step of an interval counts with its median over the rounds. Histograms are counted in the
training thread and drawn in another, so the drawing counts too, as far as it takes the cores from training.
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
    with tempfile.TemporaryDirectory() as path:
        folder = Folder(Path(path))
        logger = GradientLogger(folder, arguments.interval)

        def interval(is_watched: bool) -> list[float]:
            seconds = []
            for number, batch in enumerate(islice(cycle(batches), arguments.interval)):
                started = time.perf_counter()
                step([batch])
                if is_watched:  # early in the interval: the drawing that follows falls into it as well
                    logger.async_log(model, arguments.interval if number == len(batches) else 1)
                seconds.append(time.perf_counter() - started)
            return seconds

        interval(False)
        rounds: dict[bool, list[list[float]]] = {False: [], True: []}
        for number in range(2 * arguments.rounds):
            is_watched = number % 4 in (1, 2)
            rounds[is_watched].append(interval(is_watched))
        for action in folder.at_close:
            action()
    plain, watched = (
        sum(statistics.median(step) for step in zip(*rounds[kind], strict=True)) for kind in (False, True)
    )
    cost = f"{watched / plain - 1:+.1%}"
    lines = [
        "# What watching costs",
        "",
        f"{environment()}. Command: `uv run python -m benchmarks.overhead --interval {arguments.interval}`.",
        "",
        f"Histograms of {len(list(model.parameters()))} parameters and their gradients ({size.name}) every "
        f"{arguments.interval} steps, {folder.pictures} pictures drawn, against steps without: **{cost}**.",
    ]
    print("\n".join(lines))
    OUTPUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
