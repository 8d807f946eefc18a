"""Data of the translation task: from parallel text to batches of token ids."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, Integer
from pydantic import Field, model_validator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from transformer_architectures.config import StrictModel
from transformer_architectures.datasets.parallel_text import ParallelTextConfig
from transformer_architectures.datasets.splitting import Part
from transformer_architectures.datasets.token_store import TokenStore
from transformer_architectures.datasets.translation_corpus import CorpusRecipe, prepare_corpus, row_counts
from transformer_architectures.errors import DataError
from transformer_architectures.loading import Loading, RowByRow
from transformer_architectures.processes import available_cores
from transformer_architectures.samplers import TokenBudgetBatchSampler
from transformer_architectures.tokenization import Tokenizer, load_tokenizer

IGNORED_LABEL = -100  # torch's own convention


class VanillaDataConfig(StrictModel):
    """The `Data:` section: what is read, how much of it, and where the tokenised form is kept."""

    train: ParallelTextConfig
    validation: ParallelTextConfig | None = None
    test: ParallelTextConfig | None = None
    source_language: str = "en"
    target_language: str = "fr"
    num_samples: int | None = Field(None, ge=1, description="use the first n training pairs; too long ones count")
    num_workers: int = Field(0, ge=0, description="processes that collate; tokens are mapped files, so 0 is fast")
    validation_fraction: float = Field(0.02, gt=0, lt=1, description="of the distinct sources, if no file is given")
    max_rejected_fraction: float = Field(0.02, ge=0, le=1)
    max_length: int = Field(128, ge=1, description="tokens on a side of a training pair; evaluation has no limit")
    cache_dir: str = "~/.cache/transformer_architectures"

    @model_validator(mode="after")
    def parts_fit(self) -> "VanillaDataConfig":
        if self.train.bible is not None and (self.validation or self.test):
            raise ValueError("the bible has its own validation and test chapters: leave those two out")
        return self


class SourceTarget(NamedTuple):
    """Token ids of one pair, without special tokens."""

    source: Integer[np.ndarray, "source"]
    target: Integer[np.ndarray, "target"]


class TransformerDataset(Dataset[SourceTarget]):
    """The pairs of one part, read from memory-mapped files when they are asked for."""

    def __init__(self, folder: Path, part: Part, vocab_size: int) -> None:
        self.source = TokenStore(folder, f"{part}.source", vocab_size)
        self.target = TokenStore(folder, f"{part}.target", vocab_size)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> SourceTarget:
        return SourceTarget(self.source[index], self.target[index])

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[int, SourceTarget]]:
        """What the loader calls for a whole batch: each pair with its number."""
        return [(index, self[index]) for index in indices]

    @property
    def lengths(self) -> Int[np.ndarray, "rows 2"]:
        """What a row takes in a batch: the source and its end token; start (or end) token and the target."""
        return np.stack([self.source.lengths, self.target.lengths], axis=1) + 1


@dataclass(frozen=True)
class LabeledBatch:
    """Padded token ids of several pairs.

    Attributes:
        source_ids: the source and the end token; source_mask: True = real token.
        target_ids: the decoder's input, start token and target.
        labels: what each decoder position should give, target and end token; `IGNORED_LABEL` where there is padding.
        indices: which rows of the dataset these are.
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

    def to(self, device: torch.device) -> "LabeledBatch":
        """The batch on a device."""
        if self.source_ids.device == device:
            return self
        moved = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("source_ids", "source_mask", "target_ids", "labels")
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class TransformerDataCollator:
    """Pads pairs on the right and adds the special tokens; lengths are rounded up to ``length_multiple``."""

    pad_id: int
    start_id: int
    eos_id: int
    length_multiple: int = 1

    def __call__(self, pairs: Sequence[tuple[int, SourceTarget]]) -> LabeledBatch:
        sources = [pair.source for _, pair in pairs]
        targets = [pair.target for _, pair in pairs]
        source_ids = self._padded(sources, self.pad_id, last=self.eos_id)
        lengths = torch.tensor([len(source) + 1 for source in sources])
        return LabeledBatch(
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


class TransformerDataModule:
    """Everything between the `Data:` section and the batches.

    Args:
        vocab_size: of the tokenizer that is trained on the training part, unless ``tokenizer`` is given.
        start_id: first decoder input; the tokenizer's start token unless given (Marian starts with padding).
        loading: which share of each batch this process loads.
        rejected_path: where the list of rejected training rows goes.
        length_multiple, rows_multiple: what lengths are rounded up to, and numbers of rows down: fewer shapes cost a little padding.
    """

    def __init__(
        self,
        config: VanillaDataConfig,
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
        self.config, self.vocab_size, self.seed, self.batch_tokens = config, vocab_size, seed, batch_tokens
        self.given_tokenizer, self.start_id = tokenizer, start_id
        self.loading, self.rejected_path = loading, rejected_path
        self.length_multiple, self.rows_multiple = length_multiple, rows_multiple
        self._datasets: dict[Part, TransformerDataset] = {}

    def setup(self) -> None:
        """Reads, checks and tokenises the text, or finds the result of an earlier run in the cache.

        Raises:
            DataError: a file is missing or bad, too many rows are, or there is nothing to validate on.
        """
        recipe = CorpusRecipe(
            **{part: getattr(self.config, part) for part in ("train", "validation", "test")},
            source_language=self.config.source_language,
            target_language=self.config.target_language,
            vocab_size=self.vocab_size,
            max_length=self.config.max_length,
            num_samples=self.config.num_samples,
            validation_fraction=self.config.validation_fraction,
            max_rejected_fraction=self.config.max_rejected_fraction,
            tokenizer=self.given_tokenizer,
        )
        cache_dir = Path(self.config.cache_dir).expanduser()
        self.folder = prepare_corpus(recipe, cache_dir, self.rejected_path, num_processes=available_cores())
        self.tokenizer = load_tokenizer(self.folder)
        parts: tuple[Part, ...] = ("train", "validation", "test")
        self._datasets = {part: TransformerDataset(self.folder, part, self.tokenizer.vocab_size) for part in parts}
        if not len(self._datasets["validation"]):
            raise DataError("no row is left for validation: give Data.validation, or a larger Data.validation_fraction")
        self.sampler = self._sampler("train", shuffle=True)

    def row_counts(self) -> dict[str, int]:
        """Rows of each part, and of each reason for which training rows were rejected."""
        return row_counts(self.folder)

    @property
    def digest(self) -> str:
        """Of settings, content of the files and tokenizer."""
        return self.folder.name

    def dataset(self, part: Part) -> TransformerDataset:
        """The token ids of a part."""
        return self._datasets[part]

    def train_dataloader(self, epoch: int = 0, start_batch: int = 0) -> DataLoader[LabeledBatch]:
        """This rank's share of an epoch's batches, from a position on: the same ones whatever came before."""
        return self.loading.shares(
            self._datasets["train"],
            self.sampler.at(epoch, start_batch),
            RowByRow(self._collator),
            num_workers=self.config.num_workers,
            seed=self.seed,
        )

    def val_dataloader(self) -> DataLoader[LabeledBatch]:
        """All validation pairs in a fixed order."""
        return self._evaluation_loader("validation")

    def test_dataloader(self) -> DataLoader[LabeledBatch] | None:
        """All test pairs in a fixed order; None where there is no test part."""
        return self._evaluation_loader("test") if len(self._datasets["test"]) else None

    def batches_per_epoch(self, epoch: int) -> int:
        """Number of batches of that epoch."""
        return len(self.sampler.at(epoch))

    def evaluation_texts(self, part: Part) -> tuple[list[str], list[str]]:
        """Sources and references of "validation" or "test" as they stood in the files; empty without such a part."""
        # Only a line feed ends a line: `splitlines` would cut at other separators inside a text.
        lines = (self.folder / f"{part}.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
        pairs = [json.loads(line) for line in lines]
        return [source for source, _ in pairs], [target for _, target in pairs]

    @property
    def _collator(self) -> TransformerDataCollator:
        tokenizer = self.tokenizer
        start_id = tokenizer.bos_id if self.start_id is None else self.start_id
        return TransformerDataCollator(tokenizer.pad_id, start_id, tokenizer.eos_id, self.length_multiple)

    def _sampler(self, part: Part, shuffle: bool = False) -> TokenBudgetBatchSampler:
        multiple = self.length_multiple
        lengths = -(-self._datasets[part].lengths // multiple) * multiple
        return TokenBudgetBatchSampler(lengths, self.batch_tokens, self.seed, shuffle, self.rows_multiple)

    def _evaluation_loader(self, part: Part) -> DataLoader[LabeledBatch]:
        return self.loading.whole(
            self._datasets[part],
            self._sampler(part),
            self._collator,
            num_workers=self.config.num_workers,
            seed=self.seed,
        )
