"""The tokenizer that a training part gives, made once."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformer_architectures.architectures.bert.data_config import BertDataConfig
from transformer_architectures.datasets.cached_folder import cached_folder
from transformer_architectures.datasets.parts_recipe import PartsRecipe
from transformer_architectures.tokenization import WordPieceTokenizer


def part_settings(config: BertDataConfig) -> dict[str, Any]:
    """What a `PartsRecipe` of the config is made of."""
    parts = {"train": config.train, "validation": config.validation, "test": config.test}
    amounts = ("num_samples", "validation_fraction", "max_rejected_fraction")
    return {
        **{name: None if part is None else part.source for name, part in parts.items()},
        **{name: getattr(config, name) for name in amounts},
    }


def trained_tokenizer(
    config: BertDataConfig, vocab_size: int, recipe: PartsRecipe[Any], texts: Iterable[str]
) -> WordPieceTokenizer:
    """A WordPiece trained on the training part alone, or the one that was before."""

    def make(folder: Path) -> None:
        WordPieceTokenizer.train(texts, vocab_size, config.lowercase).save(folder)

    settings = json.dumps([recipe.digest(), vocab_size, config.lowercase])
    name = f"wordpiece-{hashlib.sha256(settings.encode()).hexdigest()[:32]}"
    return WordPieceTokenizer.load(cached_folder(Path(config.cache_dir).expanduser() / name, make))


__all__ = ["part_settings", "trained_tokenizer"]
