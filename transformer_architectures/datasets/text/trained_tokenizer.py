"""Tokenizers that are trained on the training split: how each kind is made and read, and the cache that keeps them."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from transformer_architectures.datasets.cached_folder import cached_folder
from transformer_architectures.tokenization import (
    JsonTokenizer,
    SubwordTokenizer,
    Tokenizer,
    WordPieceTokenizer,
    read_tokenizer,
)

AnyTokenizer = TypeVar("AnyTokenizer", bound=Tokenizer)


@dataclass(frozen=True)
class TokenizerKind(Generic[AnyTokenizer]):
    """A kind of tokenizer.

    Attributes:
        name: of its folders in the cache.
        train: a tokenizer from texts, the size of its vocabulary, and the settings below.
        load: a tokenizer from the folder that its `save` has written.
        read: a tokenizer from a file or folder that a user names.
        settings: keys of the `Data:` section that ``train`` takes.
    """

    name: str
    train: Callable[..., AnyTokenizer]
    load: Callable[[Path], AnyTokenizer]
    read: Callable[[Path], AnyTokenizer]
    settings: tuple[str, ...] = ()

    def trained(
        self, cache_dir: Path, recipe_digest: str, texts: Iterable[str], vocab_size: int, config: object = None
    ) -> AnyTokenizer:
        """The tokenizer of some texts: trained now, or found in the cache.

        Args:
            recipe_digest: a hash of everything that the texts depend on.
            texts: read only if the tokenizer is trained now.
            vocab_size: the largest size of its vocabulary.
            config: the `Data:` section, which has the ``settings``.
        """
        values = [getattr(config, name) for name in self.settings]
        key = hashlib.sha256(json.dumps([recipe_digest, vocab_size, *values]).encode()).hexdigest()

        def make(folder: Path) -> None:
            self.train(texts, vocab_size, *values).save(folder)

        return self.load(cached_folder(cache_dir / f"{self.name}-{key[:32]}", make))


WORDPIECE = TokenizerKind(
    "wordpiece", WordPieceTokenizer.train, WordPieceTokenizer.load, read_tokenizer, ("lowercase",)
)


BYTE_BPE = TokenizerKind("byte-bpe", JsonTokenizer.train, JsonTokenizer.load, read_tokenizer)

# Of `Data.tokenizer` of an encoder.
ENCODER_TOKENIZERS: dict[str, TokenizerKind[Any]] = {"wordpiece": WORDPIECE, "bpe": BYTE_BPE}


def _read_bpe(path: Path) -> SubwordTokenizer:
    return SubwordTokenizer.load(path if path.is_dir() else path.parent)


BPE = TokenizerKind("bpe", SubwordTokenizer.train, SubwordTokenizer.load, _read_bpe)
