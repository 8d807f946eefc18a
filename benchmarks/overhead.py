"""What watching costs: the time of histograms over that of the steps between two of them, and a step while a server is away over
one while it answers.

    uv run python -m benchmarks.overhead [--interval 48] [--rounds 6] [--outages 60]

Of the histograms of all parameters and gradients two parts are measured on their own, because they are smaller than the noise
between two intervals of training on a shared machine (5 %): the training thread's wait while it counts, and the processor time of
the thread that draws. Their sum is a bound: drawing costs training less where a core is free.

An outage is a tracking server that takes connections and answers none. Passes over the same batches with and without one take
turns; all log at every step.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import torch

from benchmarks.environment import environment
from benchmarks.tracking_server import stub_server
from benchmarks.training_speed import SIZES, LabeledBatch, real_batches
from benchmarks.training_systems import Size, ours
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.distributed.ranks import SummedLoss
from transformer_architectures.training.grad_logging import GradientLogger
from transformer_architectures.training.optimization import build_optimizer, build_scheduler
from transformer_architectures.training.precision import resolve_precision
from transformer_architectures.training.step import TrainingStep
from transformer_architectures.training.tracking.tracker import Tracker

OUTPUT = Path("benchmarks/results/overhead.md")


class Folder:
    """Takes the images as a tracker does: into a file."""

    def __init__(self, path: Path) -> None:
        self.path, self.at_close, self.pictures = path, list[Callable[[], None]](), 0

    def log_figure_png(self, png: bytes, artifact_file: str, step: int | None = None) -> None:
        (self.path / f"{step}.png").write_bytes(png)
        self.pictures += 1


def training_step(size: Size) -> TrainingStep:
    """A model that trains as runs do."""
    model, loss = ours(size)
    config = TrainingConfig(max_steps=10**6)
    optimizer = build_optimizer(model, config)
    return TrainingStep(
        model,
        SummedLoss(model, lambda model, batch: loss(batch) * batch.num_labels),
        optimizer,
        build_scheduler(optimizer, config),
        resolve_precision("auto", torch.device("cpu")),
        clip_norm=1.0,
    )


def histograms(size: Size, batches: list[LabeledBatch], interval: int, rounds: int) -> str:
    """What counting and drawing cost, in a sentence."""
    step = training_step(size)
    model = step.model
    step([batches[0]])  # there must be gradients
    with tempfile.TemporaryDirectory() as path:
        folder = Folder(Path(path))
        logger = GradientLogger(folder, interval)
        drawing_clock = time.pthread_getcpuclockid(logger.thread.ident or 0)

        def drawn(images: int) -> float:
            """Processor seconds of the drawing thread, when it has drawn so many."""
            while folder.images < images:
                time.sleep(0.1)
            return time.clock_gettime(drawing_clock)

        logger.async_log(model, interval)
        first = drawn(1)
        steps, counts = [], []
        for number, batch in enumerate(islice(cycle(batches), interval * rounds), start=1):
            started = time.perf_counter()
            step([batch])
            stepped = time.perf_counter()
            steps.append(stepped - started)
            logger.async_log(model, number)
            if number % interval == 0:
                counts.append(time.perf_counter() - stepped)
        drawing = (drawn(1 + rounds) - first) / rounds
        for action in folder.at_close:
            action()
    seconds, counted = statistics.fmean(steps) * interval, statistics.median(counts)
    bound = (counted + drawing) / seconds
    return (
        f"Histograms of {len(list(model.parameters()))} parameters and their gradients ({size.name}) every {interval} steps, "
        f"which take {seconds:.1f} s: counting holds up training for {1000 * counted:.0f} ms, drawing takes {1000 * drawing:.0f} ms of "
        f"a core in another thread ({1000 * first:.0f} ms the first time); together at most **{bound:.1%}**. {rounds} rounds."
    )


def outages(size: Size, batches: list[LabeledBatch], rounds: int) -> str:
    """What a server that hangs costs a step, in a sentence."""
    step = training_step(size)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as root, stub_server() as server:
        os.environ |= {"MLFLOW_TRACKING_URI": server.uri, "MLFLOW_HTTP_REQUEST_TIMEOUT": "1"}
        tracker = Tracker.start(Path(root), "overhead", "overhead", None, {})
        number = 0
        for turn in range(-1, rounds):  # the first one warms up
            for is_away in (False, True) if turn % 2 else (True, False):
                server.hang() if is_away else server.go_on()
                started = time.perf_counter()
                for batch in batches:
                    number += 1
                    report = step([batch])
                    tracker.log_metrics({"train/loss": report.loss, "train/grad_norm": report.grad_norm}, number)
                if turn >= 0:
                    seconds[is_away].append((time.perf_counter() - started) / len(batches))
        server.go_on()
        tracker.close()
    ratios = [away / well for well, away in zip(seconds[False], seconds[True], strict=True)]
    lowest, _, highest = statistics.quantiles(ratios, n=4)
    error = statistics.stdev(ratios) / rounds**0.5
    return (
        f"A step ({size.name}) takes {1000 * statistics.median(seconds[False]):.0f} ms while the tracking server answers, and while "
        f"it hangs **{statistics.median(ratios):.3f}** times that: median of {rounds} rounds, half of them between {lowest:.3f} and "
        f"{highest:.3f}, mean {statistics.fmean(ratios):.3f} with a standard error of {error:.3f}. All is logged at every step."
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--interval", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--outages", type=int, default=60, help="rounds with and without an outage")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    batches = real_batches()
    if arguments.interval % len(batches):
        parser.error(
            f"--interval must be a multiple of the {len(batches)} batches, so that all intervals do the same work"
        )
    command = f"uv run python -m benchmarks.overhead --interval {arguments.interval} --outages {arguments.outages}"
    lines = [
        "# What watching costs",
        "",
        f"{environment()}. Command: `{command}`.",
        "",
        histograms(SIZES[1], batches, arguments.interval, arguments.rounds),
        "",
        outages(SIZES[0], batches, arguments.outages),
    ]
    print("\n".join(lines))
    OUTPUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
