"""Scores of images with many labels, on annotated pairs only: mean average precision, F1, best thresholds, accuracy.

A pair whose label is unknown is neither right nor wrong; published OpenImages code that counts it as negative measures something else.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from transformer_architectures.errors import DataError
from transformer_architectures.metrics.annotated_pairs import AnnotatedPairs
from transformer_architectures.metrics.average_precision import (
    Interpolation,
    PrecisionRecallCurves,
    average_precision,
    precision_recall_curves,
    ratio,
)

DEFAULT_THRESHOLD = 0.5
Thresholds = float | Float[np.ndarray, "classes"]


@dataclass(frozen=True)
class ClassCoverage:
    """How many classes a mean is over, and why the others are not in it.

    Attributes:
        scored: with at least one positive.
        unannotated: skipped, not a single pair is annotated.
        without_positive: skipped, all their pairs are negative: recall, and so precision at a recall, is not defined.
        without_negative: among the scored; their average precision is 1 whatever the model does (as in scikit-learn).
    """

    scored: int
    unannotated: int
    without_positive: int
    without_negative: int

    @property
    def skipped(self) -> int:
        """Number of classes that no mean counts."""
        return self.unannotated + self.without_positive

    def __str__(self) -> str:
        return (
            f"{self.scored} classes scored ({self.without_negative} of them without a negative: average precision 1 by definition), "
            f"{self.skipped} skipped ({self.unannotated} without annotation, {self.without_positive} without a positive)"
        )


def multi_label_scores(
    pairs: AnnotatedPairs, thresholds: Thresholds = DEFAULT_THRESHOLD, interpolation: Interpolation = "none"
) -> dict[str, float]:
    """Fractions from 0 to 1, the main one (``map_macro``) first.

    - ``map_macro``: mean of the average precision of classes with at least one positive, all alike;
    - ``map_micro``: average precision of all pairs as if they were of one class;
    - ``map_weighted``: as macro, but each class weighs as much as it has positives;
    - ``f1``: mean over the same classes of F1, a class being predicted where its score is at least its threshold;
    - ``accuracy``: only where every image was added whole, fully verified and with one label: share whose highest score is that label's.

    Raises:
        DataError: no pair is positive.
    """
    curves = class_curves(pairs)
    scored = curves.positives > 0
    if not scored.any():
        raise DataError(f"none of {len(pairs)} annotated pairs is positive: there is nothing to score")
    per_class = average_precision(curves, interpolation)[scored]
    one_class = np.zeros(len(pairs), dtype=np.uint32)
    pooled = precision_recall_curves(one_class, pairs.score, pairs.is_positive, num_classes=1)
    scores = {
        "map_macro": float(per_class.mean()),
        "map_micro": float(average_precision(pooled, interpolation)[0]),
        "map_weighted": float(np.average(per_class, weights=curves.positives[scored])),
        "f1": float(f1_per_class(pairs, thresholds)[scored].mean()),
    }
    return scores if pairs.accuracy is None else scores | {"accuracy": pairs.accuracy}


def multi_label_signatures(
    threshold: float | None = DEFAULT_THRESHOLD, interpolation: Interpolation = "none", single_label: bool = False
) -> dict[str, str]:
    """How each score is computed, for others to repeat it. ``threshold`` None: the best of each class on validation."""
    precision = f"pairs:annotated|ties:grouped|interpolation:{interpolation}|scores:fp32"
    at = "best-per-class-on-validation" if threshold is None else f"{threshold:g}"
    signatures = {
        "map_macro": f"average:macro|classes:with-positive|{precision}",
        "map_micro": f"average:micro|classes:pooled|{precision}",
        "map_weighted": f"average:by-positives|classes:with-positive|{precision}",
        "f1": f"average:macro|classes:with-positive|pairs:annotated|threshold:{at}|predicted:score>=threshold|scores:fp32",
    }
    return signatures | {"accuracy": "top:1|images:all|ties:first-class"} if single_label else signatures


def class_curves(pairs: AnnotatedPairs) -> PrecisionRecallCurves:
    """Precision and recall of every class at every threshold."""
    return precision_recall_curves(pairs.class_index, pairs.score, pairs.is_positive, pairs.num_classes)


def class_coverage(positives: Int[np.ndarray, "classes"], annotated: Int[np.ndarray, "classes"]) -> ClassCoverage:
    """Which classes are scored and which are skipped, from their numbers of positive and of annotated pairs."""
    return ClassCoverage(
        scored=int((positives > 0).sum()),
        unannotated=int((annotated == 0).sum()),
        without_positive=int(((annotated > 0) & (positives == 0)).sum()),
        without_negative=int(((positives > 0) & (positives == annotated)).sum()),
    )


def average_precision_per_class(
    pairs: AnnotatedPairs, interpolation: Interpolation = "none"
) -> Float[np.ndarray, "classes"]:
    """Average precision of each class; NaN where it has no positive."""
    return average_precision(class_curves(pairs), interpolation)


def f1_per_class(pairs: AnnotatedPairs, thresholds: Thresholds = DEFAULT_THRESHOLD) -> Float[np.ndarray, "classes"]:
    """``2 TP / (predicted + positives)`` of each class, one threshold for all or one for each; NaN where it has no positive."""
    limits = np.broadcast_to(np.asarray(thresholds, dtype=np.float64), pairs.num_classes)
    classes, is_positive = pairs.class_index, pairs.is_positive
    is_predicted = pairs.score >= limits[classes]
    true_positives, predicted, positives = (
        np.bincount(classes[chosen], minlength=pairs.num_classes)
        for chosen in (is_predicted & is_positive, is_predicted, is_positive)
    )
    return ratio(2 * true_positives, np.where(positives > 0, predicted + positives, 0))


def best_thresholds(pairs: AnnotatedPairs) -> Float[np.ndarray, "classes"]:
    """The threshold of each class that gives it its best F1. Choose on validation pairs, never on those that are then scored.

    Between two neighbouring scores all thresholds are equally good: it is 0.5 if that is as good as any, else the middle between
    neighbours, and of several best ones the nearest to 0.5 (then the higher). Below the lowest score it is that score. A class
    without a positive or without a negative (or without any pair) tells nothing and keeps 0.5.
    """
    curves = class_curves(pairs)
    f1 = 2 * curves.true_positives / (curves.predicted + curves.positives[curves.class_index])
    best = np.zeros(pairs.num_classes)
    np.maximum.at(best, curves.class_index, f1)

    # A point's F1 holds for all thresholds above the next lower score, up to its own.
    upper = curves.threshold.astype(np.float64)
    is_lowest = np.roll(curves.is_highest, -1)
    lower = np.where(is_lowest, -np.inf, np.roll(upper, -1))
    middle = np.where(is_lowest, upper, (upper + lower) / 2)
    candidate = np.where((lower < DEFAULT_THRESHOLD) & (DEFAULT_THRESHOLD <= upper), DEFAULT_THRESHOLD, middle)

    informative = (curves.positives > 0) & (curves.positives < curves.annotated)
    chosen = ((f1 == best[curves.class_index]) & informative[curves.class_index]).nonzero()[0]
    # Assigned in this order, the last one of a class stays: the nearest, and of two the higher.
    distance = np.abs(candidate[chosen] - DEFAULT_THRESHOLD)
    chosen = chosen[np.lexsort((candidate[chosen], -distance))]
    thresholds = np.full(pairs.num_classes, DEFAULT_THRESHOLD)
    thresholds[curves.class_index[chosen]] = candidate[chosen]
    return thresholds
