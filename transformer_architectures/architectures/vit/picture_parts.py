"""The parts of a picture data set, ready to be loaded: read, split, and without the pictures that cannot be used."""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
from jaxtyping import Int64

from transformer_architectures.architectures.vit.data_config import PictureFilesConfig, VitDataConfig
from transformer_architectures.datasets.digits import PARTS, DigitPicturesRecipe, digit_pictures
from transformer_architectures.datasets.hidden_labels import hide_negatives
from transformer_architectures.datasets.image_folder import read_image_folder
from transformer_architectures.datasets.openimages import read_openimages
from transformer_architectures.datasets.picture_check import ColorStatistics, check_pictures
from transformer_architectures.datasets.picture_labels import PictureLabels
from transformer_architectures.datasets.pictures import PictureSource, open_pictures
from transformer_architectures.datasets.pixel_store import PixelStore
from transformer_architectures.datasets.rejections import RejectionLog
from transformer_architectures.datasets.splitting import Part, hash_position, is_validation
from transformer_architectures.errors import DataError
from transformer_architectures.metrics import class_coverage


@dataclass(frozen=True, eq=False)
class PicturePart:
    """Pictures and labels of one part.

    Attributes:
        path: where the pictures lie.
        pixels, places: decoded pictures, and where among them each one stands; only with `Data.cache_decoded`.
    """

    labels: PictureLabels
    source: PictureSource
    path: Path
    pixels: PixelStore | None = None
    places: Int64[np.ndarray, "pictures"] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Int64[np.ndarray, "picked"]) -> "PicturePart":
        """The pictures at the given places, in that order."""
        places = None if self.places is None else self.places[indices]
        return replace(self, labels=self.labels.select(indices), places=places)


class PictureParts(NamedTuple):
    """All parts, and mean and standard deviation of each channel over the training pictures."""

    parts: dict[Part, PicturePart]
    color_statistics: ColorStatistics
    notes: tuple[str, ...]  # what a user should know, one sentence each
    rejected: Counter[str]  # pictures that cannot be used, by reason


def prepare_parts(config: VitDataConfig, rejected_path: Path | None = None) -> PictureParts:
    """Reads labels, splits, and examines every picture (or finds the result of an earlier time).

    A picture that cannot be used is left out and listed, in every part: one that is scored, too. The list comes from the same rule for
    all, so a score is that of the pictures that are left, and ``notes`` says how many are not.

    Args:
        rejected_path: gets a JSON line for each picture and for each row of a label file that cannot be used.

    Raises:
        DataError: a file is missing or bad, too much of a part had to be rejected, or there is nothing to train or validate on.
    """
    cache_dir = Path(config.cache_dir).expanduser()
    with ExitStack() as stack:
        listing = None if rejected_path is None else stack.enter_context(rejected_path.open("w", encoding="utf-8"))
        parts = _read_parts(config, cache_dir, listing)
        rejected: Counter[str] = Counter()
        notes = [f"{part}: {note}" for part, pictures in parts.items() for note in pictures.labels.notes]
        statistics: ColorStatistics | None = None
        for part, pictures in parts.items():
            ids = pictures.labels.picture_ids
            check = check_pictures(pictures.source, pictures.path, ids, cache_dir, config.cache_decoded)
            log = RejectionLog(listing)
            for rejection in check.rejections:
                log.add(rejection)
            rejected += log.reasons
            usable = check.is_usable.nonzero()[0]
            log.check(len(usable), config.max_rejected_fraction, f"{part} pictures")
            if len(log):
                notes.append(f"{part}: {len(log)} of {len(ids)} pictures cannot be used{log.summary()}")
            if not len(usable):
                raise DataError(f"no picture is left in the {part} part{_advice(part)}")
            parts[part] = replace(pictures, pixels=check.pixels, places=np.arange(len(ids))).select(usable)
            if part == "train":
                statistics = check.color_statistics()
            else:
                notes += _coverage_notes(part, parts[part].labels)
    assert statistics is not None
    return PictureParts(parts, statistics, tuple(notes), rejected)


def _coverage_notes(part: Part, labels: PictureLabels) -> list[str]:
    """Which classes the scores of a part are not of, if any; before training, and not in its log only."""
    coverage = class_coverage(*labels.class_frequencies())
    if not coverage.scored:
        raise DataError(f"no picture of the {part} part is verified to show a class: there is nothing to score")
    return [f"{part}: {coverage}"] if coverage.skipped or coverage.without_negative else []


def _advice(part: Part) -> str:
    return ": give Data.validation, or a larger Data.validation_fraction" if part == "validation" else ""


def _read_parts(config: VitDataConfig, cache_dir: Path, listing: TextIO | None) -> dict[Part, PicturePart]:
    files: dict[Part, PictureFilesConfig | None] = {
        "train": config.train,
        "validation": config.validation,
        "test": config.test,
    }
    if (digits := config.train.digits) is not None:
        config, files = _with_digits(config, digit_pictures(cache_dir, DigitPicturesRecipe(**digits.model_dump())))
    train = _read(files["train"] or config.train, config, None, listing)
    parts: dict[Part, PicturePart] = {}
    for part, declared in files.items():
        if part != "train" and declared is not None:
            parts[part] = _read(declared, config, train.labels.classes, listing)
    if "validation" not in parts:
        fraction, ids = config.validation_fraction, train.labels.picture_ids
        is_set_apart = np.fromiter((is_validation(id_, fraction) for id_ in ids), bool, len(ids))
        parts["validation"] = train.select(np.flatnonzero(is_set_apart))
        train = train.select(np.flatnonzero(~is_set_apart))
    if config.num_samples is not None:
        train = train.select(_sample(train.labels.picture_ids, config.num_samples))
    return {"train": replace(train, labels=hide_negatives(train.labels, config.hidden_negatives)), **parts}


def _with_digits(config: VitDataConfig, folder: Path) -> tuple[VitDataConfig, dict[Part, PictureFilesConfig | None]]:
    """The digits' folder, declared as if a user had."""
    annotations = folder / "annotations"
    files: dict[Part, PictureFilesConfig | None] = {
        part: PictureFilesConfig(
            pictures=str(folder / part), annotations=str(annotations / f"{part}-annotations-human-imagelabels.csv")
        )
        for part in PARTS
    }
    return config.model_copy(update={"class_descriptions": str(annotations / "class-descriptions.csv")}), files


def _read(
    files: PictureFilesConfig, config: VitDataConfig, classes: Sequence[str] | None, listing: TextIO | None
) -> PicturePart:
    """One declared part; ``classes`` are those of the training part."""
    if files.image_folder is not None:
        labels, source = read_image_folder(files.image_folder, classes)
        return PicturePart(labels, source, Path(files.image_folder))
    assert files.pictures is not None and files.annotations is not None
    source = open_pictures(files.pictures)
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
    return PicturePart(labels, source, Path(files.pictures))


def _sample(ids: Sequence[str], size: int) -> Int64[np.ndarray, "sample"]:
    """Places of ``size`` ids, in order: those with the smallest hashes, so that a longer list of files changes few of them."""
    positions = np.fromiter((hash_position(f"sample {id_}") for id_ in ids), np.float64, len(ids))
    return np.sort(np.argsort(positions, kind="stable")[:size])
