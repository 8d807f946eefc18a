"""Reading a tokenizer back, whichever it is: what its files say decides."""

import json
from collections.abc import Collection
from pathlib import Path

from transformer_architectures.errors import ModelFolderError
from transformer_architectures.tokenization.json_tokenizer import JsonTokenizer
from transformer_architectures.tokenization.marian import MarianTokenizer
from transformer_architectures.tokenization.protocol import Tokenizer
from transformer_architectures.tokenization.subword import SubwordTokenizer, is_subword
from transformer_architectures.tokenization.wordpiece import WordPieceTokenizer

TOKENIZERS: tuple[type[JsonTokenizer | SubwordTokenizer | MarianTokenizer | WordPieceTokenizer], ...] = (
    JsonTokenizer,
    SubwordTokenizer,
    MarianTokenizer,
    WordPieceTokenizer,
)


def load_tokenizer(folder: Path, files: Collection[str] | None = None) -> Tokenizer:
    """The tokenizer that was saved in a model folder: what was saved says which class it is.

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


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a published folder, or of a ``tokenizer.json`` or ``vocab.txt``; its content says which class it is.

    Raises:
        ModelFolderError: there is none, or it is damaged.
    """
    folder = path if path.is_dir() else path.parent
    if path.suffix == ".txt":
        return WordPieceTokenizer.read(path)
    if path.is_dir() and any((folder / name).is_file() for name in MarianTokenizer.file_names[:2]):
        return MarianTokenizer.load(folder)
    if (file := folder / "tokenizer.json").is_file():
        text = file.read_text(encoding="utf-8", errors="replace")
        if is_subword(text):
            return SubwordTokenizer.load(folder)
        if _is_wordpiece(text):
            try:
                return WordPieceTokenizer.read(path)
            except ModelFolderError:  # it does what BERT's does not
                pass
        return JsonTokenizer.load(folder)
    if (folder / "vocab.txt").is_file():
        return WordPieceTokenizer.read(folder)
    raise ModelFolderError(
        f"{path}: no tokenizer: source.spm and target.spm, tokenizer.json or vocab.txt cannot be read"
    )


def _is_wordpiece(text: str) -> bool:
    try:
        return bool(json.loads(text)["model"]["type"] == "WordPiece")
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
