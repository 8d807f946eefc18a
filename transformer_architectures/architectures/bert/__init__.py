"""The bidirectional encoder that is pre-trained on masked text, and classification of texts and of tokens by it."""

from transformer_architectures.architectures.bert.config import BertModelConfig
from transformer_architectures.architectures.bert.data import (
    LabeledBatch,
    TransformerDataCollator,
    TransformerDataModule,
    TransformerDataset,
)
from transformer_architectures.architectures.bert.data_config import BertDataConfig
from transformer_architectures.architectures.bert.mask_filler import MaskFiller
from transformer_architectures.architectures.bert.tagger import Tagger
from transformer_architectures.architectures.bert.text_classifier import TextClassifier
from transformer_architectures.architectures.bert.transformer import (
    Bert,
    BertForMaskedLM,
    BertForSeqClassification,
    BertForTokenClassification,
)

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
