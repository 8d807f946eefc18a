"""Where the three parts of a set of texts come from, and everything that they depend on."""

import hashlib
import json
import unicodedata
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from pydantic import Field

from transformer_architectures.config import StrictModel
from transformer_architectures.datasets.bible import BibleVersion
from transformer_architectures.datasets.cached_folder import file_digest
from transformer_architectures.datasets.splitting import Part, hash_position

PARTS: tuple[Part, ...] = ("train", "validation", "test")


class SourceConfig(StrictModel):
    """Where texts lie: in files, one part each, or in versions of the embedded Bible, which has its own parts."""

    bible: list[BibleVersion] | None = Field(None, min_length=1)

    @abstractmethod
    def paths(self) -> list[Path]:
        """All files that are read."""


Config = TypeVar("Config", bound=SourceConfig)


@dataclass(frozen=True)
class PartsRecipe(Generic[Config]):
    """The sources of the parts, and how much of them is used.

    Attributes:
        validation: if it is not given, rows are set apart from ``train`` by the hash of their text (the Bible has its own).
        num_samples: train on so many rows: the first documents, or labelled rows chosen by hash.
    """

    train: Config
    validation: Config | None = None
    test: Config | None = None
    num_samples: int | None = None
    validation_fraction: float = 0.02
    max_rejected_fraction: float = 0.02

    format: ClassVar[int] = 1  # raise it when what is made of the rows changes

    def digest(self) -> str:
        """SHA-256 over the settings and over the content of every file that is read."""
        configs = (self.train, self.validation, self.test)
        settings = {
            "format": self.format,
            "parts": [None if config is None else config.model_dump(mode="json") for config in configs],
            "amounts": [self.num_samples, self.validation_fraction, self.max_rejected_fraction],
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for path in self.files():
            digest.update(file_digest(path))
        return digest.hexdigest()

    def files(self) -> list[Path]:
        """Every file that is read."""
        configs = (self.train, self.validation, self.test)
        return [path for config in configs if config is not None for path in config.paths()]

    def config_of(self, part: Part) -> Config | None:
        """Where a part is read from; None where there is no such part, or it is set apart from the training rows."""
        if self.train.bible is not None:
            return self.train
        return {"train": self.train, "validation": self.validation, "test": self.test}[part]

    def splits_train(self) -> bool:
        """Whether validation rows are set apart from the training rows."""
        return self.config_of("validation") is None

    def sets_apart(self, text: str) -> bool:
        """Whether a training row is one of these: equal texts fall on the same side, in any order of any file."""
        return self.splits_train() and hash_position(unicodedata.normalize("NFC", text)) < self.validation_fraction


__all__ = ["PARTS", "PartsRecipe", "SourceConfig"]
