"""The bidirectional encoder that is pre-trained on masked text, and classification of texts and of tokens by it."""

from transformer_architectures.architectures.bert.config import BertModelConfig
from transformer_architectures.architectures.bert.transformer import (
    Bert,
    BertForMaskedLM,
    BertForSeqClassification,
    BertForTokenClassification,
)

__all__ = [
    "Bert",
    "BertForMaskedLM",
    "BertForSeqClassification",
    "BertForTokenClassification",
    "BertModelConfig",
]
