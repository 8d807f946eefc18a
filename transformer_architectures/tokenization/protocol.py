"""What training and translation need of a tokenizer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back. It can be pickled: other processes get a copy."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids, special ones included."""
        ...

    @property
    def pad_id(self) -> int:
        """The padding token."""
        ...

    @property
    def bos_id(self) -> int:
        """The first input of a decoder."""
        ...

    @property
    def eos_id(self) -> int:
        """The token that ends a text."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of source texts, without special tokens."""
        ...

    def encode_targets(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of target texts, without special tokens."""
        ...

    def decode_batch(self, batch: Sequence[Sequence[int]]) -> list[str]:
        """Target texts, special tokens left out."""
        ...

    def save(self, folder: Path) -> None:
        """Writes its files into the folder; `load_tokenizer` reads them."""
        ...

    def digest(self) -> str:
        """A hash of everything that its token ids depend on."""
        ...
