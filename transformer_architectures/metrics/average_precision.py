"""Precision and recall at every threshold, for many classes at once, and the average precision of them.

Pairs of equal score are taken together, as scikit-learn does: a threshold cannot tell them apart, so their order must not matter.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Float32, Int, Integer, Shaped

Interpolation = Literal["none", "voc2007"]


@dataclass(frozen=True)
class PrecisionRecallCurves:
    """One point for each class and each distinct score of it: what is predicted when that score is the threshold.

    Points are sorted by class, then from the highest threshold to the lowest.

    Attributes:
        class_index, threshold, true_positives, predicted: of the points; ``predicted`` counts pairs at or above the threshold.
        positives, annotated: of the classes, number of pairs.
    """

    class_index: Integer[np.ndarray, "points"]
    threshold: Float32[np.ndarray, "points"]
    true_positives: Int[np.ndarray, "points"]
    predicted: Int[np.ndarray, "points"]
    positives: Int[np.ndarray, "classes"]
    annotated: Int[np.ndarray, "classes"]

    @property
    def precision(self) -> Float[np.ndarray, "points"]:
        """Share of the predicted that is true."""
        return self.true_positives / self.predicted

    @property
    def is_highest(self) -> Bool[np.ndarray, "points"]:
        """Which points have the highest threshold of their class."""
        starts: npt.NDArray[np.bool_] = np.roll(self.class_index, 1) != self.class_index
        starts[:1] = True
        return starts


def precision_recall_curves(
    class_index: Integer[np.ndarray, "pairs"],
    score: Float32[np.ndarray, "pairs"],
    is_positive: Bool[np.ndarray, "pairs"],
    num_classes: int,
) -> PrecisionRecallCurves:
    """Sorts once; memory is about 50 bytes per pair while it runs."""
    positives = np.bincount(class_index[is_positive], minlength=num_classes)
    annotated = np.bincount(class_index, minlength=num_classes)
    order = np.lexsort((-score, class_index))
    class_index, score, is_positive = class_index[order], score[order], is_positive[order]
    is_last = (np.roll(class_index, -1) != class_index) | (np.roll(score, -1) != score)  # of a group of equal scores
    is_last[-1:] = True
    last = is_last.nonzero()[0]
    of_point = class_index[last]
    before = np.cumsum(annotated) - annotated  # pairs, and positives below, of all classes that come first
    positives_before = np.cumsum(positives) - positives
    return PrecisionRecallCurves(
        of_point,
        score[last],
        np.cumsum(is_positive, dtype=np.int64)[last] - positives_before[of_point],
        last + 1 - before[of_point],
        positives,
        annotated,
    )


def average_precision(
    curves: PrecisionRecallCurves, interpolation: Interpolation = "none"
) -> Float[np.ndarray, "classes"]:
    """Average precision of each class; NaN where it has no positive.

    ``none``: the sum of precision × gain of recall over thresholds, not interpolated, as ``sklearn.metrics.average_precision_score``.
    ``voc2007``: the mean over the recalls 0, 0.1 … 1 of the best precision at that recall or more (Everingham et al. 2010,
    "The PASCAL Visual Object Classes Challenge", section 4.2). Recalls are compared as whole numbers: 3 of 10 is 0.3.
    """
    if interpolation == "voc2007":
        total = np.sum([_best_precision(curves, tenths) for tenths in range(11)], axis=0) / 11
        return np.where(curves.positives > 0, total, np.nan)
    previous = np.roll(curves.true_positives, 1)
    previous[curves.is_highest] = 0
    gains = (curves.true_positives - previous) * curves.precision
    total = np.bincount(curves.class_index, weights=gains, minlength=len(curves.positives))
    return ratio(total, curves.positives)


def ratio(
    numerator: Shaped[np.ndarray, "classes"],
    denominator: Int[np.ndarray, "classes"],
) -> Float[np.ndarray, "classes"]:
    """``numerator / denominator``; NaN where the denominator is 0."""
    result = np.full(len(denominator), np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


def _best_precision(curves: PrecisionRecallCurves, tenths: int) -> Float[np.ndarray, "classes"]:
    """The highest precision of each class among points with a recall of at least that many tenths."""
    reached = 10 * curves.true_positives >= tenths * curves.positives[curves.class_index]
    best = np.zeros(len(curves.positives))
    np.maximum.at(best, curves.class_index[reached], curves.precision[reached])
    return best
