"""Subword tokenization."""

from transformer_architectures.tokenization.subword import SubwordTokenizer

__all__ = ["SubwordTokenizer"]
