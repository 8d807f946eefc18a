"""Does the loader keep the model fed? Images per second of decoding and augmentation alone, of the training step alone, and of both.

    .bench/bin/python -m benchmarks.vision loading [--workers 0,1,2]

Images are made here: smooth noise, as JPEG of 500 × 375 pixels (what OpenImages and ImageNet are about) or as 32 × 32 that
are kept decoded. Waits: the share of a training run's time in which the step has no batch; with 0 workers it decodes itself.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn import functional as F
from torchvision.io import write_jpeg

from benchmarks.environment import environment
from benchmarks.tables import add_row
from benchmarks.vision_systems import SIZES, Size, ours
from transformer_architectures.architectures.vit import LabeledBatch, TransformerDataModule, VitDataConfig
from transformer_architectures.training.precision import apply_runtime_settings, resolve_precision

RESULT = "image_loading.jsonl"
WARM_UP_BATCHES = 2
CASES = {
    "224 pixels from JPEG, TrivialAugment": {
        "height_and_width": (375, 500),
        "images": 640,
        "data": {"augmentation": {"crop": "random_resized", "auto_augment": "trivial"}},
    },
    "32 pixels kept decoded, RandAugment, erasing, mixup, cutmix": {
        "height_and_width": (32, 32),
        "images": 4096,
        "data": {
            "cache_decoded": True,
            "augmentation": {
                "crop": "padded",
                "auto_augment": "randaugment",
                "erasing": 0.25,
                "mixup": 0.8,
                "cutmix": 1.0,
                "mixed": 0.8,
            },
        },
    },
}


def write_images(folder: Path, count: int, height: int, width: int) -> None:
    """Two classes of coloured clouds with some grain, about as hard to compress as photographs."""
    for number in range(count):
        clouds = torch.rand(1, 3, max(2, height // 25), max(2, width // 25))
        smooth = F.interpolate(clouds, (height, width), mode="bicubic")[0]
        pixels = (smooth + 0.03 * torch.randn(3, height, width)).clamp(0, 1).mul(255).byte()
        path = folder / f"class_{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        write_jpeg(pixels, str(path), quality=90)


def batches(data: TransformerDataModule) -> Iterator[LabeledBatch]:
    for epoch in itertools.count():
        yield from data.train_dataloader(epoch)


def images_per_second(data: TransformerDataModule, count: int) -> float:
    """Of the loader alone. Its first start is not counted; workers that an epoch ends start again for the next, and that is."""
    loader = batches(data)
    for _ in range(WARM_UP_BATCHES):
        next(loader)
    started = time.perf_counter()
    loaded = sum(batch.num_tokens for batch in itertools.islice(loader, count))
    return loaded / (time.perf_counter() - started)


def training(size: Size, source: Iterator[LabeledBatch], count: int) -> tuple[float, float]:
    """Images per second of training in the precision that is ours, and the share of time that it waits for them."""
    model = ours(size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    precision = resolve_precision("auto", torch.device("cpu"))
    waited, seen, started = 0.0, 0, 0.0
    for number in range(-WARM_UP_BATCHES, count):
        if number == 0:
            waited, seen, started = 0.0, 0, time.perf_counter()
        asked = time.perf_counter()
        batch = next(source)
        waited += time.perf_counter() - asked
        optimizer.zero_grad(set_to_none=True)
        with precision.autocast():
            logits = model(batch.images)
        loss = F.binary_cross_entropy_with_logits(logits.float()[:, : batch.labels.shape[1]], batch.labels)
        loss.backward()
        optimizer.step()
        seen += batch.num_tokens
    seconds = time.perf_counter() - started
    return seen / seconds, waited / seconds


def measure(case: str, size: Size, workers: list[int], num_batches: int) -> list[dict[str, float]]:
    settings = CASES[case]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "images"
        root.mkdir()
        write_images(root, settings["images"], *settings["height_and_width"])  # type: ignore[misc]
        for num_workers in workers:
            config = {
                "train": {"image_folder": str(root)},
                "validation_fraction": 0.05,
                "num_workers": num_workers,
                "cache_dir": folder,
                **settings["data"],  # type: ignore[dict-item]
            }
            data = TransformerDataModule(
                VitDataConfig.model_validate(config), (size.pixels, size.pixels), seed=1, batch_size=size.batch
            )
            data.setup()
            loaded = images_per_second(data, num_batches)
            kept = list(itertools.islice(batches(data), 4))
            alone, _ = training(size, itertools.cycle(kept), num_batches)
            together, waits = training(size, batches(data), num_batches)
            found = {"workers": num_workers, "loader": loaded, "step": alone, "training": together, "waits": waits}
            print(case, {name: round(value, 3) for name, value in found.items()}, flush=True)
            rows.append(found)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", default="0,1,2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, default=24)
    arguments = parser.parse_args()
    apply_runtime_settings(arguments.threads)
    workers = [int(number) for number in arguments.workers.split(",")]
    for case, size in zip(CASES, SIZES, strict=True):
        rows = measure(case, size, workers, arguments.batches)
        add_row(RESULT, {"case": case, "size": size.name, "environment": environment("torchvision"), "rows": rows})
