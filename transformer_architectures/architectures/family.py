"""A published family of models, as choices within an architecture: ``Model.family``."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformer_architectures.pretrained.published_folder import PublishedFormat


@dataclass(frozen=True, kw_only=True)
class Family(ABC):
    """What a family's models have in common, and how they are published.

    Attributes:
        name: the value of ``Model.family``.
        fixed: keys of the `Model:` section without which it would be another family.
        defaults: keys that a config may set otherwise.
    """

    name: str
    fixed: Mapping[str, Any]
    defaults: Mapping[str, Any]

    @property
    @abstractmethod
    def published(self) -> PublishedFormat:
        """The form of its checkpoints."""

    def fill(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The keys of a section, with those of the family that it leaves out.

        Raises:
            ValueError: a key contradicts the family.
        """
        for key, value in self.fixed.items():
            if given.get(key, value) != value:
                raise ValueError(f"{key}: {given[key]!r} contradicts family {self.name}, which has {value!r}")
        # What may differ comes from the folder of `pretrained`, if there is one.
        return {**self.fixed, **({} if given.get("pretrained") else self.defaults), **given}
