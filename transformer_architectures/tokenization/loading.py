"""Reading a tokenizer back, whichever it is."""

from collections.abc import Collection
from pathlib import Path

from transformer_architectures.errors import ModelFolderError
from transformer_architectures.tokenization.marian import MarianTokenizer
from transformer_architectures.tokenization.protocol import Tokenizer
from transformer_architectures.tokenization.subword import SubwordTokenizer
from transformer_architectures.tokenization.wordpiece import WordPieceTokenizer

TOKENIZERS: tuple[type[SubwordTokenizer | MarianTokenizer | WordPieceTokenizer], ...] = (
    SubwordTokenizer,
    MarianTokenizer,
    WordPieceTokenizer,
)


def load_tokenizer(folder: Path, files: Collection[str] | None = None) -> Tokenizer:
    """The tokenizer that was saved in a folder: its files say which class it is.

    Args:
        files: names of the files that may be read (those of a manifest, say); all of the folder unless given.

    Raises:
        ModelFolderError: there is none, or it is damaged.
    """
    for tokenizer in TOKENIZERS:
        if all((folder / name).is_file() if files is None else name in files for name in tokenizer.file_names):
            return tokenizer.load(folder)
    known = " or ".join(", ".join(tokenizer.file_names) for tokenizer in TOKENIZERS)
    raise ModelFolderError(f"{folder}: there is no tokenizer ({known})")
