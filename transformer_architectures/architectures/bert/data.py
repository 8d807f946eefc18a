"""Data of BERT's tasks: from texts to batches of packed token ids, in which nothing is padding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.utils.data import DataLoader

from transformer_architectures.architectures.bert.data_config import BertDataConfig
from transformer_architectures.architectures.bert.document_rows import read_documents
from transformer_architectures.architectures.bert.labeled_rows import read_labeled_rows
from transformer_architectures.architectures.bert.rows import TokenRow, TransformerDataset
from transformer_architectures.errors import DataError
from transformer_architectures.loading import Loading, RowByRow
from transformer_architectures.masking import AttentionMask
from transformer_architectures.samplers import TokenBudgetBatchSampler
from transformer_architectures.segments import Segments
from transformer_architectures.tokenization import WordPieceTokenizer

# Numbers of packed rows are rounded up to it: oneDNN prepares each new shape of a product, and keeps what it has prepared.
ROWS_MULTIPLE = 32


@dataclass(frozen=True)
class LabeledBatch:
    """Several texts, their windows one behind the other.

    Attributes:
        token_ids: of all windows, padded behind the last one to few shapes.
        segments: where each window lies.
        text_of_segment: which text of the batch it belongs to; weight_of_segment: its share in that text.
        positions: the places, among ``token_ids``, of the tokens that have labels.
        labels: see `TokenRow`: for each of these places, or for each text.
        labels_of_text: how many of ``positions`` lie in each text.
        indices: which rows of the dataset the texts are.
    """

    token_ids: Int[Tensor, "1 rows"]
    segments: Segments
    text_of_segment: Int[Tensor, "segments"]
    weight_of_segment: Float[Tensor, "segments"]
    positions: Int[Tensor, "labels"]
    labels: Shaped[Tensor, "all_labels *classes"]
    labels_of_text: tuple[int, ...]
    indices: tuple[int, ...]

    @property
    def inputs(self) -> dict[str, Any]:
        """What the models take."""
        return {"token_ids": self.token_ids, "attention_mask": AttentionMask(segments=self.segments)}

    @property
    def num_labels(self) -> int:
        """Terms of the loss: tokens with a label, or texts."""
        return len(self.labels)

    @property
    def num_tokens(self) -> int:
        """Tokens that are not padding."""
        return self.segments.num_tokens

    @property
    def num_positions(self) -> int:
        """Tokens, padding included."""
        return self.segments.num_rows

    def to(self, device: torch.device) -> "LabeledBatch":
        """The batch on a device."""
        if self.token_ids.device == device:
            return self
        names = ("token_ids", "text_of_segment", "weight_of_segment", "positions", "labels")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})


@dataclass(frozen=True)
class TransformerDataCollator:
    """Packs texts."""

    pad_id: int
    rows_multiple: int = ROWS_MULTIPLE

    def __call__(self, rows: Sequence[tuple[int, TokenRow]]) -> LabeledBatch:
        texts = [row.text for _, row in rows]
        segments = Segments(tuple(length for text in texts for length in text.segment_lengths), self.rows_multiple)
        token_ids = np.full(segments.num_rows, self.pad_id, dtype=np.int64)
        token_ids[: segments.num_tokens] = np.concatenate([text.token_ids for text in texts])
        starts = np.cumsum([0, *(len(text.token_ids) for text in texts[:-1])])
        positions = [start + row.positions for start, (_, row) in zip(starts, rows, strict=True)]
        labels = [row.labels for _, row in rows]
        for index, row in rows:
            if len(row.positions) not in (0, len(row.labels)):
                raise DataError(f"row {index}: {len(row.labels)} labels for {len(row.positions)} words: one was lost")
        of_classes = labels[0].dtype.kind == "f"  # a row of all classes for each text
        return LabeledBatch(
            token_ids=torch.from_numpy(token_ids)[None],
            segments=segments,
            text_of_segment=torch.arange(len(texts)).repeat_interleave(
                torch.tensor([len(text.segment_lengths) for text in texts])
            ),
            weight_of_segment=torch.from_numpy(np.concatenate([text.weights for text in texts])),
            positions=torch.from_numpy(np.concatenate(positions).astype(np.int64)),
            labels=torch.from_numpy(np.stack(labels) if of_classes else np.concatenate(labels).astype(np.int64)),
            labels_of_text=tuple(len(row.positions) for _, row in rows),
            indices=tuple(index for index, _ in rows),
        )


class TextParts(Protocol):
    """What a kind of data is after it was read."""

    @property
    def tokenizer(self) -> WordPieceTokenizer:
        """Of all parts."""
        ...

    @property
    def datasets(self) -> Mapping[str, TransformerDataset]:
        """The rows of each part."""
        ...

    def row_counts(self) -> dict[str, int]:
        """Rows of each part, and of each reason for which training rows were rejected."""
        ...

    @property
    def digest(self) -> str:
        """Of everything that the rows depend on."""
        ...


class TransformerDataModule:
    """Everything between the `Data:` section and the batches.

    Args:
        vocab_size: of the tokenizer that is trained on the training part, unless one is given.
        tokenizer: that of `Model.pretrained`; otherwise the one that the config names, or a new one.
        batch_tokens: tokens of a batch at most.
        loading: which share of each batch this process loads.
        rejected_path: where the list of rejected training rows goes.
    """

    def __init__(
        self,
        config: BertDataConfig,
        vocab_size: int,
        *,
        seed: int,
        batch_tokens: int,
        tokenizer: WordPieceTokenizer | None = None,
        loading: Loading = Loading(),
        rejected_path: Path | None = None,
    ) -> None:
        self.config, self.vocab_size, self.seed, self.batch_tokens = config, vocab_size, seed, batch_tokens
        if tokenizer is None and config.tokenizer is not None:
            tokenizer = WordPieceTokenizer.read(Path(config.tokenizer))
        self.given_tokenizer = tokenizer
        self.loading, self.rejected_path = loading, rejected_path

    def setup(self) -> None:
        """Reads, checks and tokenises the texts.

        Raises:
            DataError: a file is missing or bad, too many rows are, or there is nothing to validate on.
        """
        read = read_documents if self.config.train.kind == "documents" else read_labeled_rows
        self.parts: TextParts = read(self.config, self.vocab_size, self.seed, self.given_tokenizer, self.rejected_path)
        if not len(self.parts.datasets["validation"]):
            raise DataError("no row is left for validation: give Data.validation, or a larger Data.validation_fraction")
        self.sampler = TokenBudgetBatchSampler(self.dataset("train").lengths[:, None], self.batch_tokens, self.seed)

    @property
    def tokenizer(self) -> WordPieceTokenizer:
        """Of all parts."""
        return self.parts.tokenizer

    def row_counts(self) -> dict[str, int]:
        """Rows of each part, and of each reason for which training rows were rejected."""
        return self.parts.row_counts()

    @property
    def digest(self) -> str:
        """Of settings, content of the files and tokenizer."""
        return self.parts.digest

    def dataset(self, part: str) -> TransformerDataset:
        """The rows of a part."""
        return self.parts.datasets[part]

    def train_dataloader(self, epoch: int = 0, start_batch: int = 0) -> DataLoader[LabeledBatch]:
        """This rank's share of an epoch's batches, from a position on: the same ones whatever came before."""
        return self.loading.shares(
            self.dataset("train").at(epoch),
            self.sampler.at(epoch, start_batch),
            RowByRow(TransformerDataCollator(self.tokenizer.pad_id)),
            num_workers=self.config.num_workers,
            seed=self.seed,
        )

    def val_dataloader(self) -> DataLoader[LabeledBatch]:
        """All validation rows in a fixed order."""
        return self.evaluation_loader(self.dataset("validation"))

    def test_dataloader(self) -> DataLoader[LabeledBatch] | None:
        """All test rows in a fixed order; None where there is no test part."""
        dataset = self.dataset("test")
        return self.evaluation_loader(dataset) if len(dataset) else None

    def batches_per_epoch(self, epoch: int) -> int:
        """Number of batches of that epoch."""
        return len(self.sampler.at(epoch))

    def evaluation_loader(self, dataset: TransformerDataset) -> DataLoader[LabeledBatch]:
        """All rows of a dataset, longest first."""
        sampler = TokenBudgetBatchSampler(dataset.lengths[:, None], self.batch_tokens, self.seed, shuffle=False)
        return self.loading.whole(
            dataset,
            sampler,
            TransformerDataCollator(self.tokenizer.pad_id),
            num_workers=self.config.num_workers,
            seed=self.seed,
        )


__all__ = ["LabeledBatch", "TransformerDataCollator", "TransformerDataModule", "TransformerDataset"]
