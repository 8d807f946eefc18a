"""Seconds and memory of reading OpenImages labels: a synthetic file of 20 million rows, in order and shuffled, plain and gzip.

    uv run python -m benchmarks.image_labels [--rows 20000000] [--case sorted shuffled gzip]

Each measurement is a process of its own: its time, the peak of its resident memory above what it held before, and what the result takes.
"""

import argparse
import gzip
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from benchmarks.memory import MEGABYTE, alone, peak_megabytes

CASES = ("sorted", "shuffled", "gzip")
NUM_CLASSES, LABELS_PER_IMAGE = 9_605, 6.3  # the trainable classes; 57 million labels of 9 million images
HEADER = b"ImageID,Source,LabelName,Confidence\n"


def write_rows(path: Path, num_rows: int, is_sorted: bool) -> None:
    """Random ids of 16 digits, some classes far more frequent than others, six in ten labels positive."""
    generator = np.random.default_rng(0)
    num_images = int(num_rows / LABELS_PER_IMAGE)
    ids = pa.array([f"{value:016x}" for value in generator.integers(0, 2**63, num_images).tolist()])
    images = generator.integers(0, num_images, num_rows)
    images = np.sort(images) if is_sorted else images
    classes = pa.array([f"/m/{number:06x}" for number in range(NUM_CLASSES)])
    with path.open("wb") as file:
        file.write(HEADER)
        for start in range(0, num_rows, 1_000_000):
            picked = images[start : start + 1_000_000]
            table = pa.table(
                {
                    "ImageID": ids.take(pa.array(picked)),
                    "Source": pa.repeat("verification", len(picked)),
                    "LabelName": classes.take(
                        pa.array((NUM_CLASSES * generator.random(len(picked)) ** 3).astype(np.int64))
                    ),
                    "Confidence": (generator.random(len(picked)) < 0.6).astype(np.int8),
                }
            )
            options = pa.csv.WriteOptions(include_header=False, quoting_style="none")
            pa.csv.write_csv(table, file, options)


def measure(path: str, num_rows: int) -> dict[str, float]:
    from transformer_architectures.datasets.images.openimages import read_openimages

    before = peak_megabytes()
    started = time.perf_counter()
    labels = read_openimages(path, images=None)
    seconds = time.perf_counter() - started
    kept = sum(array.nbytes for array in (labels.offsets, labels.class_index, labels.is_positive))
    return {
        "images": len(labels),
        "labels": len(labels.class_index),
        "seconds": seconds,
        "rows_per_second": num_rows / seconds,
        "peak": peak_megabytes() - before,
        "kept": (kept + labels.image_ids.array.nbytes) / MEGABYTE,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    arguments = parser.parse_args()
    print(
        "| rows | file | images | labels | seconds | rows/s | peak MiB | kept MiB |\n|---|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for case in arguments.case:
            path = Path(folder) / "train-annotations-human-imagelabels.csv"
            if case != "gzip" or not path.exists():
                write_rows(path, arguments.rows, is_sorted=case == "sorted")
            if case == "gzip":
                packed = path.with_name(f"{path.name}.gz")
                with path.open("rb") as plain, gzip.open(packed, "wb", compresslevel=1) as file:
                    shutil.copyfileobj(plain, file, 2**20)
                path = packed
            found = alone(measure, str(path), arguments.rows)
            print(
                f"| {arguments.rows:,} | {case} | {found['images']:,.0f} | {found['labels']:,.0f} | {found['seconds']:.1f} "
                f"| {found['rows_per_second']:,.0f} | {found['peak']:,.0f} | {found['kept']:,.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
