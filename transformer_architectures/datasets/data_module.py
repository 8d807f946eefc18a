"""What all data modules and their batches share, whatever an example is."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from transformer_architectures.config import StrictModel
from transformer_architectures.datasets.loading import Collate, Loading, RowByRow, SliceReader
from transformer_architectures.errors import DataError


class DataConfig(StrictModel):
    """The keys that every `Data:` section has."""

    num_samples: int | None = Field(None, ge=1, description="train on n examples at most")
    num_workers: int = Field(0, ge=0, description="processes that load and collate examples")
    validation_fraction: float = Field(
        0.02, gt=0, lt=1, description="fraction of the training examples, if no validation files are given"
    )
    max_rejected_fraction: float = Field(0.02, ge=0, le=1, description="a larger fraction of bad examples is an error")
    cache_dir: str = "~/.cache/transformer_architectures"

    @property
    def cache_path(self) -> Path:
        """The folder where prepared data are kept."""
        return Path(self.cache_dir).expanduser()

    def amounts(self) -> dict[str, Any]:
        """The arguments of a `SplitsRecipe` that are not sources."""
        return {name: getattr(self, name) for name in ("num_samples", "validation_fraction", "max_rejected_fraction")}


SameBatch = TypeVar("SameBatch", bound="Batch")


@dataclass(frozen=True)
class Batch(ABC):
    """Examples that are computed together. A subclass adds its tensors, and ``indices``: which examples of the dataset they are."""

    @property
    @abstractmethod
    def num_labels(self) -> int:
        """Number of terms in the summed loss."""

    @property
    @abstractmethod
    def num_tokens(self) -> int:
        """Tokens (or images) that are not padding."""

    @property
    @abstractmethod
    def num_positions(self) -> int:
        """Tokens (or images), padding included."""

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the batch by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def to(self: SameBatch, device: torch.device) -> SameBatch:
        """The batch on a device; the same object if it is there already."""
        tensors = self.tensors()
        if all(tensor.device == device for tensor in tensors.values()):
            return self
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()})

    def pin_memory(self: SameBatch) -> SameBatch:
        """The batch in page-locked memory, which a GPU reads directly. A loader calls this."""
        return replace(self, **{name: tensor.pin_memory() for name, tensor in self.tensors().items()})


AnyConfig = TypeVar("AnyConfig", bound=DataConfig)
AnyDataset = TypeVar("AnyDataset", bound=Dataset[Any])
AnyBatch = TypeVar("AnyBatch", bound=Batch)


class DataModule(ABC, Generic[AnyConfig, AnyDataset, AnyBatch]):
    """Everything between the `Data:` section and the batches.

    A subclass reads its data in `setup`, which sets ``_datasets`` and ``sampler``, and says how examples are collated.

    Args:
        config: the `Data:` section.
        seed: of the order of the examples and of everything that is drawn for them.
        loading: which slice of each batch this process loads.
        rejected_path: file for the list of rejected training examples.
    """

    sampler: Any  # of training batches; `sampler.at(epoch, start_batch)` iterates over one epoch from a position on

    def __init__(
        self, config: AnyConfig, *, seed: int, loading: Loading = Loading(), rejected_path: Path | None = None
    ) -> None:
        self.config, self.seed = config, seed
        self.loading, self.rejected_path = loading, rejected_path
        self._datasets: dict[str, AnyDataset] = {}  # by split

    # ---------------------------------------------------------------- what a subclass says
    @abstractmethod
    def setup(self) -> None:
        """Reads, checks and prepares the data, or finds the result of an earlier run in the cache.

        Raises:
            DataError: a file is missing or bad, too many examples are bad, or there is nothing to validate on.
        """

    @abstractmethod
    def row_counts(self) -> dict[str, int]:
        """Examples of each split, and of each reason for which some were rejected (``rejected: <reason>``)."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """A hash of everything that the batches depend on: settings, content of the files, tokenizer."""

    @abstractmethod
    def collator(self) -> Collate:
        """What makes a batch of the examples that a dataset gives."""

    @abstractmethod
    def evaluation_sampler(self, dataset: AnyDataset) -> Any:
        """Batches of all examples of a dataset in a fixed order."""

    def training_dataset(self, epoch: int) -> AnyDataset:
        """The training examples as they are in that epoch."""
        return self.dataset("train")

    def slice_reader(self, epoch: int) -> SliceReader:
        """How this process makes its slice of a training batch."""
        return RowByRow(self.collator())

    # ---------------------------------------------------------------- what all have
    def dataset(self, split: str) -> AnyDataset:
        """The examples of a split, as they are scored."""
        return self._datasets[split]

    def train_dataloader(self, epoch: int = 0, start_batch: int = 0) -> DataLoader[AnyBatch]:
        """This process's slice of each batch of an epoch, from a position on: a pure function of seed, epoch and position."""
        return self.loading.slices(
            self.training_dataset(epoch),
            self.sampler.at(epoch, start_batch),
            self.slice_reader(epoch),
            num_workers=self.config.num_workers,
            seed=self.seed,
        )

    def val_dataloader(self) -> DataLoader[AnyBatch]:
        """All validation examples in a fixed order."""
        return self.evaluation_loader(self.dataset("validation"))

    def test_dataloader(self) -> DataLoader[AnyBatch] | None:
        """All test examples in a fixed order; None if there is no test split."""
        dataset = self._datasets.get("test")
        return self.evaluation_loader(dataset) if dataset is not None and _size(dataset) else None

    def batches_per_epoch(self, epoch: int) -> int:
        """Number of batches of that epoch."""
        return len(self.sampler.at(epoch))

    def evaluation_loader(self, dataset: AnyDataset) -> DataLoader[AnyBatch]:
        """All examples of a dataset in a fixed order."""
        return self.loading.whole(
            dataset,
            self.evaluation_sampler(dataset),
            self.collator(),
            num_workers=self.config.num_workers,
            seed=self.seed,
        )

    def check_validation(self) -> None:
        """Raises:
        DataError: there is nothing to validate on.
        """
        if not _size(self._datasets["validation"]):
            raise DataError("no row is left for validation: give Data.validation, or a larger Data.validation_fraction")


def _size(dataset: Dataset[Any]) -> int:
    """Number of examples; torch's own `Dataset` declares none."""
    return len(dataset)  # type: ignore[arg-type]
