"""Scores of annotated pairs of image and class, and nothing else: what metrics on partial labels are computed from.

OpenImages' test part has 125,436 images and some 9,600 classes, but only about 600,000 pairs are annotated. They are kept in 9 bytes
each; all scores would be 4.8 GB.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Float32, Int64, Integer, UInt32
from torch import Tensor

from transformer_architectures.errors import DataError

PAIR = np.dtype([("class_index", np.uint32), ("score", np.float32), ("is_positive", np.bool_)])
GROWTH = 1 / 8  # share of the storage that may be empty


class ClassCounts(NamedTuple):
    """Numbers of pairs of each class."""

    positives: Int64[np.ndarray, "classes"]
    annotated: Int64[np.ndarray, "classes"]


class AnnotatedPairs:
    """Collects batches; the order of pairs and batches does not change a score.

    Scores are kept as 32-bit floats. Top-1 accuracy needs whole images, so it is counted while they are at hand.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._storage: npt.NDArray[Any] = np.empty(0, PAIR)
        self._size = 0
        self._num_images = 0  # seen whole, by `add`
        self._num_single_label = 0
        self._num_correct = 0
        self._has_loose_pairs = False

    def add(
        self,
        scores: Float[Tensor, "images classes"],
        labels: Float[Tensor, "images classes"],
        masks: Float[Tensor, "images classes"],
    ) -> None:
        """Images with the scores of all classes, on any device. Labels: 1 present, 0 absent; masks: 1 verified, 0 unknown.

        Raises:
            DataError: a score is not finite, a mask or an annotated label is neither 0 nor 1, or the classes are not as many as declared.
        """
        if scores.shape[1] != self.num_classes:
            raise DataError(f"scores of {scores.shape[1]} classes, where {self.num_classes} were declared")
        if not bool(scores.isfinite().all()):
            raise DataError("a score is NaN or infinite")
        annotated = masks == 1
        fractional = (~annotated & (masks != 0)) | (annotated & (labels != 0) & (labels != 1))
        if bool(fractional.any()):
            raise DataError("labels and masks are scored only where they are 0 or 1: mixed images are for training")
        positive = annotated & (labels == 1)
        images, classes = annotated.nonzero(as_tuple=True)
        self._append(
            classes.cpu().numpy(),
            scores[images, classes].detach().float().cpu().numpy(),
            positive[images, classes].cpu().numpy(),
        )
        single_label = annotated.all(dim=1) & (positive.sum(dim=1) == 1)
        predicted = scores.argmax(dim=1, keepdim=True)  # the first of equal scores
        self._num_images += len(scores)
        self._num_single_label += int(single_label.sum())
        self._num_correct += int((single_label & positive.gather(1, predicted).squeeze(1)).sum())

    def add_sparse(
        self,
        class_index: Integer[np.ndarray, "pairs"],
        scores: Float[np.ndarray, "pairs"],
        is_positive: Bool[np.ndarray, "pairs"],
    ) -> None:
        """Annotated pairs alone. Accuracy is not known then.

        Raises:
            DataError: a score is not finite, or an index is not that of a class.
        """
        if len(class_index) and not 0 <= class_index.min() <= class_index.max() < self.num_classes:
            raise DataError(
                f"class indices from {class_index.min()} to {class_index.max()}, of {self.num_classes} classes"
            )
        if not np.isfinite(scores).all():
            raise DataError("a score is NaN or infinite")
        self._append(class_index, scores, is_positive)
        self._has_loose_pairs |= len(class_index) > 0

    def merge(self, other: "AnnotatedPairs") -> None:
        """Adds what another one, of another rank, has collected.

        Raises:
            DataError: they have different numbers of classes.
        """
        if other.num_classes != self.num_classes:
            raise DataError(f"pairs of {other.num_classes} classes cannot join those of {self.num_classes}")
        self._append(other.class_index, other.score, other.is_positive)
        self._num_images += other._num_images
        self._num_single_label += other._num_single_label
        self._num_correct += other._num_correct
        self._has_loose_pairs |= other._has_loose_pairs

    @property
    def class_index(self) -> UInt32[np.ndarray, "pairs"]:
        """Of which class each pair is; like the other two a view, valid until something is added."""
        return self._column("class_index")

    @property
    def score(self) -> Float32[np.ndarray, "pairs"]:
        """What the model gave each pair."""
        return self._column("score")

    @property
    def is_positive(self) -> Bool[np.ndarray, "pairs"]:
        """Whether the class was verified to be present, or to be absent."""
        return self._column("is_positive")

    def class_counts(self) -> ClassCounts:
        """Of each class, how many pairs are positive and how many there are."""
        return ClassCounts(
            positives=np.bincount(self.class_index[self.is_positive], minlength=self.num_classes),
            annotated=np.bincount(self.class_index, minlength=self.num_classes),
        )

    @property
    def accuracy(self) -> float | None:
        """Share of images whose highest score is that of their label; None unless all have one label, fully verified."""
        if self._has_loose_pairs or not self._num_images or self._num_single_label < self._num_images:
            return None
        return self._num_correct / self._num_images

    @property
    def nbytes(self) -> int:
        """Memory of the pairs, with the empty part of the storage."""
        return self._storage.nbytes

    def __len__(self) -> int:
        return self._size

    def _append(self, class_index: npt.NDArray[Any], scores: npt.NDArray[Any], is_positive: npt.NDArray[Any]) -> None:
        size = self._size + len(class_index)
        if size > len(self._storage):
            grown = np.empty(int(size * (1 + GROWTH)), PAIR)
            grown[: self._size] = self._storage[: self._size]
            self._storage = grown
        new = self._storage[self._size : size]
        new["class_index"], new["score"], new["is_positive"] = class_index, scores, is_positive
        self._size = size

    def _column(self, name: str) -> npt.NDArray[Any]:
        return self._storage[name][: self._size]
