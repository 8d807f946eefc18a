"""The splits of an image data set: read, divided, and without the images that cannot be used."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
from jaxtyping import Int64

from transformer_architectures.datasets.images.data_config import ImageDataConfig, ImageFilesConfig
from transformer_architectures.datasets.images.digits import DigitImagesRecipe, digit_images
from transformer_architectures.datasets.images.hidden_labels import hide_negatives
from transformer_architectures.datasets.images.image_check import ColorStatistics, check_images
from transformer_architectures.datasets.images.image_folder import read_image_folder
from transformer_architectures.datasets.images.image_labels import ImageLabels
from transformer_architectures.datasets.images.image_source import ImageSource, open_images
from transformer_architectures.datasets.images.openimages import read_openimages
from transformer_architectures.datasets.images.pixel_store import PixelStore
from transformer_architectures.datasets.rejections import RejectionLog
from transformer_architectures.datasets.splits import SPLITS, Split, SplitsRecipe, is_set_apart, sample_by_hash
from transformer_architectures.errors import DataError
from transformer_architectures.metrics import class_coverage


@dataclass(frozen=True, eq=False)
class ImageSplit:
    """Images and labels of one split.

    Attributes:
        path: of the images.
        pixels: decoded images of the whole source, only with `Data.cache_decoded`.
        places: index of each image among them.
    """

    labels: ImageLabels
    source: ImageSource
    path: Path
    pixels: PixelStore | None = None
    places: Int64[np.ndarray, "images"] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Int64[np.ndarray, "picked"]) -> "ImageSplit":
        """The images of the given indices, in that order."""
        places = None if self.places is None else self.places[indices]
        return replace(self, labels=self.labels.select(indices), places=places)


class ImageSplits(NamedTuple):
    """All splits, and mean and standard deviation of each channel over the training images."""

    splits: dict[Split, ImageSplit]
    color_statistics: ColorStatistics
    notes: tuple[str, ...]  # what a user should know, one sentence each
    rejected: Counter[str]  # images that cannot be used, by reason


def prepare_splits(config: ImageDataConfig, rejected_path: Path | None = None) -> ImageSplits:
    """Reads labels, splits, and examines every image (or finds the result of an earlier time).

    An image that cannot be used is left out and listed, in every split: one that is scored, too. The list comes from the same rule for
    all, so a score is that of the images that are left, and ``notes`` says how many are not.

    Args:
        rejected_path: gets a JSON line for each image and for each row of a label file that cannot be used.

    Raises:
        DataError: a file is missing or bad, too much of a split had to be rejected, or there is nothing to train or validate on.
    """
    cache_dir = Path(config.cache_dir).expanduser()
    with ExitStack() as stack:
        listing = None if rejected_path is None else stack.enter_context(rejected_path.open("w", encoding="utf-8"))
        splits = _read_splits(config, cache_dir, listing)
        rejected: Counter[str] = Counter()
        notes = [f"{split}: {note}" for split, images in splits.items() for note in images.labels.notes]
        statistics: ColorStatistics | None = None
        for split, images in splits.items():
            ids = images.labels.image_ids
            check = check_images(images.source, images.path, ids, cache_dir, config.cache_decoded)
            log = RejectionLog(listing)
            for rejection in check.rejections:
                log.add(rejection)
            rejected += log.reasons
            usable = check.is_usable.nonzero()[0]
            log.check(len(usable), config.max_rejected_fraction, f"{split} images")
            if len(log):
                notes.append(f"{split}: {len(log)} of {len(ids)} images cannot be used{log.summary()}")
            if not len(usable):
                raise DataError(f"no image is left in the {split} split{_advice(split)}")
            splits[split] = replace(images, pixels=check.pixels, places=np.arange(len(ids))).select(usable)
            if split == "train":
                statistics = check.color_statistics()
            else:
                notes += _coverage_notes(split, splits[split].labels)
    assert statistics is not None
    return ImageSplits(splits, statistics, tuple(notes), rejected)


def _coverage_notes(split: Split, labels: ImageLabels) -> list[str]:
    """Which classes the scores of a split are not of, if any; before training, and not in its log only."""
    coverage = class_coverage(*labels.class_frequencies())
    if not coverage.scored:
        raise DataError(f"no image of the {split} split is verified to show a class: there is nothing to score")
    return [f"{split}: {coverage}"] if coverage.skipped or coverage.without_negative else []


def _advice(split: Split) -> str:
    return ": give Data.validation, or a larger Data.validation_fraction" if split == "validation" else ""


def _read_splits(config: ImageDataConfig, cache_dir: Path, listing: TextIO | None) -> dict[Split, ImageSplit]:
    sources: Mapping[str, ImageFilesConfig | None] = {split: getattr(config, split) for split in SPLITS}
    if (digits := config.train.digits) is not None:
        config, sources = _with_digits(config, digit_images(cache_dir, DigitImagesRecipe(**digits.model_dump())))
    recipe = SplitsRecipe(**sources, **config.amounts())  # type: ignore[arg-type]
    train = _read(recipe.train, config, None, listing)
    splits: dict[Split, ImageSplit] = {}
    for split in SPLITS[1:]:
        if (source := recipe.source_of(split)) is not None:
            splits[split] = _read(source, config, train.labels.classes, listing)
    if recipe.splits_train():
        fraction, ids = recipe.validation_fraction, train.labels.image_ids
        apart = np.fromiter((is_set_apart(id_, fraction) for id_ in ids), bool, len(ids))
        splits["validation"] = train.select(np.flatnonzero(apart))
        train = train.select(np.flatnonzero(~apart))
    if recipe.num_samples is not None:
        keys = (f"sample {id_}" for id_ in train.labels.image_ids)
        train = train.select(sample_by_hash(keys, recipe.num_samples))
    return {"train": replace(train, labels=hide_negatives(train.labels, config.hidden_negatives)), **splits}


def _with_digits(config: ImageDataConfig, folder: Path) -> tuple[ImageDataConfig, dict[str, ImageFilesConfig | None]]:
    """The digits' folder, declared as if a user had."""
    annotations = folder / "annotations"
    sources: dict[str, ImageFilesConfig | None] = {
        split: ImageFilesConfig(
            pictures=str(folder / split), annotations=str(annotations / f"{split}-annotations-human-imagelabels.csv")
        )
        for split in SPLITS
    }
    return config.model_copy(update={"class_descriptions": str(annotations / "class-descriptions.csv")}), sources


def _read(
    files: ImageFilesConfig, config: ImageDataConfig, classes: Sequence[str] | None, listing: TextIO | None
) -> ImageSplit:
    """One declared split; ``classes`` are those of the training split."""
    if files.image_folder is not None:
        labels, source = read_image_folder(files.image_folder, classes)
        return ImageSplit(labels, source, Path(files.image_folder))
    assert files.pictures is not None and files.annotations is not None
    source = open_images(files.pictures)
    labels = read_openimages(
        files.annotations,
        source,
        config.class_descriptions,
        config.classes_trainable,
        files.machine_labels or (),
        0.8 if files.machine_confidence is None else files.machine_confidence,
        classes=classes,
        rejections=RejectionLog(listing),
        max_rejected_fraction=config.max_rejected_fraction,
    )
    return ImageSplit(labels, source, Path(files.pictures))
