"""Data of the translation task, under the names that all architectures use; see `datasets.text.pairs`."""

from transformer_architectures.datasets.text.pairs import IGNORED_LABEL as IGNORED_LABEL
from transformer_architectures.datasets.text.pairs import PairBatch, PairCollator, PairDataset
from transformer_architectures.datasets.text.pairs import SourceTarget as SourceTarget
from transformer_architectures.datasets.text.pairs import TranslationDataConfig, TranslationDataModule

LabeledBatch = PairBatch
TransformerDataCollator = PairCollator
TransformerDataModule = TranslationDataModule
TransformerDataset = PairDataset
VanillaDataConfig = TranslationDataConfig
