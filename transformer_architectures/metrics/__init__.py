"""Scores of finished outputs."""

from transformer_architectures.metrics.annotated_pairs import AnnotatedPairs
from transformer_architectures.metrics.average_precision import Interpolation
from transformer_architectures.metrics.multi_label import (
    ClassCoverage,
    average_precision_per_class,
    best_thresholds,
    class_coverage,
    f1_per_class,
    multi_label_scores,
    multi_label_signatures,
)
from transformer_architectures.metrics.translation import translation_scores, translation_signatures

__all__ = [
    "AnnotatedPairs",
    "ClassCoverage",
    "Interpolation",
    "average_precision_per_class",
    "best_thresholds",
    "class_coverage",
    "f1_per_class",
    "multi_label_scores",
    "multi_label_signatures",
    "translation_scores",
    "translation_signatures",
]
