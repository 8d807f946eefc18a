"""Training tokens per second, ours and others', on the same batches of the Bible corpus: fp32 and bf16, compiled and not.

    .bench/bin/python -m benchmarks.training_speed [--rounds 5] [--compiled] [--systems ours,JoeyNMT]

In every round each system takes the same optimizer steps one after the other, so that a slow minute of the machine hits all;
reported are medians over rounds. A token is a source or target token that is not padding.
"""

import argparse
import json
import statistics
import time
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from benchmarks.training_systems import SYSTEMS, Loss, Size
from transformer_architectures.architectures.vanilla import LabeledBatch, TransformerDataModule, VanillaDataConfig

SIZES = (Size("4+4 x 128", 4, 128, 4, 256), Size("3+3 x 256", 3, 256, 4, 1024))
BATCH_TOKENS = 4096
NUM_BATCHES = 8


def batches(length_multiple: int) -> list[LabeledBatch]:
    """The same ones for every system."""
    config = VanillaDataConfig.model_validate({"train": {"bible": {"source": "web", "target": "darby"}}})
    data = TransformerDataModule(config, 6000, seed=1, batch_tokens=BATCH_TOKENS, length_multiple=length_multiple)
    data.setup()
    return list(islice(data.train_dataloader(), NUM_BATCHES))


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss, batch: LabeledBatch, dtype: torch.dtype
) -> float:
    """One optimizer step as everybody's loop takes it."""
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype) if dtype != torch.float32 else nullcontext():
        value = loss(batch)
    value.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(value.detach())


def measure(
    size: Size, dtype: torch.dtype, compiled: bool, names: list[str], rounds: int
) -> dict[str, dict[str, float]]:
    """Tokens per second of each system, and the loss that it came to (they all must learn)."""
    work = batches(16 if compiled else 1)
    num_tokens = sum(batch.num_tokens for batch in work)
    runners = {}
    for name in names:
        torch.manual_seed(1)
        model, loss = SYSTEMS[name](size)
        model.train()
        if compiled:
            compile_in_place(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
        started = time.perf_counter()
        try:
            for batch in work:  # warm-up; compiles, where it is asked for
                first = train(model, optimizer, loss, batch, dtype)
        except Exception as error:  # a peer that cannot do this is reported, not hidden
            print(
                f"{size.name} {dtype} compiled={compiled} {name}: FAILED {type(error).__name__} {str(error)[:200]}",
                flush=True,
            )
            continue
        print(
            f"{size.name} {dtype} compiled={compiled} {name}: warm-up {time.perf_counter() - started:.0f} s", flush=True
        )
        runners[name] = (model, optimizer, loss, first)
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    last: dict[str, float] = {}
    for _ in range(rounds):
        for name, (model, optimizer, loss, _) in runners.items():
            started = time.perf_counter()
            for batch in work:
                last[name] = train(model, optimizer, loss, batch, dtype)
            seconds[name].append(time.perf_counter() - started)
    return {
        name: {
            "tokens_per_second": num_tokens / statistics.median(times),
            "parameters": sum(parameter.numel() for parameter in runners[name][0].parameters()),
            "loss_after_warm_up": runners[name][3],
            "loss_at_end": last[name],
        }
        for name, times in seconds.items()
    }


def compile_in_place(model: nn.Module) -> None:
    """Each system's natural unit: its two stacks where it has them, so that the graph breaks nowhere."""
    from transformer_architectures.architectures.vanilla import Transformer

    if isinstance(model, Transformer):
        model.encoder.compile(dynamic=True)
        model.decoder.compile(dynamic=True)
    else:
        model.compile(dynamic=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--sizes", default=",".join(size.name for size in SIZES))
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/training_speed.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("highest")
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    arguments.output.parent.mkdir(exist_ok=True)
    for size in SIZES:
        if size.name not in arguments.sizes.split(","):
            continue
        for precision in arguments.precisions.split(","):
            found = measure(size, dtypes[precision], arguments.compiled, arguments.systems.split(","), arguments.rounds)
            best = max(found, key=lambda name: found[name]["tokens_per_second"])
            cell = {"size": size.name, "precision": precision, "compiled": arguments.compiled, "systems": found}
            with arguments.output.open("a") as file:
                file.write(json.dumps(cell) + "\n")
            print(f"\n{size.name}  {precision}  compiled={arguments.compiled}   (best: {best})")
            for name, row in found.items():
                print(
                    f"  {name:<28} {row['tokens_per_second']:9,.0f} tokens/s   {row['parameters']:>11,} parameters   loss {row['loss_at_end']:.3f}"
                )


if __name__ == "__main__":
    main()
