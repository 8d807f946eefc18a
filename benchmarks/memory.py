"""Peak memory of the loss at a large vocabulary, and of `setup()` on two million pairs, with its speed.

    uv run python -m benchmarks.memory loss | setup [--pairs 2000000]

Each measurement is a process of its own: the peak of its resident memory above what it held before.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

MEGABYTE = 2**20


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def alone(function: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """The function's result, from a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:  # whose processes may start others, as `setup()` does
        return pool.submit(function, *arguments).result()


def loss_peak(kind: str, tokens: int, vocab: int, dim: int) -> dict[str, float]:
    from transformer_architectures.kernels.cross_entropy import linear_cross_entropy

    torch.manual_seed(0)
    states = torch.randn(tokens, dim, requires_grad=True)
    weight = torch.randn(vocab, dim, requires_grad=True)
    labels = torch.randint(vocab, (tokens,))
    warm = linear_cross_entropy(states[:8], weight, None, labels[:8], 0.1)
    warm.backward()
    before = peak_megabytes()
    started = time.perf_counter()
    if kind == "ours":
        loss = linear_cross_entropy(states, weight, None, labels, 0.1)
    else:
        loss = F.cross_entropy(F.linear(states, weight), labels, reduction="sum", label_smoothing=0.1)
    loss.backward()
    return {"megabytes": peak_megabytes() - before, "seconds": time.perf_counter() - started}


def setup_peak(folder: str, pairs: int) -> dict[str, float]:
    from transformer_architectures.architectures.vanilla import TransformerDataModule, VanillaDataConfig

    config = VanillaDataConfig.model_validate(
        {
            "train": {"source": f"{folder}/train.en", "target": f"{folder}/train.fr"},
            "cache_dir": f"{folder}/cache",
            "validation_fraction": 0.001,
        }
    )
    data = TransformerDataModule(config, 32000, seed=1, batch_tokens=4096)
    before = peak_megabytes()
    started = time.perf_counter()
    data.setup()
    seconds = time.perf_counter() - started
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    started = time.perf_counter()
    data.setup()
    return {
        "seconds": seconds,
        "pairs_per_second": pairs / seconds,
        "peak_megabytes": peak_megabytes(),
        "before_megabytes": before,
        "largest_worker_megabytes": children,
        "seconds_from_cache": time.perf_counter() - started,
    }


def write_synthetic(folder: Path, pairs: int) -> None:
    """Made-up words with frequencies like those of a language (Zipf), 20 a sentence."""
    generator = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    for language in ("en", "fr"):
        words = np.array(["".join(generator.choice(letters, generator.integers(2, 11))) for _ in range(60_000)])
        with (folder / f"train.{language}").open("w") as file:
            for start in range(0, pairs, 50_000):
                rows = min(50_000, pairs - start)
                picked = words[np.minimum(generator.zipf(1.3, (rows, 20)), len(words)) - 1]
                file.writelines(" ".join(row) + "\n" for row in picked)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["loss", "setup"])
    parser.add_argument("--pairs", type=int, default=2_000_000)
    arguments = parser.parse_args()
    if arguments.what == "loss":
        for tokens in (1024, 2048, 4096, 8192):
            dense = tokens * 32_000 * 4 / MEGABYTE
            cells = {kind: alone(loss_peak, kind, tokens, 32_000, 256) for kind in ("ours", "torch")}
            shown = "   ".join(
                f"{kind} {cell['megabytes']:7,.0f} MiB {cell['seconds']:5.2f} s" for kind, cell in cells.items()
            )
            print(f"{tokens:5} tokens x 32,000 (one dense tensor: {dense:5,.0f} MiB)   {shown}", flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_synthetic(Path(folder), arguments.pairs)
        for name, value in alone(setup_peak, folder, arguments.pairs).items():
            print(f"{name:<28} {value:12,.1f}")


if __name__ == "__main__":
    main()
