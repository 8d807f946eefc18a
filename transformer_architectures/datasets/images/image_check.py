"""Which images can be used is known before the first step: each is decoded once, in several processes, and the result is kept.

A look at the headers alone would be faster and finds no truncated file; an image that is found to be bad in the middle of a
run would change batches, or end the run. Decoding everything costs about as much as the loader's work for one epoch, once:
the result is cached under the hash of the ids and of the files' names, sizes and times of change. The histograms of the
colours, and the decoded pixels of small images, are by-products.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
import torchvision
from jaxtyping import Bool, Float64, UInt8

from transformer_architectures.datasets.cached_folder import cached_folder
from transformer_architectures.datasets.images.image_decoding import RejectedImage, decode_image_bytes
from transformer_architectures.datasets.images.image_source import ImageSource, files_below
from transformer_architectures.datasets.images.pixel_store import PixelStore, PixelStoreWriter
from transformer_architectures.datasets.items_in_order import items_in_order
from transformer_architectures.datasets.rejections import Rejection
from transformer_architectures.datasets.splits import hash_position

FORMAT = 1  # raise it when what is written below changes
HISTOGRAM_IMAGES = 10_000  # more do not change the third digit of mean and standard deviation
IMAGES_PER_CHUNK = 16

ColorHistogram = Float64[np.ndarray, "3 256"]
ColorStatistics = tuple[tuple[float, float, float], tuple[float, float, float]]  # mean and standard deviation


@dataclass(frozen=True, eq=False)
class ImageCheck:
    """What examining images found.

    Attributes:
        is_usable: for each id that was asked for.
        rejections: the others, with their reasons.
        color_histogram: share of the pixels that have a value, for each channel, every image with the same weight; of a sample
            of `HISTOGRAM_IMAGES` that is chosen by hash. NaN if no image can be used.
        pixels: all of them decoded, where that was asked for.
    """

    is_usable: Bool[np.ndarray, "images"]
    rejections: tuple[Rejection, ...]
    color_histogram: ColorHistogram
    pixels: PixelStore | None

    def color_statistics(self) -> ColorStatistics:
        """Mean and standard deviation of each channel on the scale 0–1, rounded to the 6th digit."""
        values = np.arange(256) / 255
        mean = (self.color_histogram * values).sum(axis=1)
        variance = (self.color_histogram * (values - mean[:, None]) ** 2).sum(axis=1)
        std = np.sqrt(variance).clip(min=1 / 255)  # a channel may be the same everywhere
        (r_mean, g_mean, b_mean), (r_std, g_std, b_std) = mean.round(6).tolist(), std.round(6).tolist()
        return (r_mean, g_mean, b_mean), (r_std, g_std, b_std)


def check_images(
    source: ImageSource, path: Path, ids: Sequence[str], cache_dir: Path, keep_pixels: bool = False
) -> ImageCheck:
    """Examines images, or finds the result of an earlier time in the cache.

    Args:
        path: where the source lies; a change of a file in it is noticed by name, size or time.
    """
    key = hashlib.sha256(
        json.dumps([FORMAT, PIL.__version__, torchvision.__version__, keep_pixels, HISTOGRAM_IMAGES]).encode()
    )
    key.update(files_digest(path))
    for id_ in ids:
        key.update(id_.encode() + b"\n")

    folder = cached_folder(
        cache_dir / f"pictures-{key.hexdigest()[:32]}", lambda work: _write(work, source, ids, keep_pixels)
    )
    rejected = [json.loads(line) for line in (folder / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    return ImageCheck(
        is_usable=np.load(folder / "is_usable.npy"),
        rejections=tuple(Rejection(id_, None, reason) for id_, reason in rejected),
        color_histogram=np.load(folder / "color_histogram.npy"),
        pixels=PixelStore(folder) if keep_pixels else None,
    )


def files_digest(path: Path) -> bytes:
    """SHA-256 over the place of a file or tree and names, sizes and times of change of its files; their content is not read."""
    digest = hashlib.sha256(f"{path.resolve()}\0".encode(errors="surrogateescape"))
    for name in [""] if path.is_file() else files_below(path):
        try:
            status = (path / name).stat()
            found = f"{status.st_size}\0{status.st_mtime_ns}"
        except OSError as error:  # a link to nowhere, a file that is just being replaced
            found = f"{error.strerror}"
        digest.update(f"{name}\0{found}\n".encode(errors="surrogateescape"))
    return digest.digest()


class Examined(NamedTuple):
    """What is found of one image."""

    reason: str | None  # why it cannot be used
    color_histogram: ColorHistogram | None = None
    pixels: UInt8[np.ndarray, "3 height width"] | None = None


class _Examination:
    """Item ``i`` is what the ``i``-th chunk of images gives."""

    def __init__(self, source: ImageSource, ids: Sequence[str], keep_pixels: bool) -> None:
        self.source, self.ids, self.keep_pixels = source, ids, keep_pixels

    def __len__(self) -> int:
        return -(-len(self.ids) // IMAGES_PER_CHUNK)

    def __getitem__(self, chunk: int) -> list[Examined]:
        start = chunk * IMAGES_PER_CHUNK
        return [self._examine(id_) for id_ in self.ids[start : start + IMAGES_PER_CHUNK]]

    def _examine(self, id_: str) -> Examined:
        if id_ not in self.source:
            return Examined("no such image")
        try:
            image = decode_image_bytes(self.source.read(id_)).numpy()
        except RejectedImage as rejection:
            return Examined(rejection.reason)
        return Examined(None, self._histogram(id_, image), image if self.keep_pixels else None)

    def _histogram(self, id_: str, image: UInt8[np.ndarray, "3 height width"]) -> ColorHistogram | None:
        if hash_position(f"colors {id_}") * len(self.ids) >= HISTOGRAM_IMAGES:
            return None
        counts = np.stack([np.bincount(channel.ravel(), minlength=256) for channel in image])
        return counts / counts[0].sum()


def _write(folder: Path, source: ImageSource, ids: Sequence[str], keep_pixels: bool) -> None:
    is_usable = np.zeros(len(ids), dtype=bool)
    histogram, num_histograms = np.zeros((3, 256)), 0
    with (
        (folder / "rejected.jsonl").open("w", encoding="utf-8") as rejected,
        PixelStoreWriter(folder) if keep_pixels else nullcontext() as store,
    ):
        for place, (id_, examined) in enumerate(zip(ids, _examine_all(source, ids, keep_pixels), strict=True)):
            if place and place % 100_000 == 0:
                print(f"{place:,} of {len(ids):,} images examined", file=sys.stderr)
            is_usable[place] = examined.reason is None
            if examined.reason is not None:
                rejected.write(json.dumps([id_, examined.reason]) + "\n")
            if examined.color_histogram is not None:
                histogram += examined.color_histogram
                num_histograms += 1
            if store is not None:
                store.append(examined.pixels)
    np.save(folder / "is_usable.npy", is_usable)
    np.save(folder / "color_histogram.npy", histogram / num_histograms if num_histograms else histogram * np.nan)


def _examine_all(source: ImageSource, ids: Sequence[str], keep_pixels: bool) -> Iterator[Examined]:
    for chunk in items_in_order(_Examination(source, ids, keep_pixels), len(ids)):
        yield from chunk
