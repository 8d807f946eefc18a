"""Images per second of Vision Transformers, ours and others', training and inference, on the same batches.

    .bench/bin/python -m benchmarks.vision speed [--rounds 5] [--sizes "NAME;NAME"] [--systems NAME,NAME]

In every round each system does the same work after the other, so that a slow minute of the machine hits all; the median counts.
All have the settings of a process of ours (threads, memory that stays: see `apply_runtime_settings`), which help peers too.
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.environment import environment
from benchmarks.steps import DTYPES, computing_in, optimizer_step
from benchmarks.tables import add_row
from benchmarks.turns import median_seconds_in_turn
from benchmarks.vision_systems import SIZES, SYSTEMS, Size
from transformer_architectures.training.precision import apply_runtime_settings

BATCHES_A_TURN = 2
RESULT = "vision_speed.jsonl"


def training(model: nn.Module, work: list[tuple[Tensor, Tensor]], dtype: torch.dtype) -> Callable[[], float]:
    """Optimizer steps as everybody's loop takes them; returns the last loss."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        images, classes = batch
        return F.cross_entropy(model(images), classes)

    def steps() -> float:
        return [optimizer_step(model, optimizer, loss, batch, dtype) for batch in work][-1]

    return steps


def inference(model: nn.Module, work: list[tuple[Tensor, Tensor]], dtype: torch.dtype) -> Callable[[], float]:
    """Logits of all images; returns the loss, so that nobody gets away with computing nothing."""
    model.eval()

    @torch.inference_mode()
    def forwards() -> float:
        for images, classes in work:
            with computing_in(dtype):
                logits = model(images)
        return float(F.cross_entropy(logits.float(), classes))

    return forwards


MODES = {"Training": training, "Inference": inference}


def measure(size: Size, mode: str, dtype: torch.dtype, names: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Images per second of each system, its size, and the loss before and after the rounds (in training they must learn)."""
    work = [
        (torch.randn(size.batch, 3, size.pixels, size.pixels), torch.randint(size.classes, (size.batch,)))
        for _ in range(BATCHES_A_TURN)
    ]
    systems, found = {}, {}
    for name in names:
        torch.manual_seed(1)
        model = SYSTEMS[name](size)
        systems[name] = MODES[mode](model, work, dtype)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        found[name] = {"parameters": parameters, "loss_after_warm_up": systems[name]()}
    for name, seconds in median_seconds_in_turn(systems, rounds).items():
        found[name]["images_per_second"] = size.batch * len(work) / seconds
        found[name]["loss_at_end"] = systems[name]()
        if mode == "Training":
            assert found[name]["loss_at_end"] < found[name]["loss_after_warm_up"], f"{name} does not learn"
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", default=";".join(size.name for size in SIZES))
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--modes", default=",".join(MODES))
    arguments = parser.parse_args()
    apply_runtime_settings(arguments.threads)
    place = environment("torchvision", "timm", "transformers", "vit-pytorch")
    for size in SIZES:
        if size.name not in arguments.sizes.split(";"):
            continue
        for mode in arguments.modes.split(","):
            for name, dtype in DTYPES.items():
                found = measure(size, mode, dtype, arguments.systems.split(","), arguments.rounds)
                cell = {"mode": f"{mode}, images per second", "size": size.name, "precision": name}
                add_row(RESULT, {**cell, "rounds": arguments.rounds, "environment": place, "systems": found})
                print(f"\n{size.name}  {mode}  {name}")
                for system, row in found.items():
                    speed, parameters = (
                        f"{row['images_per_second']:9,.1f} images/s",
                        f"{row['parameters']:>11,} parameters",
                    )
                    print(f"  {system:<28} {speed}   {parameters}   loss {row['loss_at_end']:.3f}", flush=True)
