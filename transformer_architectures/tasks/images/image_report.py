"""How a classifier does, to look at: grids of images and a table of classes."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from torch import Tensor

from transformer_architectures.datasets.images.data_module import ImageBatch
from transformer_architectures.metrics import AnnotatedPairs, average_precision_per_class, f1_per_class
from transformer_architectures.tasks.images.image_grid import Tile, grid_png
from transformer_architectures.tasks.images.label_map import LabelMap

NUM_TILES = 16
SMALLEST_PROBABILITY = 1e-7  # fp32 sigmoids reach zero


class Scored(NamedTuple):
    """One image with what is known and what the model says of it."""

    wrongness: float  # cross-entropy of its verified labels, in nats
    row: int
    pixels: UInt8[Tensor, "3 height width"]
    labels: Float32[Tensor, "classes"]
    masks: Float32[Tensor, "classes"]
    probabilities: Float32[Tensor, "classes"]


@dataclass(frozen=True)
class PartReport:
    """All verified pairs of a part, images spread evenly over it, and those that the model is most wrong about."""

    pairs: AnnotatedPairs
    spread: list[Scored]
    most_wrong: list[Scored]


def look_at(classifier: Any, batches: Iterable[ImageBatch], num_images: int) -> PartReport:
    """One pass over a part of ``num_images``."""
    pairs = AnnotatedPairs(len(classifier.labeling.classes))
    rows_to_show = set(np.linspace(0, num_images - 1, min(NUM_TILES, num_images)).astype(int).tolist())
    spread: list[Scored] = []
    most_wrong: list[tuple[float, int, Scored]] = []  # a heap; rows break ties before tensors are compared
    for batch in batches:
        probabilities = classifier.probabilities(batch.pixels).cpu()
        pairs.add(probabilities, batch.labels, batch.masks)
        of_truth = (1 - batch.labels - probabilities).abs().clamp(min=SMALLEST_PROBABILITY)
        wrongness = (-of_truth.log() * batch.masks).sum(dim=1).tolist()
        for place, row in enumerate(batch.indices):
            is_shown = row in rows_to_show
            is_worse = len(most_wrong) < NUM_TILES or wrongness[place] > most_wrong[0][0]
            if not (is_shown or is_worse):
                continue
            scored = Scored(
                wrongness[place],
                row,
                batch.pixels[place].clone(),
                batch.labels[place],
                batch.masks[place],
                probabilities[place],
            )
            if is_shown:
                spread.append(scored)
            if is_worse:
                heapq.heappush(most_wrong, (wrongness[place], row, scored))
                if len(most_wrong) > NUM_TILES:
                    heapq.heappop(most_wrong)
    return PartReport(pairs, spread, [scored for *_, scored in sorted(most_wrong, reverse=True)])


def prediction_grid(classifier: Any, images: Iterable[Scored]) -> bytes:
    """A PNG of images with their labels and predictions: red where a verified label says otherwise."""
    return grid_png([_tile(classifier, image) for image in images])


def _tile(classifier: Any, image: Scored) -> Tile:
    names = classifier.labeling.names
    predicted = classifier.predicted(image.probabilities)
    is_predicted = np.isin(names, predicted)
    is_verified, is_present = image.masks.numpy() == 1, image.labels.numpy() == 1
    is_right = bool((is_predicted == is_present)[is_verified].all())
    present = [names[index] for index in np.flatnonzero(is_present)]
    probability = dict(zip(names, image.probabilities.tolist(), strict=True))
    said = ", ".join(f"{name} {probability[name]:.2f}" for name in predicted)
    return Tile(
        image.pixels,
        [f"is: {', '.join(present) or '-'}", f"said: {said or '-'}"],
        "green" if is_right else "firebrick",
    )


def augmented_grid(batch: ImageBatch, names: tuple[str, ...]) -> bytes:
    """A PNG of what training sees, with what is known of it: ``+`` present, ``-`` absent; shares where images are mixed."""
    tiles = []
    for pixels, labels, masks in list(zip(batch.pixels, batch.labels, batch.masks, strict=True))[:NUM_TILES]:
        present = [f"{_share(labels[i] * masks[i])}{names[i]}" for i in (labels * masks).nonzero().flatten().tolist()]
        num_absent = int(((masks > 0) & (labels == 0)).sum())
        num_unknown = int((masks == 0).sum())
        tiles.append(Tile(pixels, [", ".join(present) or "-", f"{num_absent} absent, {num_unknown} unknown"]))
    return grid_png(tiles)


def _share(weight: Tensor) -> str:
    return "" if weight >= 0.995 else f"{float(weight):.2f} "


def class_table(pairs: AnnotatedPairs, labeling: LabelMap) -> list[dict[str, Any]]:
    """A row for each class: its scores (None without a positive), its threshold, and how many verified pairs it has."""
    precision = average_precision_per_class(pairs)
    f1 = f1_per_class(pairs, np.array(labeling.thresholds))
    positives, annotated = pairs.class_counts()
    return [
        {
            "class": labeling.classes[index],
            "name": labeling.names[index],
            "average_precision": None if positives[index] == 0 else round(float(precision[index]), 6),
            "f1": None if positives[index] == 0 else round(float(f1[index]), 6),
            "threshold": labeling.thresholds[index],
            "positives": int(positives[index]),
            "negatives": int(annotated[index] - positives[index]),
        }
        for index in range(pairs.num_classes)
    ]
