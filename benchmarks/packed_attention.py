"""Packed rows against padded ones, our own encoder in both: what `attention/packed_heads.py` gains, and what it still leaves.

    uv run python -m benchmarks.packed_attention [--threads 2] [--rounds 20] [--sizes "4 x 256"] [--sentences 32,64]

Rows are added to the table, one for each way to run. Lengths are drawn anew in every round, log-normal with mean 20 and at most 128: no shape is prepared because it was measured
before. In each round all systems compute the same number of real tokens one after the other:

* packed: `Segments`, rows rounded up to a multiple of 32;
* padded: to the longest of the batch, with a padding mask;
* bound: as many tokens in sentences of one length, so there is nothing to pad, mask or move.

Ratios are medians over rounds, of processor time where there is one thread (other work on the machine does not count there).
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.environment import environment
from benchmarks.steps import DTYPES, computing_in
from transformer_architectures.attention import AttentionConfig
from transformer_architectures.encoder import Encoder
from transformer_architectures.feedforward import FeedForwardConfig
from transformer_architectures.masking import AttentionMask, Segments
from transformer_architectures.residual import ResidualConfig
from transformer_architectures.training.precision import apply_runtime_settings
from transformer_architectures.transformer_blocks import TransformerBlockConfig

SIZES = {"4 x 256": (4, 256), "6 x 384": (6, 384)}
MEAN, SIGMA, LONGEST, HEAD_DIM, ROWS_MULTIPLE, WARM_UP = 20, 0.7, 128, 64, 32, 3
OUTPUT = Path("benchmarks/results/packed_attention.md")
HEAD = [
    "# Packed rows against padded ones",
    "",
    "padded / packed: how much longer padding to the longest takes. packed / bound: how much longer packing takes than as many tokens",
    "in sentences of one length. Command: `uv run python -m benchmarks.packed_attention`, whose docstring says how it is measured.",
    "",
]
COLUMNS = [
    "| threads | layers x width | sentences | mode | precision | padded / packed | packed / bound | packed, 1000 tokens/s | padding |",
    "|---:|---|---:|---|---|---:|---:|---:|---:|",
]


def draw_lengths(num_sentences: int, generator: np.random.Generator) -> tuple[int, ...]:
    """As sentences are: many short ones, few long ones."""
    lengths = generator.lognormal(np.log(MEAN) - SIGMA**2 / 2, SIGMA, num_sentences)
    return tuple(lengths.round().clip(1, LONGEST).astype(int).tolist())


def build(num_layers: int, embed_dim: int) -> Encoder:
    block = TransformerBlockConfig(
        embed_dim,
        AttentionConfig(embed_dim // HEAD_DIM),
        FeedForwardConfig(4 * embed_dim, activation="gelu"),
        ResidualConfig(dropout=0.1),
    )
    return Encoder(block, num_layers)


def systems(lengths: tuple[int, ...], embed_dim: int) -> dict[str, tuple[Tensor, Callable[[], AttentionMask | None]]]:
    """Hidden states and mask of each. The mask is made inside the measured time: its indices belong to the batch."""
    segments = Segments(lengths, ROWS_MULTIPLE)
    num_sentences, mean = len(lengths), round(sum(lengths) / len(lengths))
    real = torch.arange(segments.longest) < torch.tensor(lengths)[:, None]
    return {
        "packed": (torch.randn(1, segments.num_rows, embed_dim), lambda: AttentionMask(segments=segments)),
        "padded": (torch.randn(*real.shape, embed_dim), lambda: AttentionMask.from_any(real)),
        "bound": (torch.randn(num_sentences, mean, embed_dim), lambda: None),
    }


def seconds_per_token(
    encoder: Encoder, hidden_states: Tensor, mask: Callable[[], AttentionMask | None], dtype: torch.dtype, tokens: int
) -> float:
    """Forward and, in training, backward; the inputs have a gradient as behind an embedding."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    direction = torch.ones_like(hidden_states)
    train = encoder.training
    started = clock()
    with torch.set_grad_enabled(train):
        with computing_in(dtype):
            output = encoder(hidden_states.requires_grad_(train), mask())
    if train:
        output.backward(direction.to(output.dtype))
    return (clock() - started) / tokens


def measure(size: tuple[int, int], dtype: torch.dtype, train: bool, num_sentences: int, rounds: int) -> str:
    """Cells of one row: padded over packed, packed over bound, thousand tokens per second of packed, share of padding."""
    generator = np.random.default_rng(1)
    encoder = build(*size).train(train)
    times: dict[str, list[float]] = {"packed": [], "padded": [], "bound": []}
    shares = []
    for number in range(-WARM_UP, rounds):
        lengths = draw_lengths(num_sentences, generator)
        for name, (states, mask) in systems(lengths, size[1]).items():
            tokens = sum(lengths) if name != "bound" else states.shape[0] * states.shape[1]
            spent = seconds_per_token(encoder, states, mask, dtype, tokens)
            if number >= 0:
                times[name].append(spent)
        shares.append(1 - sum(lengths) / (len(lengths) * max(lengths)))
    gain, loss = (
        statistics.median(a / b for a, b in zip(times[slow], times[fast], strict=True))
        for slow, fast in (("padded", "packed"), ("packed", "bound"))
    )
    speed = 1 / statistics.median(times["packed"]) / 1000
    return f"{gain:.2f} | {loss:.2f} | {speed:.1f} | {statistics.mean(shares):.0%}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--precisions", default=",".join(DTYPES))
    parser.add_argument("--sentences", default="32,64")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    apply_runtime_settings(arguments.threads)
    if not arguments.output.exists():
        arguments.output.write_text("\n".join([*HEAD, environment(), "", *COLUMNS]) + "\n")
    for name in arguments.sizes.split(","):
        for num_sentences in map(int, arguments.sentences.split(",")):
            for train in (True, False):
                for precision in arguments.precisions.split(","):
                    cells = measure(SIZES[name], DTYPES[precision], train, num_sentences, arguments.rounds)
                    mode = "train" if train else "infer"
                    row = f"| {arguments.threads} | {name} | {num_sentences} | {mode} | {precision} | {cells} |"
                    print(row, flush=True)
                    with arguments.output.open("a") as file:
                        file.write(row + "\n")


if __name__ == "__main__":
    main()
