"""Which attention backend is faster at which length: the measurement behind ``backend="auto"``.

    uv run python -m benchmarks.attention_backends

Each cell: milliseconds of the plain mathematics over those of torch's fused kernel (so above 1 the kernel wins), forward and
backward where ``train``, with and without a padding mask, about 4,096 tokens and 4 heads. Queries, keys and values are views of one
projection, as they come. Both are timed in turn; the median counts.
"""

import statistics
import time
from collections.abc import Callable
from datetime import date
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from transformer_architectures.attention import ScaledDotProductAttention

TOKENS, HEADS, REPEATS = 4096, 4, 15
LENGTHS = (16, 32, 65, 96, 128, 197, 256, 512, 1024)
OUTPUT = Path("benchmarks/results/attention_backends.md")


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def ratio(length: int, head_dim: int, dtype: torch.dtype, train: bool, is_masked: bool) -> float:
    """Mathematics over kernel."""
    batch = max(1, TOKENS // length)
    projected = torch.randn(batch, length, 3, HEADS, head_dim, dtype=dtype, requires_grad=train)
    mask = torch.arange(length) < torch.randint(length // 2, length + 1, (batch, 1)) if is_masked else None
    ones = torch.ones(batch, length, HEADS * head_dim, dtype=dtype)

    def run(backend: str) -> Callable[[], Tensor]:
        attention = ScaledDotProductAttention(backend=backend)  # type: ignore[arg-type]

        def once() -> Tensor:
            with torch.set_grad_enabled(train):
                q, k, v = projected.permute(2, 0, 3, 1, 4).unbind(0)
                context: Tensor = attention(q, k, v, mask).transpose(1, 2).flatten(2)
            if train:
                context.backward(ones)
            return context

        return once

    plain, fused = run("math"), run("sdpa")
    for function in (plain, fused):
        function()
        function()
    pairs = [(seconds(plain), seconds(fused)) for _ in range(REPEATS)]
    return statistics.median(a for a, _ in pairs) / statistics.median(b for _, b in pairs)


def main() -> None:
    torch.set_num_threads(2)
    lines = [
        "# Plain attention over torch's fused CPU kernel",
        "",
        " ".join((__doc__ or "").strip().splitlines()[-3:]),
        "",
        f"{date.today()}, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, 2 threads. "
        "Above 1: the kernel is faster. Command: `uv run python -m benchmarks.attention_backends`.",
        "",
        "| | head | " + " | ".join(str(length) for length in LENGTHS) + " |",
        "|---|---|" + "---|" * len(LENGTHS),
    ]
    for train, dtype, is_masked, head_dim in product(
        (True, False), (torch.float32, torch.bfloat16), (False, True), (32, 64)
    ):
        cells = [f"{ratio(length, head_dim, dtype, train, is_masked):.2f}" for length in LENGTHS]
        name = f"{'train' if train else 'infer'} {str(dtype).removeprefix('torch.')}{' masked' if is_masked else ''}"
        lines.append(f"| {name} | {head_dim} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
