"""Examples of an encoder, and batches of them as packed tokens, in which nothing is padding."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.utils.data import Dataset

from transformer_architectures.datasets.data_module import Batch
from transformer_architectures.datasets.text.windowed_text import WindowedText
from transformer_architectures.errors import DataError
from transformer_architectures.masking import AttentionMask, Segments

# Numbers of packed tokens are rounded up to it: oneDNN prepares each new shape of a product, and keeps what it has prepared.
ROWS_MULTIPLE = 32


class TokenRow(NamedTuple):
    """A text (or packed row) and its labels.

    Attributes:
        text: its windows, or the segments of a packed row.
        positions: indices of its tokens that have labels; empty if the text as a whole has.
        labels: an index for each of these tokens; or one index for the text; or 0 or 1 for each class.
    """

    text: WindowedText
    positions: Int[np.ndarray, "labels"]
    labels: Shaped[np.ndarray, "_"]


class TokenDataset(Dataset[TokenRow], ABC):
    """The examples of one split."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> TokenRow: ...

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[int, TokenRow]]:
        """What the loader calls for a whole batch: each example with its index."""
        return [(index, self[index]) for index in indices]

    def at(self, epoch: int) -> "TokenDataset":
        """The dataset as it is in that epoch of training."""
        return self

    @property
    @abstractmethod
    def lengths(self) -> Int[np.ndarray, "rows"]:
        """Number of tokens that each example has in a batch."""


@dataclass(frozen=True)
class PackedBatch(Batch):
    """Several texts, their windows one after the other.

    Attributes:
        token_ids: of all windows, with padding after the last one, so that few shapes occur.
        segments: the lengths of the windows.
        text_of_segment: the text of the batch that each window belongs to.
        weight_of_segment: the fraction of that text that it is.
        positions: indices, among ``token_ids``, of the tokens that have labels.
        labels: see `TokenRow`: for each of these tokens, or for each text.
        labels_of_text: number of ``positions`` in each text.
        indices: which examples of the dataset the texts are.
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
        """The arguments of a model's ``forward``."""
        return {"token_ids": self.token_ids, "attention_mask": AttentionMask(segments=self.segments)}

    @property
    def num_labels(self) -> int:
        """Number of terms in the summed loss: tokens with a label, or texts."""
        return len(self.labels)

    @property
    def num_tokens(self) -> int:
        """Tokens that are not padding."""
        return self.segments.num_tokens

    @property
    def num_positions(self) -> int:
        """Tokens, padding included."""
        return self.segments.num_rows


@dataclass(frozen=True)
class PackedCollator:
    """Packs texts into a batch."""

    pad_id: int
    rows_multiple: int = ROWS_MULTIPLE

    def __call__(self, rows: Sequence[tuple[int, TokenRow]]) -> PackedBatch:
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
        of_classes = labels[0].dtype.kind == "f"  # 0 or 1 for each class of each text
        return PackedBatch(
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
