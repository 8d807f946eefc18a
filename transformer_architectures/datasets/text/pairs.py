"""Sentence pairs to translate: config, dataset, batches and data module."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, Integer
from pydantic import Field, model_validator
from torch import Tensor
from torch.utils.data import Dataset

from transformer_architectures.datasets.data_module import Batch, DataConfig, DataModule
from transformer_architectures.datasets.loading import Loading
from transformer_architectures.datasets.splits import SPLITS, Split
from transformer_architectures.datasets.text.parallel_text import ParallelTextConfig
from transformer_architectures.datasets.text.token_store import TokenStore
from transformer_architectures.datasets.text.translation_corpus import CorpusRecipe, prepare_corpus, row_counts
from transformer_architectures.samplers import TokenBudgetBatchSampler
from transformer_architectures.tokenization import Tokenizer, load_tokenizer
from transformer_architectures.utils.processes import available_cores

IGNORED_LABEL = -100  # torch's own convention


class TranslationDataConfig(DataConfig):
    """The `Data:` section: which text is read, how much of it, and where the tokenised form is kept."""

    train: ParallelTextConfig
    validation: ParallelTextConfig | None = None
    test: ParallelTextConfig | None = None
    source_language: str = "en"
    target_language: str = "fr"
    num_samples: int | None = Field(None, ge=1, description="use the first n training pairs; too long ones count")
    max_length: int = Field(128, ge=1, description="tokens on a side of a training pair; evaluation has no limit")

    @model_validator(mode="after")
    def splits_fit(self) -> "TranslationDataConfig":
        if self.train.has_own_splits and (self.validation or self.test):
            raise ValueError("the bible has its own validation and test chapters: leave those two out")
        return self


class SourceTarget(NamedTuple):
    """Token ids of one pair, without special tokens."""

    source: Integer[np.ndarray, "source"]
    target: Integer[np.ndarray, "target"]


class PairDataset(Dataset[SourceTarget]):
    """The pairs of one split, read from memory-mapped files when they are asked for."""

    def __init__(self, folder: Path, split: Split, vocab_size: int) -> None:
        self.source = TokenStore(folder, f"{split}.source", vocab_size)
        self.target = TokenStore(folder, f"{split}.target", vocab_size)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> SourceTarget:
        return SourceTarget(self.source[index], self.target[index])

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[int, SourceTarget]]:
        """What the loader calls for a whole batch: each pair with its index."""
        return [(index, self[index]) for index in indices]

    @property
    def lengths(self) -> Int[np.ndarray, "rows 2"]:
        """Lengths of each pair in a batch: the source and its end token; start (or end) token and the target."""
        return np.stack([self.source.lengths, self.target.lengths], axis=1) + 1


@dataclass(frozen=True)
class PairBatch(Batch):
    """Padded token ids of several pairs.

    Attributes:
        source_ids: source and end token.
        source_mask: True = real token.
        target_ids: the decoder's input: start token and target.
        labels: the decoder's output: target and end token; `IGNORED_LABEL` for padding.
        indices: which pairs of the dataset these are.
    """

    source_ids: Int[Tensor, "batch source"]
    source_mask: Bool[Tensor, "batch source"]
    target_ids: Int[Tensor, "batch target"]
    labels: Int[Tensor, "batch target"]
    indices: tuple[int, ...]

    @cached_property
    def num_labels(self) -> int:
        """Target tokens, end tokens included."""
        return int((self.labels != IGNORED_LABEL).sum())

    @cached_property
    def num_tokens(self) -> int:
        """Source and target tokens that are not padding."""
        return int(self.source_mask.sum()) + self.num_labels

    @property
    def num_positions(self) -> int:
        """Source and target positions, padding included."""
        return self.source_ids.numel() + self.target_ids.numel()


@dataclass(frozen=True)
class PairCollator:
    """Pads pairs on the right and adds the special tokens; lengths are rounded up to ``length_multiple``."""

    pad_id: int
    start_id: int
    eos_id: int
    length_multiple: int = 1

    def __call__(self, pairs: Sequence[tuple[int, SourceTarget]]) -> PairBatch:
        sources = [pair.source for _, pair in pairs]
        targets = [pair.target for _, pair in pairs]
        source_ids = self._padded(sources, self.pad_id, last=self.eos_id)
        lengths = torch.tensor([len(source) + 1 for source in sources])
        return PairBatch(
            source_ids=source_ids,
            source_mask=torch.arange(source_ids.shape[1]) < lengths[:, None],
            target_ids=self._padded(targets, self.pad_id, first=self.start_id),
            labels=self._padded(targets, IGNORED_LABEL, last=self.eos_id),
            indices=tuple(index for index, _ in pairs),
        )

    def _padded(
        self, rows: Sequence[np.ndarray], padding: int, *, first: int | None = None, last: int | None = None
    ) -> Tensor:
        longest = max(len(row) for row in rows) + 1
        width = -(-longest // self.length_multiple) * self.length_multiple
        padded = np.full((len(rows), width), padding, dtype=np.int64)
        for place, row in zip(padded, rows, strict=True):
            begin = 0
            if first is not None:
                place[0], begin = first, 1
            place[begin : begin + len(row)] = row
            if last is not None:
                place[begin + len(row)] = last
        return torch.from_numpy(padded)


class TranslationDataModule(DataModule[TranslationDataConfig, PairDataset, PairBatch]):
    """Everything between the `Data:` section and the batches.

    Args:
        vocab_size: of the tokenizer that is trained on the training split, unless ``tokenizer`` is given.
        start_id: first decoder input; the tokenizer's start token unless given (Marian starts with padding).
        length_multiple: lengths are rounded up to a multiple of it. Fewer shapes cost a little padding.
        rows_multiple: numbers of pairs in a batch are rounded down to a multiple of it.
        seed, loading, rejected_path: see `DataModule`.
    """

    def __init__(
        self,
        config: TranslationDataConfig,
        vocab_size: int,
        *,
        seed: int,
        batch_tokens: int,
        tokenizer: Tokenizer | None = None,
        start_id: int | None = None,
        loading: Loading = Loading(),
        rejected_path: Path | None = None,
        length_multiple: int = 1,
        rows_multiple: int = 1,
    ) -> None:
        super().__init__(config, seed=seed, loading=loading, rejected_path=rejected_path)
        self.vocab_size, self.batch_tokens = vocab_size, batch_tokens
        self.given_tokenizer, self.start_id = tokenizer, start_id
        self.length_multiple, self.rows_multiple = length_multiple, rows_multiple

    def setup(self) -> None:
        """See `DataModule.setup`."""
        config = self.config
        recipe = CorpusRecipe(
            train=config.train,
            validation=config.validation,
            test=config.test,
            source_language=config.source_language,
            target_language=config.target_language,
            vocab_size=self.vocab_size,
            max_length=config.max_length,
            tokenizer=self.given_tokenizer,
            **config.amounts(),
        )
        self.folder = prepare_corpus(recipe, config.cache_path, self.rejected_path, num_processes=available_cores())
        self.tokenizer = load_tokenizer(self.folder)
        self._datasets = {str(split): PairDataset(self.folder, split, self.tokenizer.vocab_size) for split in SPLITS}
        self.check_validation()
        self.sampler = self._sampler(self.dataset("train"), shuffle=True)

    def row_counts(self) -> dict[str, int]:
        """See `DataModule.row_counts`."""
        return row_counts(self.folder)

    @property
    def digest(self) -> str:
        """See `DataModule.digest`."""
        return self.folder.name

    def evaluation_texts(self, split: Split) -> tuple[list[str], list[str]]:
        """Sources and references of "validation" or "test", as written in the files; empty without such a split."""
        # Only a line feed ends a line: `splitlines` would cut at other separators inside a text.
        lines = (self.folder / f"{split}.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
        pairs = [json.loads(line) for line in lines]
        return [source for source, _ in pairs], [target for _, target in pairs]

    def collator(self) -> PairCollator:
        """Pads pairs."""
        tokenizer = self.tokenizer
        start_id = tokenizer.bos_id if self.start_id is None else self.start_id
        return PairCollator(tokenizer.pad_id, start_id, tokenizer.eos_id, self.length_multiple)

    def evaluation_sampler(self, dataset: PairDataset) -> TokenBudgetBatchSampler:
        """Longest pairs first."""
        return self._sampler(dataset)

    def _sampler(self, dataset: PairDataset, shuffle: bool = False) -> TokenBudgetBatchSampler:
        lengths = -(-dataset.lengths // self.length_multiple) * self.length_multiple
        return TokenBudgetBatchSampler(lengths, self.batch_tokens, self.seed, shuffle, self.rows_multiple)
