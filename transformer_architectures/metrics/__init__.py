"""Scores of finished outputs."""

from transformer_architectures.metrics.alignment import check_alignment
from transformer_architectures.metrics.annotated_pairs import AnnotatedPairs
from transformer_architectures.metrics.average_precision import Interpolation
from transformer_architectures.metrics.classification import (
    class_table,
    classification_scores,
    classification_signatures,
    multi_label_table,
    multi_label_text_scores,
    multi_label_text_signatures,
)
from transformer_architectures.metrics.entities import (
    entity_score,
    entity_table,
    tagging_scores,
    tagging_signatures,
    word_accuracy,
)
from transformer_architectures.metrics.masked_language_model import (
    masked_language_model_scores,
    masked_language_model_signatures,
    plateau_warning,
    token_counts,
    unigram_baseline,
    unigram_entropy,
)
from transformer_architectures.metrics.multi_label import (
    ClassCoverage,
    average_precision_per_class,
    best_thresholds,
    class_coverage,
    f1_per_class,
    multi_label_scores,
    multi_label_signatures,
)
from transformer_architectures.metrics.score_table import ScoreRow, format_score_table
from transformer_architectures.metrics.translation import translation_scores, translation_signatures

__all__ = [
    "AnnotatedPairs",
    "ClassCoverage",
    "Interpolation",
    "ScoreRow",
    "average_precision_per_class",
    "best_thresholds",
    "check_alignment",
    "class_coverage",
    "class_table",
    "classification_scores",
    "classification_signatures",
    "entity_score",
    "entity_table",
    "f1_per_class",
    "format_score_table",
    "masked_language_model_scores",
    "masked_language_model_signatures",
    "multi_label_scores",
    "multi_label_signatures",
    "multi_label_table",
    "multi_label_text_scores",
    "multi_label_text_signatures",
    "plateau_warning",
    "tagging_scores",
    "tagging_signatures",
    "token_counts",
    "translation_scores",
    "translation_signatures",
    "unigram_baseline",
    "unigram_entropy",
    "word_accuracy",
]
