"""Where the splits of a set of texts are read from, and everything that they depend on."""

import hashlib
import json
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

from pydantic import Field

from transformer_architectures.config import StrictModel
from transformer_architectures.datasets.cached_folder import file_digest
from transformer_architectures.datasets.splits import SplitsRecipe
from transformer_architectures.datasets.text.bible import BibleVersion


class SourceConfig(StrictModel):
    """Files of one split, or versions of the embedded Bible, which has its own splits."""

    bible: list[BibleVersion] | None = Field(None, min_length=1)

    @abstractmethod
    def paths(self) -> list[Path]:
        """All files that are read."""

    @property
    def has_own_splits(self) -> bool:
        """Whether validation and test texts come with the training source."""
        return self.bible is not None


AnySource = TypeVar("AnySource", bound=SourceConfig)


@dataclass(frozen=True)
class TextRecipe(SplitsRecipe[AnySource]):
    """The splits of a set of texts; an example's key is its text."""

    format: ClassVar[int] = 1  # raise it when what is made of the examples changes

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
        return [path for source in self.sources() for path in source.paths()]
