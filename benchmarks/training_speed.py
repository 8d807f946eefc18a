"""Training tokens per second, ours and others', on the same batches of the Bible corpus: fp32 and bf16, compiled and not.

    .bench/bin/python -m benchmarks.training_speed [--rounds 5] [--one-shape] [--systems ours,JoeyNMT]

In every round each system takes the same optimizer steps one after the other, so that a slow minute of the machine hits all;
reported are medians over rounds. A token is a source or target token that is not padding.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from itertools import islice
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.environment import environment
from benchmarks.steps import DTYPES, optimizer_step
from benchmarks.training_systems import SYSTEMS, Size
from transformer_architectures.architectures.vanilla import (
    LabeledBatch,
    Transformer,
    TransformerDataModule,
    VanillaDataConfig,
)
from transformer_architectures.training.blocks import compile_blocks

SIZES = (Size("4+4 x 128", 4, 128, 4, 256), Size("3+3 x 256", 3, 256, 4, 1024))
BATCH_TOKENS = 4096
NUM_BATCHES = 8


def real_batches() -> list[LabeledBatch]:
    """Bucketed by length, of the shapes that come: the same ones for every system."""
    return list(islice(epoch(length_multiple=1), NUM_BATCHES))


def batches_of_one_shape() -> list[LabeledBatch]:
    """Those of the most frequent shape when lengths are rounded up to a multiple of 16, as for compiled runs."""
    by_shape: dict[tuple[int, ...], list[LabeledBatch]] = defaultdict(list)
    for batch in epoch(length_multiple=16):
        by_shape[*batch.source_ids.shape, *batch.target_ids.shape].append(batch)
    return max(by_shape.values(), key=len)[:NUM_BATCHES]


def epoch(length_multiple: int) -> DataLoader[LabeledBatch]:
    config = VanillaDataConfig.model_validate({"train": {"bible": {"source": "web", "target": "darby"}}})
    data = TransformerDataModule(config, 6000, seed=1, batch_tokens=BATCH_TOKENS, length_multiple=length_multiple)
    data.setup()
    return data.train_dataloader()


def measure(
    size: Size, dtype: torch.dtype, work: list[LabeledBatch], variants: list[tuple[str, bool]], rounds: int
) -> dict[str, dict[str, float]]:
    """Tokens per second of each system, compiled or not, and the loss that it came to (they all must learn)."""
    num_tokens = sum(batch.num_tokens for batch in work)
    runners = {}
    for name, compiled in variants:
        label = f"{name}, compiled" if compiled else name
        torch.manual_seed(1)
        model, loss = SYSTEMS[name](size)
        model.train()
        if compiled:
            compile_in_place(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
        started = time.perf_counter()
        try:
            for batch in work:  # warm-up; compiles, where it is asked for
                first = optimizer_step(model, optimizer, loss, batch, dtype)
        except Exception as error:  # a peer that cannot do this is reported, not hidden
            print(f"{size.name} {dtype} {label}: FAILED {type(error).__name__} {str(error)[:200]}", flush=True)
            continue
        print(f"{size.name} {dtype} {label}: warm-up {time.perf_counter() - started:.0f} s", flush=True)
        runners[label] = (model, optimizer, loss, first)
    seconds: dict[str, list[float]] = {label: [] for label in runners}
    last: dict[str, float] = {}
    for _ in range(rounds):
        for label, (model, optimizer, loss, _) in runners.items():
            started = time.perf_counter()
            for batch in work:
                last[label] = optimizer_step(model, optimizer, loss, batch, dtype)
            seconds[label].append(time.perf_counter() - started)
    return {
        label: {
            "tokens_per_second": num_tokens / statistics.median(times),
            "parameters": sum(parameter.numel() for parameter in runners[label][0].parameters()),
            "loss_after_warm_up": runners[label][3],
            "loss_at_end": last[label],
        }
        for label, times in seconds.items()
    }


def compile_in_place(model: nn.Module) -> None:
    """Ours as `Training.compile` does it; a peer whole, as its users would."""
    if isinstance(model, Transformer):
        compile_blocks(model)
    else:
        model.compile(dynamic=False)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one-shape", action="store_true", help="batches of one shape, each system also compiled")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--sizes", default=",".join(size.name for size in SIZES))
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/training_speed.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("highest")
    arguments.output.parent.mkdir(exist_ok=True)
    names = arguments.systems.split(",")
    variants = [(name, compiled) for name in names for compiled in ((False, True) if arguments.one_shape else (False,))]
    work = batches_of_one_shape() if arguments.one_shape else real_batches()
    batches = "Batches of one shape" if arguments.one_shape else "Batches as they come"
    place = environment("transformers", "x-transformers", "joeynmt")
    for size in SIZES:
        if size.name not in arguments.sizes.split(","):
            continue
        for precision in arguments.precisions.split(","):
            found = measure(size, DTYPES[precision], work, variants, arguments.rounds)
            cell = {"batches": batches, "size": size.name, "precision": precision, "rounds": arguments.rounds}
            with arguments.output.open("a") as file:
                file.write(json.dumps({**cell, "environment": place, "systems": found}) + "\n")
            print(f"\n{size.name}  {precision}  {batches}")
            for name, row in found.items():
                speed, parameters = f"{row['tokens_per_second']:9,.0f} tokens/s", f"{row['parameters']:>11,} parameters"
                print(f"  {name:<36} {speed}   {parameters}   loss {row['loss_at_end']:.3f}")


if __name__ == "__main__":
    main()
