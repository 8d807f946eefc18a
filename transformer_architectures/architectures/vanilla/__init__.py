"""The encoder-decoder Transformer, and translation with it."""

from transformer_architectures.architectures.vanilla.data import (
    LabeledBatch,
    SourceTarget,
    TransformerDataCollator,
    TransformerDataModule,
    TransformerDataset,
    VanillaDataConfig,
)
from transformer_architectures.architectures.vanilla.transformer import Transformer, VanillaModelConfig
from transformer_architectures.tasks.translation import Translation, Translator

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
