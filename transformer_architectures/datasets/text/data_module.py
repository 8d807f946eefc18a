"""The data module of an encoder's tasks: from texts to batches of packed token ids."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from transformer_architectures.datasets.data_module import DataModule
from transformer_architectures.datasets.loading import Collate, Loading
from transformer_architectures.datasets.text.data_config import EncoderDataConfig
from transformer_architectures.datasets.text.labeled_rows import read_labeled_rows
from transformer_architectures.datasets.text.masked_rows import read_masked_rows
from transformer_architectures.datasets.text.packed_batches import PackedBatch, PackedCollator, TokenDataset
from transformer_architectures.datasets.text.trained_tokenizer import ENCODER_TOKENIZERS, WORDPIECE, TokenizerKind
from transformer_architectures.datasets.text.windowed_text import EncoderTokenizer
from transformer_architectures.samplers import TokenBudgetBatchSampler


@runtime_checkable
class TextSplits(Protocol):
    """The splits of a kind of data after it was read."""

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of all splits."""
        ...

    @property
    def datasets(self) -> Mapping[str, TokenDataset]:
        """The examples of each split."""
        ...

    def row_counts(self) -> dict[str, int]:
        """Examples of each split, and of each reason for which training examples were rejected."""
        ...

    @property
    def digest(self) -> str:
        """A hash of everything that the examples depend on."""
        ...


class EncoderDataModule(DataModule[EncoderDataConfig, TokenDataset, PackedBatch]):
    """Everything between the `Data:` section of an encoder and its batches.

    Args:
        vocab_size: of the tokenizer that is trained on the training split, unless one is given.
        batch_tokens: tokens of a batch at most.
        tokenizer: that of `Model.pretrained`; otherwise the one that the config names, or a new one.
        kind: how a tokenizer is trained unless the config says it, or read from the file that it names.
        seed, loading, rejected_path: see `DataModule`.
    """

    def __init__(
        self,
        config: EncoderDataConfig,
        vocab_size: int,
        *,
        seed: int,
        batch_tokens: int,
        tokenizer: EncoderTokenizer | None = None,
        loading: Loading = Loading(),
        rejected_path: Path | None = None,
        kind: TokenizerKind[Any] = WORDPIECE,
    ) -> None:
        super().__init__(config, seed=seed, loading=loading, rejected_path=rejected_path)
        self.vocab_size, self.batch_tokens = vocab_size, batch_tokens
        self.kind = ENCODER_TOKENIZERS.get(config.tokenizer or "", kind)
        if tokenizer is None and config.tokenizer is not None and config.tokenizer not in ENCODER_TOKENIZERS:
            tokenizer = kind.read(Path(config.tokenizer))
        self.given_tokenizer = tokenizer

    def setup(self) -> None:
        """See `DataModule.setup`."""
        read = read_masked_rows if self.config.train.kind == "documents" else read_labeled_rows
        self.splits: TextSplits = read(
            self.config, self.kind, self.vocab_size, self.seed, self.given_tokenizer, self.rejected_path
        )
        self._datasets = dict(self.splits.datasets)
        self.check_validation()
        self.sampler = TokenBudgetBatchSampler(self.dataset("train").lengths[:, None], self.batch_tokens, self.seed)

    @property
    def tokenizer(self) -> Any:
        """An `EncoderTokenizer`: that of all splits."""
        return self.splits.tokenizer

    @property
    def parts(self) -> TextSplits:
        """Older name of ``splits``."""
        warnings.warn("TransformerDataModule.parts is now called splits", DeprecationWarning, stacklevel=2)
        return self.splits

    def row_counts(self) -> dict[str, int]:
        """See `DataModule.row_counts`."""
        return self.splits.row_counts()

    @property
    def digest(self) -> str:
        """See `DataModule.digest`."""
        return self.splits.digest

    def collator(self) -> Collate:
        """Packs texts."""
        return PackedCollator(self.tokenizer.pad_id)

    def training_dataset(self, epoch: int) -> TokenDataset:
        """With the masks of that epoch."""
        return self.dataset("train").at(epoch)

    def evaluation_sampler(self, dataset: TokenDataset) -> TokenBudgetBatchSampler:
        """Longest examples first."""
        return TokenBudgetBatchSampler(dataset.lengths[:, None], self.batch_tokens, self.seed, shuffle=False)
