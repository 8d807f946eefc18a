"""Tiny models with tokenizers, for tests of what is built on them."""

from transformer_architectures.architectures.bert.transformer import (
    BertForMaskedLM,
    BertForSeqClassification,
    BertForTokenClassification,
    BertModelConfig,
)
from transformer_architectures.tasks.masked_language_model import MaskFiller, MaskFillerSettings
from transformer_architectures.tasks.text_classification import TextClassifier, TextClassifierSettings
from transformer_architectures.tasks.token_classification import Tagger, TaggerSettings
from transformer_architectures.tokenization import WordPieceTokenizer

WORDS = "the house stands by a river under old trees and nobody knows who built it so long ago".split()
TEXTS = [" ".join(WORDS[start : start + 6]) for start in range(len(WORDS) - 6)]
TAGS = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")


def tokenizer() -> WordPieceTokenizer:
    return WordPieceTokenizer.train(TEXTS * 20, 120)


def config(num_labels: int = 0, **changes: object) -> BertModelConfig:
    sizes = {"vocab_size": tokenizer().vocab_size, "embed_dim": 16, "num_heads": 2, "ff_dim": 32, "num_layers": 2}
    return BertModelConfig.model_validate({**sizes, "max_positions": 32, "num_labels": num_labels, **changes})


def classifier(multi_label: bool = False, pooling: str = "mean") -> TextClassifier:
    classes = ("bad", "good", "so so")
    settings = TextClassifierSettings(max_length=12, stride=5, multi_label=multi_label)
    return TextClassifier(BertForSeqClassification(config(3, pooling=pooling)), tokenizer(), settings, classes)


def tagger(are_entities: bool = True) -> Tagger:
    settings = TaggerSettings(max_length=12, stride=5, are_entities=are_entities)
    return Tagger(BertForTokenClassification(config(len(TAGS))), tokenizer(), settings, TAGS)


def filler() -> MaskFiller:
    return MaskFiller(BertForMaskedLM(config()), tokenizer(), MaskFillerSettings(max_length=12, stride=5))
