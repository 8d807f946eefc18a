"""The embedded default images: real handwritten digits on one canvas, written once in the layout of OpenImages.

* One to four digits (scikit-learn's `load_digits`, 8 x 8 pixels, 250 writers) of any size, place, tilt and brightness, on a background
  that slopes and is noisy. What a digit is can be read from its shape only: a linear model on the pixels finds little (`docs/results.md`).
* Train, validation and test are made from different digits.
* In train a fraction of the labels is left out at random, and so unknown; in validation and test all are verified, so scores are exact.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from transformer_architectures.datasets.cached_folder import cached_folder
from transformer_architectures.datasets.splits import SPLITS, Split
from transformer_architectures.errors import DataError
from transformer_architectures.utils.installation import how_to_install

FORMAT = 1  # raise it when what is written below changes
DIGITS = range(10)
FRACTIONS = (0.7, 0.1, 0.2)  # of each class's digits that go to a split
MAX_DIGITS = 4
SMALLEST = 12.0  # pixels; the largest is 20 alone and 14 among four
DISTANCE = 0.8  # of the mean of two digits' sizes, at least; digits are narrower than their square


@dataclass(frozen=True)
class DigitImagesRecipe:
    """Everything that the images depend on: the same recipe gives the same images."""

    train: int = 12_000
    validation: int = 1_000
    test: int = 2_000
    size: int = 40  # pixels on a side
    unknown_fraction: float = 0.4  # of the training labels that are left out
    seed: int = 0


class DigitImage(NamedTuple):
    """A canvas, and whether each digit is on it."""

    pixels: UInt8[np.ndarray, "size size"]
    is_present: Bool[np.ndarray, "10"]


def digit_images(cache_dir: Path, recipe: DigitImagesRecipe = DigitImagesRecipe()) -> Path:
    """The folder with the images of a recipe, made now or found from an earlier run; there whole or not at all."""
    settings = json.dumps({"format": FORMAT, **asdict(recipe)}, sort_keys=True)
    name = hashlib.sha256(settings.encode()).hexdigest()[:32]
    return cached_folder(cache_dir / f"digits_{name}", lambda folder: write_digit_images(folder, recipe))


def write_digit_images(folder: Path, recipe: DigitImagesRecipe = DigitImagesRecipe()) -> None:
    """Writes `train/`, `validation/` and `test/` with PNG files, and `annotations/` with the files that OpenImages has."""
    annotations = folder / "annotations"
    annotations.mkdir(parents=True)
    names = "".join(f"{label_name(digit)},{digit}\n" for digit in DIGITS)
    (annotations / "class-descriptions.csv").write_text(f"LabelName,DisplayName\n{names}", encoding="ascii")
    for split in SPLITS:
        (folder / split).mkdir()
        hides = np.random.default_rng([recipe.seed, SPLITS.index(split), 1])
        with (annotations / f"{split}-annotations-human-imagelabels.csv").open("w", encoding="ascii") as file:
            file.write("ImageID,Source,LabelName,Confidence\n")
            for number, image in enumerate(make_images(recipe, split)):
                image_id = hashlib.sha256(f"{recipe.seed} {split} {number}".encode()).hexdigest()[:16]
                Image.fromarray(image.pixels).save(folder / split / f"{image_id}.png", compress_level=1)
                is_listed = hides.random(len(DIGITS)) >= (recipe.unknown_fraction if split == "train" else 0)
                if not is_listed.any():
                    is_listed = image.is_present
                file.writelines(
                    f"{image_id},verification,{label_name(digit)},{int(image.is_present[digit])}\n"
                    for digit in DIGITS
                    if is_listed[digit]
                )


def label_name(digit: int) -> str:
    """The machine's name of a class."""
    return f"/m/digit{digit}"


@cache
def handwritten_digits() -> tuple[Float[np.ndarray, "digits 8 8"], Int[np.ndarray, "digits"]]:
    """Ink between 0 and 1, and which digit it is.

    Raises:
        DataError: the package with the data is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        install = how_to_install("data", "scikit-learn")
        raise DataError(f"the embedded digits need scikit-learn: {install}") from None
    found = load_digits()
    return (found.images / 16).astype(np.float32), found.target


def digits_of(split: Split, seed: int) -> Int[np.ndarray, "digits"]:
    """Which of the handwritten digits a split is made from: the same fraction of every class, none in two splits."""
    _, targets = handwritten_digits()
    generator = np.random.default_rng([seed, len(SPLITS)])
    ends = np.cumsum((0, *FRACTIONS))
    chosen = []
    for digit in DIGITS:
        members = generator.permutation(np.flatnonzero(targets == digit))
        first, last = np.round(ends[SPLITS.index(split) : SPLITS.index(split) + 2] * len(members)).astype(int)
        chosen.append(members[first:last])
    return np.concatenate(chosen)


def make_images(recipe: DigitImagesRecipe, split: Split) -> Iterator[DigitImage]:
    """The images of a split, one by one."""
    images, targets = handwritten_digits()
    usable = digits_of(split, recipe.seed)
    generator = np.random.default_rng([recipe.seed, SPLITS.index(split), 0])
    for _ in range(getattr(recipe, split)):
        chosen = generator.choice(usable, generator.integers(1, MAX_DIGITS + 1), replace=False)
        centres, sizes = _layout(len(chosen), recipe.size, generator)
        tilts = generator.uniform(-0.25, 0.25, len(chosen))  # radians
        ink = _drawn(images[chosen], centres, sizes, tilts, recipe.size)
        is_present = np.zeros(len(DIGITS), dtype=bool)
        is_present[targets[chosen]] = True
        yield DigitImage(_exposed(ink, generator), is_present)


def _layout(
    count: int, canvas: int, generator: np.random.Generator
) -> tuple[Float[np.ndarray, "digits 2"], Float[np.ndarray, "digits"]]:
    """Centres (row, column) and sizes, drawn anew until no two digits are too close."""
    while True:
        sizes = generator.uniform(SMALLEST, 20 - 2 * (count - 1), count)
        centres = generator.uniform(sizes[:, None] / 2, canvas - sizes[:, None] / 2, (count, 2))
        distances = np.hypot(*(centres[:, None] - centres).T)
        is_close = distances < DISTANCE * (sizes[:, None] + sizes) / 2
        if is_close.sum() == count:  # each digit only to itself
            return centres, sizes


def _drawn(
    digits: Float[np.ndarray, "digits 8 8"],
    centres: Float[np.ndarray, "digits 2"],
    sizes: Float[np.ndarray, "digits"],
    tilts: Float[np.ndarray, "digits"],
    canvas: int,
) -> Float[np.ndarray, "digits canvas canvas"]:
    """Each digit's ink on the canvas: every pixel looks up where it comes from, between the digit's pixels bilinearly."""
    places = np.stack(np.meshgrid(np.arange(canvas), np.arange(canvas), indexing="ij")) + 0.5
    rows, columns = places[:, None] - centres.T[:, :, None, None]
    scale = (8 / sizes)[:, None, None]
    cosine, sine = np.cos(tilts)[:, None, None] * scale, np.sin(tilts)[:, None, None] * scale
    padded = np.pad(digits, ((0, 0), (1, 2), (1, 2)))  # no ink around it
    from_rows = np.clip(4.5 + cosine * rows - sine * columns, 0, 9)
    from_columns = np.clip(4.5 + sine * rows + cosine * columns, 0, 9)
    row, column = from_rows.astype(np.int64), from_columns.astype(np.int64)
    down, right = from_rows - row, from_columns - column
    place = (np.arange(len(digits))[:, None, None] * 11 + row) * 11 + column
    pixels = padded.ravel()
    above = pixels[place] * (1 - right) + pixels[place + 1] * right
    below = pixels[place + 11] * (1 - right) + pixels[place + 12] * right
    return above * (1 - down) + below * down


def _exposed(
    ink: Float[np.ndarray, "digits size size"], generator: np.random.Generator
) -> UInt8[np.ndarray, "size size"]:
    """Light ink, each digit of its own brightness, on a dark background that slopes; and noise."""
    size = ink.shape[-1]
    slope = generator.uniform(-0.15, 0.15, 2)
    across = np.linspace(-1, 1, size)
    light = generator.uniform(0.15, 0.4) + slope[0] * across[:, None] + slope[1] * across
    for one in ink:
        light = light + one * generator.uniform(0.35, 0.6)
    light = light + generator.normal(0, generator.uniform(0.02, 0.06), (size, size))
    return np.round(np.clip(light, 0, 1) * 255).astype(np.uint8)
