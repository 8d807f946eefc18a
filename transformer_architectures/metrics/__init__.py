"""Scores of finished outputs."""

from transformer_architectures.metrics.translation import translation_scores, translation_signatures

__all__ = ["translation_scores", "translation_signatures"]
