"""A pretrained folder's declaration and the `Model:` section that names it, as one."""

from collections.abc import Collection, Mapping
from typing import TypeVar

from transformer_architectures.config import StrictModel
from transformer_architectures.errors import ConfigError

M = TypeVar("M", bound=StrictModel)


def merged_config(asked: M, found: M, free: Collection[str], same_as: Mapping[str, str]) -> M:
    """The folder's declaration with what fine-tuning may choose.

    Args:
        asked: the `Model:` section; its ``pretrained`` names the folder.
        free: keys that fine-tuning may choose anew; all else belongs to the weights.
        same_as: keys that say the same in another way, with the attribute to compare.

    Raises:
        ConfigError: the section sets another key, to another value than the folder's.
    """
    for key in sorted(asked.model_fields_set - set(free)):
        name = same_as.get(key, key)
        if getattr(asked, name) != getattr(found, name):
            origin = getattr(asked, "pretrained")
            raise ConfigError(
                f"Model: {key}: {getattr(asked, name)!r} contradicts {getattr(found, name)!r} of {origin}; leave it out"
            )
    return found.model_copy(update={key: getattr(asked, key) for key in asked.model_fields_set.intersection(free)})
