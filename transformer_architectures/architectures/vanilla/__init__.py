"""The encoder-decoder Transformer, and translation with it."""

from transformer_architectures.architectures.vanilla.config import VanillaModelConfig
from transformer_architectures.architectures.vanilla.data import (
    LabeledBatch,
    SourceTarget,
    TransformerDataCollator,
    TransformerDataModule,
    TransformerDataset,
    VanillaDataConfig,
)
from transformer_architectures.architectures.vanilla.transformer import Transformer
from transformer_architectures.architectures.vanilla.translator import Translation, Translator

__all__ = [
    "LabeledBatch",
    "SourceTarget",
    "Transformer",
    "TransformerDataCollator",
    "TransformerDataModule",
    "TransformerDataset",
    "Translation",
    "Translator",
    "VanillaDataConfig",
    "VanillaModelConfig",
]
