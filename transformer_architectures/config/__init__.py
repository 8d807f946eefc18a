"""Configuration files: `load_config(path, section, PydanticModelClass)`."""

from transformer_architectures.config.loader import (
    Sections,
    default_config_path,
    find_config,
    fingerprint,
    fingerprint_of,
    load_config,
    load_sections,
    shipped_configs,
)
from transformer_architectures.config.strict_model import OptionalPath, StrictModel

__all__ = [
    "OptionalPath",
    "Sections",
    "StrictModel",
    "default_config_path",
    "find_config",
    "fingerprint",
    "fingerprint_of",
    "load_config",
    "load_sections",
    "shipped_configs",
]
