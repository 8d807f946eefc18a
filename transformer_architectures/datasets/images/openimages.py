"""OpenImages, V4 to V7: verified labels as CSV files beside folders or tars of images.

A human-verified label says that a class is present (confidence 1) or absent (0); what is not listed is unknown. A machine's label,
where it is used, says present; it never says absent, and it says nothing where a human has.
"""

import csv
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from transformer_architectures.datasets.images.collected_labels import CollectedLabels
from transformer_architectures.datasets.images.image_labels import ImageLabels
from transformer_architectures.datasets.images.image_source import ImageSource
from transformer_architectures.datasets.images.label_rows import LEFT_OUT, Meaning, read_label_rows
from transformer_architectures.datasets.lines import decode, read_lines
from transformer_architectures.datasets.rejections import RejectionLog
from transformer_architectures.errors import DataError

AnyPath = str | Path


def read_openimages(
    annotations: AnyPath | Sequence[AnyPath],
    images: ImageSource | None,
    class_descriptions: AnyPath | None = None,
    classes_trainable: AnyPath | None = None,
    machine_labels: AnyPath | Sequence[AnyPath] = (),
    machine_confidence: float = 0.8,
    *,
    classes: Sequence[str] | None = None,
    rejections: RejectionLog | None = None,
    max_rejected_fraction: float = 1.0,
) -> ImageLabels:
    """Reads label files, plain or `.gz`; images come out sorted by id, labels sorted by class.

    Which classes there are: ``classes``, or those in ``classes_trainable``, or those in ``class_descriptions``, or else all that occur in a file.
    Labels of other classes are left out and counted; with descriptions, a class that has none is an error of its row.

    One pair may be listed often (OpenImages has several sources). Where humans contradict each other it counts as unknown:
    an image on which they differ verifies nothing. `ImageLabels.notes` says how many.

    Args:
        annotations: `*-annotations-human-imagelabels.csv`: `ImageID,Source,LabelName,Confidence`.
        images: only images that are in it are kept; None keeps all that have labels.
        class_descriptions: `class-descriptions.csv`: `LabelName,DisplayName`, with or without this header.
        classes_trainable: `classes-trainable.txt`: a `LabelName` a line.
        machine_labels: `*-annotations-machine-imagelabels.csv`, used from ``machine_confidence`` on. In OpenImages they begin at 0.5.
        classes: those of a model or of the training part, in its order of indices: sorted.
        rejections: gets every row that cannot be used.
        max_rejected_fraction: of all rows; those that are left out count as good.

    Raises:
        DataError: no file is named, one is missing or damaged, too many rows cannot be used, or no label of an image is left.
    """
    human_files, machine_files = _paths(annotations), _paths(machine_labels)
    if not human_files:
        raise DataError("no annotations are named: expected the path of a CSV file, or several")
    rejections = RejectionLog() if rejections is None else rejections
    descriptions = None if class_descriptions is None else read_class_descriptions(Path(class_descriptions))
    trainable = None if classes_trainable is None else _read_names(Path(classes_trainable))
    wanted = next((names for names in (classes, trainable, descriptions) if names is not None), None)
    codes = _ClassCodes(wanted, None if descriptions is None else set(descriptions))

    collected = CollectedLabels()
    for path in human_files:
        collected.extend(read_label_rows(path, codes, _verified, rejections), is_machine=False)
    for path in machine_files:
        collected.extend(read_label_rows(path, codes, _sure(machine_confidence), rejections), is_machine=True)
    num_good = len(collected) + collected.num_left_out
    files = _listed([*human_files, *machine_files])
    rejections.check(num_good, max_rejected_fraction, f"rows of {files}")
    if not len(collected):
        raise DataError(f"{files}: no usable label is there{rejections.summary()}")

    rows = collected.sparse_rows(codes.renumbered())
    if not len(rows.ids):
        raise DataError(f"{files}: no label is left: humans contradict each other on every one")
    class_names = tuple(sorted(codes.codes))
    labels = ImageLabels(
        image_ids=rows.ids,
        classes=class_names,
        names=_display_names(class_names, descriptions or {}),
        offsets=rows.offsets,
        class_index=rows.class_index,
        is_positive=rows.is_positive,
        notes=_counted(
            {
                "labels were left out: of other classes, or from a machine that is not sure enough": collected.num_left_out,
                f"rows cannot be used{rejections.summary()}": len(rejections),
                "pairs of image and class count as unknown: humans contradict each other": rows.contradicted,
            }
        ),
    )
    return labels if images is None else _with_images(labels, images)


def read_class_descriptions(path: Path) -> dict[str, str]:
    """Display names by `LabelName`; the header is optional.

    Raises:
        DataError: the file cannot be read, or one of its lines.
    """
    names: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), start=1):
        text = decode(line)
        try:
            cells = next(csv.reader([text or ""]), [])
        except csv.Error:
            cells = []
        if number == 1 and cells and cells[0].lower() == "labelname" or text == "":
            continue
        if len(cells) != 2 or not cells[0]:
            raise DataError(f"{path}:{number}: expected LabelName,DisplayName")
        names[cells[0]] = cells[1].strip() or cells[0]
    return names


def _read_names(path: Path) -> list[str]:
    names = []
    for number, line in enumerate(read_lines(path), start=1):
        if (name := decode(line)) is None:
            raise DataError(f"{path}:{number}: not UTF-8")
        if name.strip():
            names.append(name.strip())
    return names


def _display_names(classes: Sequence[str], descriptions: dict[str, str]) -> tuple[str, ...]:
    """What to show, each name once: of classes that are described alike, `LabelName` tells which is which."""
    names = [descriptions.get(name, name) for name in classes]
    while len(set(names)) < len(names):  # the longer name of one may be that of another
        times = Counter(names)
        names = [
            name if times[name] == 1 else f"{name} ({class_name})"
            for name, class_name in zip(names, classes, strict=True)
        ]
    return tuple(names)


class _ClassCodes:
    """What a `LabelName` means: the number of its class. Without a list of classes, new ones get the next number."""

    def __init__(self, wanted: Iterable[str] | None, described: Collection[str] | None) -> None:
        self.codes = {name: code for code, name in enumerate(sorted(set(wanted or ())))}
        self.is_open, self.described = wanted is None, described

    def __call__(self, name: str) -> int | str:
        if name in self.codes:
            return self.codes[name]
        if not name:
            return "no LabelName"
        if self.described is not None and name not in self.described:
            return f"class {name[:40]} is not in the class descriptions"
        return self.codes.setdefault(name, len(self.codes)) if self.is_open else LEFT_OUT

    def renumbered(self) -> Int64[np.ndarray, "classes"]:
        """The place of each code's class among the sorted ones."""
        place = {name: index for index, name in enumerate(sorted(self.codes))}
        return np.array([place[name] for name in self.codes], dtype=np.int64)


def _verified(confidence: str) -> int | str:
    value = _number(confidence)
    return int(value) if value in (0, 1) else "confidence is not 0 or 1"


def _sure(limit: float) -> Meaning:
    def meaning(confidence: str) -> int | str:
        value = _number(confidence)
        if value is None or not 0 <= value <= 1:
            return "confidence is not a number between 0 and 1"
        return 1 if value >= limit else LEFT_OUT

    return meaning


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _with_images(labels: ImageLabels, images: ImageSource) -> ImageLabels:
    """Only what has labels and a file."""
    has_file = images.ids().places_of(labels.image_ids) >= 0
    kept = labels.select(np.flatnonzero(has_file))
    if not len(kept):
        raise DataError(
            f"none of the {len(labels):,} images that have labels is among the {len(images.ids()):,} files "
            f"(labels are of {labels.image_ids[0]}, files are {images.ids()[0]}, ...)"
        )
    notes = _counted(
        {
            "images have labels but no file": len(labels) - len(kept),
            "images have a file but no labels": len(images.ids()) - len(kept),
        }
    )
    return replace(kept, notes=labels.notes + notes)


def _counted(counts: dict[str, int]) -> tuple[str, ...]:
    return tuple(f"{count:,} {what}" for what, count in counts.items() if count)


def _listed(paths: Sequence[Path]) -> str:
    """The first of some files, and how many more there are."""
    return f"{paths[0]}" + (f" and {len(paths) - 1:,} more" if len(paths) > 1 else "")


def _paths(paths: AnyPath | Sequence[AnyPath]) -> list[Path]:
    return [Path(path) for path in ([paths] if isinstance(paths, AnyPath) else paths)]
