"""Splits of a data set: train, validation and test. One recipe for texts and for images.

* Each split has files of its own, or comes with the training source (the embedded Bible and digits have splits of their own).
* Without validation files, examples are set apart from the training files by the hash of a key (an image's id, a text). The key alone
  decides: equal examples are always in the same split, and no change of a file list moves any other example.
* A split that is not declared and not set apart is empty.
"""

import hashlib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Int64

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def hash_position(key: str) -> float:
    """A number in [0, 1) that is a pure function of the key and evenly spread over keys."""
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def is_set_apart(key: str, fraction: float) -> bool:
    """Whether the example of that key is set apart for validation; about ``fraction`` of all keys are."""
    return hash_position(key) < fraction


def text_key(text: str) -> str:
    """The key of a text: the same for all its Unicode forms."""
    return unicodedata.normalize("NFC", text)


def sample_by_hash(keys: Iterable[str], size: int) -> Int64[np.ndarray, "sample"]:
    """Indices of ``size`` keys (or of all, if there are fewer), ascending: those with the smallest hashes.

    Files are often sorted, so that their first examples are all alike; and a longer file list changes few of the chosen ones.
    """
    positions = np.fromiter((hash_position(key) for key in keys), np.float64)
    return np.sort(np.argsort(positions, kind="stable")[:size])


@runtime_checkable
class Source(Protocol):
    """Where a split is read from: a section of the config."""

    @property
    def has_own_splits(self) -> bool:
        """Whether validation and test examples come with the training source."""
        ...


AnySource = TypeVar("AnySource", bound=Source)


@dataclass(frozen=True)
class SplitsRecipe(Generic[AnySource]):
    """The sources of the splits, and how much of them is used.

    Attributes:
        validation: without it, examples are set apart from ``train`` by hash (unless ``train`` has splits of its own).
        num_samples: train on this many examples at most.
        validation_fraction: fraction of the training examples that is set apart.
        max_rejected_fraction: a larger fraction of bad training examples is an error.
    """

    train: AnySource
    validation: AnySource | None = None
    test: AnySource | None = None
    num_samples: int | None = None
    validation_fraction: float = 0.02
    max_rejected_fraction: float = 0.02

    def source_of(self, split: Split) -> AnySource | None:
        """Where a split is read from; None if there is no such split, or if it is set apart from the training examples."""
        if self.train.has_own_splits:
            return self.train
        return {"train": self.train, "validation": self.validation, "test": self.test}[split]

    def sources(self) -> list[AnySource]:
        """All that are declared."""
        return [source for source in (self.train, self.validation, self.test) if source is not None]

    def splits_train(self) -> bool:
        """Whether validation examples are set apart from the training examples."""
        return self.source_of("validation") is None

    def sets_apart(self, key: str) -> bool:
        """Whether the training example of this key is a validation example."""
        return self.splits_train() and is_set_apart(key, self.validation_fraction)
