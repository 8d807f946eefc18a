"""What is known of the labels of many images: present, absent, or nothing; kept as sparse rows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64, Integer, UInt

from transformer_architectures.datasets.images.image_ids import ImageIds


class ClassFrequencies(NamedTuple):
    """Of each class: images that are verified to show it, and images of which it is known either way."""

    positives: Int64[np.ndarray, "classes"]
    annotated: Int64[np.ndarray, "classes"]


@dataclass(frozen=True, eq=False)
class ImageLabels:
    """The verified labels of images; a pair of image and class that is not listed is *unknown*, not absent.

    Row ``i`` is the slice ``offsets[i]:offsets[i + 1]`` of ``class_index`` and ``is_positive``, sorted by class. 57 million labels of
    9 million images take 0.5 GB. The arrays are read-only, and loader processes share their memory.

    Attributes:
        image_ids: sorted and distinct as the readers give them; `select` keeps the order that it is asked for.
        classes: names for the machine (`LabelName`, or a folder's name), sorted; a class's index is its place here.
        names: what to show, in the same order.
        is_single_label: every image shows exactly one class, the one that is listed, and **all others are verified absent**
            without being listed (an image folder: 50,000 images of 1,000 classes stay 50,000 entries).
        notes: what the reader found that a user should know (files without labels and the like), one sentence each.
    """

    image_ids: ImageIds
    classes: tuple[str, ...]
    names: tuple[str, ...]
    offsets: Int64[np.ndarray, "images_and_one"]
    class_index: UInt[np.ndarray, "labels"]
    is_positive: Bool[np.ndarray, "labels"]
    is_single_label: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for array in (self.offsets, self.class_index, self.is_positive):
            array.setflags(write=False)

    def __len__(self) -> int:
        return len(self.image_ids)

    def row(self, index: int) -> tuple[UInt[np.ndarray, "row"], Bool[np.ndarray, "row"]]:
        """What is listed for an image: class indices, and whether each is present (otherwise: verified absent)."""
        place = slice(self.offsets[index], self.offsets[index + 1])
        return self.class_index[place], self.is_positive[place]

    def targets(self, index: int) -> tuple[Float32[np.ndarray, "classes"], Float32[np.ndarray, "classes"]]:
        """All classes of an image: labels (1 present, 0 otherwise) and masks (1 verified either way, 0 unknown)."""
        labels = np.zeros(len(self.classes), np.float32)
        masks = np.full(len(self.classes), self.is_single_label, np.float32)
        listed, is_positive = self.row(index)
        labels[listed] = is_positive
        masks[listed] = 1
        return labels, masks

    def targets_of(
        self, indices: Iterable[int]
    ) -> tuple[Float32[np.ndarray, "picked classes"], Float32[np.ndarray, "picked classes"]]:
        """Labels (1 present, 0 otherwise) and masks (1 verified either way, 0 unknown): a row for each index in the order given, at least one,
        a column for each class. See `targets`."""
        labels, masks = zip(*(self.targets(index) for index in indices), strict=True)
        return np.stack(labels), np.stack(masks)

    def select(self, indices: Sequence[int] | Integer[np.ndarray, "picked"]) -> "ImageLabels":
        """The images at the given places, in that order."""
        picked = np.asarray(indices, dtype=np.int64)
        starts, lengths = self.offsets[picked], np.diff(self.offsets)[picked]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        entries = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return replace(
            self,
            image_ids=self.image_ids.take(picked),
            offsets=offsets,
            class_index=self.class_index[entries],
            is_positive=self.is_positive[entries],
        )

    def class_frequencies(self) -> ClassFrequencies:
        """Counts over all images."""
        num_classes = len(self.classes)
        positives = np.bincount(self.class_index[self.is_positive], minlength=num_classes)
        annotated = np.bincount(self.class_index, minlength=num_classes)
        if self.is_single_label:
            annotated = np.full(num_classes, len(self), dtype=np.int64)
        return ClassFrequencies(positives, annotated)


def class_index_type(num_classes: int) -> np.dtype[np.unsignedinteger]:
    """The smallest unsigned type that holds every class index."""
    return np.min_scalar_type(max(num_classes - 1, 0))
