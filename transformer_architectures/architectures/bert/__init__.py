"""The bidirectional encoder that is pre-trained on masked text, and classification of texts and of tokens by it."""

from transformer_architectures.architectures.bert.data import (
    BertDataConfig,
    LabeledBatch,
    TransformerDataCollator,
    TransformerDataModule,
    TransformerDataset,
)
from transformer_architectures.architectures.bert.transformer import (
    Bert,
    BertForMaskedLM,
    BertForSeqClassification,
    BertForTokenClassification,
    BertModelConfig,
)
from transformer_architectures.tasks.masked_language_model import MaskFiller
from transformer_architectures.tasks.text_classification import TextClassifier
from transformer_architectures.tasks.token_classification import Tagger

__all__ = [
    "Bert",
    "BertDataConfig",
    "BertForMaskedLM",
    "BertForSeqClassification",
    "BertForTokenClassification",
    "BertModelConfig",
    "LabeledBatch",
    "MaskFiller",
    "Tagger",
    "TextClassifier",
    "TransformerDataCollator",
    "TransformerDataModule",
    "TransformerDataset",
]
