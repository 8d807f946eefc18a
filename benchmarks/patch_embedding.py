"""Images to patches by convolution and by matrix product: the measurement behind `PatchEmbedding`.

uv run python -m benchmarks.patch_embedding
"""

import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.environment import processor
from transformer_architectures.architectures.vit.transformer import PatchEmbedding

# Images, pixels of a side, pixels of a patch, width.
SIZES = [(1, 224, 16, 192), (16, 224, 16, 192), (16, 224, 16, 768), (128, 32, 4, 192), (8, 224, 14, 1024)]
OUTPUT = Path("benchmarks/results/patch_embedding.md")


class Convolution(PatchEmbedding):
    """The same layer by torch's convolution."""

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(images, self.weight, self.bias, stride=self.weight.shape[-1]).flatten(2).transpose(1, 2)


def train(layer: nn.Module, images: Tensor, positions: Tensor) -> None:
    """Forward and backward, with the sum that stands behind both."""
    (layer(images) + positions).backward(torch.ones_like(positions).expand(len(images), -1, -1))


@torch.no_grad()
def infer(layer: nn.Module, images: Tensor, positions: Tensor) -> None:
    layer(images) + positions


def fastest(*functions: Callable[[], object], repeats: int = 15) -> list[float]:
    """Milliseconds of each, measured in turns."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, found in zip(functions, times, strict=True):
            started = time.perf_counter()
            function()
            found.append(1000 * (time.perf_counter() - started))
    return [min(found) for found in times]


def main() -> None:
    torch.set_num_threads(2)
    lines = [
        "# Patches by convolution and by matrix product, milliseconds",
        "",
        f"{date.today()}, {processor()}, {torch.backends.cpu.get_cpu_capability()}, 2 threads, torch {torch.__version__}, fastest "
        "of 15 in turns, positions added; compare within a row only, other work disturbed. Command: `uv run python -m benchmarks.patch_embedding`.",
        "",
        "| images × side / patch → width | type | inference: convolution | product | training: convolution | product |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for batch, side, patch, width in SIZES:
        for dtype in (torch.float32, torch.bfloat16):
            layers = [kind(3, width, patch).to(dtype) for kind in (Convolution, PatchEmbedding)]
            for weight in (weight for layer in layers for weight in layer.parameters()):
                nn.init.normal_(weight)
            images = torch.randn(batch, 3, side, side, dtype=dtype)
            positions = torch.randn(1, (side // patch) ** 2, width, dtype=dtype)
            times = [
                *fastest(*(lambda layer=layer: infer(layer, images, positions) for layer in layers)),
                *fastest(*(lambda layer=layer: train(layer, images, positions) for layer in layers)),
            ]
            cells = " | ".join(f"{value:.2f}" for value in times)
            lines.append(f"| {batch} × {side} / {patch} → {width} | {str(dtype).removeprefix('torch.')} | {cells} |")
            print(lines[-1], flush=True)
    OUTPUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
