"""Data of the encoder's tasks, under the names that all architectures use; see `datasets.text.data_module`."""

from transformer_architectures.datasets.text.data_config import EncoderDataConfig
from transformer_architectures.datasets.text.data_module import EncoderDataModule
from transformer_architectures.datasets.text.packed_batches import PackedBatch, PackedCollator, TokenDataset
from transformer_architectures.datasets.text.packed_batches import TokenRow as TokenRow

BertDataConfig = EncoderDataConfig
LabeledBatch = PackedBatch
TransformerDataCollator = PackedCollator
TransformerDataModule = EncoderDataModule
TransformerDataset = TokenDataset
