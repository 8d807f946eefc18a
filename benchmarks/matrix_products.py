"""fp32 products by MKL (what torch calls) and by oneDNN (what `linear.py` calls): the measurement behind its rule.

uv run python -m benchmarks.matrix_products
"""

import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from torch.nn import functional as F

from benchmarks.environment import processor
from transformer_architectures.kernels.linear import _onednn, transposed_product

SHAPES = [(1, 128, 512), (16, 128, 128), (64, 128, 512), (500, 128, 128), (500, 128, 6000), (2000, 128, 384)]
SHAPES += [(2000, 256, 1024), (2000, 1024, 256), (4096, 1024, 4096)]
OUTPUT = Path("benchmarks/results/matrix_products.md")


def gflops(function: Callable[[], object], shape: tuple[int, int, int], repeats: int = 25) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    rows, inner, columns = shape
    return 2 * rows * inner * columns / statistics.median(times) / 1e9


def main() -> None:
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("highest")
    lines = [
        "# fp32 matrix products: MKL and oneDNN, GFLOP/s",
        "",
        f"{date.today()}, {processor()}, {torch.backends.cpu.get_cpu_capability()}, 2 threads, torch {torch.__version__}. "
        "Error: largest difference from fp64. Command: `uv run python -m benchmarks.matrix_products`.",
        "",
        "| rows × in → out | forward MKL | oneDNN | input gradient MKL | oneDNN | weight gradient MKL | oneDNN | error MKL | oneDNN |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for shape in SHAPES:
        rows, inner, columns = shape
        x, w, g = torch.randn(rows, inner), torch.randn(columns, inner), torch.randn(rows, columns)
        speeds = [
            gflops(function, shape)
            for function in (
                lambda: F.linear(x, w),
                lambda: _onednn(x, w),
                lambda: g @ w,
                lambda: _onednn(g, w.t()),
                lambda: g.t() @ x,
                lambda: transposed_product(g, x),
            )
        ]
        exact = x.double() @ w.double().t()
        errors = [float((output - exact).abs().max()) for output in (F.linear(x, w), _onednn(x, w))]
        cells = [f"{speed:.0f}" for speed in speeds] + [f"{error:.1e}" for error in errors]
        lines.append(f"| {rows} × {inner} → {columns} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    OUTPUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
