"""The tokenizer of published Marian models: SentencePiece (Kudo & Richardson 2018) for each side, one vocabulary."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from transformer_architectures.errors import ModelFolderError, UsageError, reason_of
from transformer_architectures.utils.console import uv

UNKNOWN, END, PADDING = "<unk>", "</s>", "<pad>"
SPECIAL_TOKENS = (UNKNOWN, END, PADDING)


class MarianTokenizer:
    """Sources are cut by ``source.spm``, targets by ``target.spm``; ``vocab.json`` gives the pieces of both their ids.

    A model with several target languages expects its source to begin with one of their codes, as in ``>>fra<< Good
    morning``: a code of the vocabulary is one token, anything else that looks like a special token is text.

    Args:
        files: contents by name, of the three names in ``file_names``.

    Raises:
        ModelFolderError: a file is not what it should be.
        UsageError: the package `sentencepiece` is not installed.
    """

    file_names: ClassVar[tuple[str, ...]] = ("source.spm", "target.spm", "vocab.json")

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.source_pieces, self.target_pieces = (_sentence_pieces(name, files[name]) for name in self.file_names[:2])
        vocabulary = _vocabulary(files["vocab.json"])
        self.vocab_size = max(vocabulary.values()) + 1
        self.unknown_id, self.eos_id, self.pad_id = (vocabulary[token] for token in SPECIAL_TOKENS)
        self.bos_id = self.pad_id  # Marian has no start token: its decoder begins with padding
        self.language_ids = {token: id for token, id in vocabulary.items() if _is_language_code(token)}
        self.ids = {token: id for token, id in vocabulary.items() if token not in SPECIAL_TOKENS}
        self.tokens = {id: token for token, id in self.ids.items() if token not in self.language_ids}

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of source texts, without special tokens."""
        codes, bodies = zip(*map(self._cut_language_code, texts), strict=True) if texts else ((), ())
        return [code + ids for code, ids in zip(codes, self._ids(self.source_pieces, bodies), strict=True)]

    def encode_targets(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of target texts, without special tokens."""
        return self._ids(self.target_pieces, texts)

    def decode_batch(self, batch: Sequence[Sequence[int]]) -> list[str]:
        """Target texts; special tokens, unknown ones among them, are left out."""
        rows = [[self.tokens[id] for id in row if id in self.tokens] for row in batch]
        texts = (self.target_pieces.decode_pieces(row) for row in rows)
        return [text.replace("▁", " ").strip() for text in texts]

    def save(self, folder: Path) -> None:
        """Writes the three files as they were read."""
        for name, content in self.files.items():
            (folder / name).write_bytes(content)

    @classmethod
    def load(cls, folder: Path) -> "MarianTokenizer":
        """Reads the three files.

        Raises:
            ModelFolderError: one of them is missing or damaged.
            UsageError: the package `sentencepiece` is not installed.
        """
        try:
            files = {name: (folder / name).read_bytes() for name in cls.file_names}
        except OSError as error:
            raise ModelFolderError(f"{error.filename}: cannot be read ({reason_of(error)})") from None
        try:
            return cls(files)
        except ModelFolderError as error:
            raise ModelFolderError(f"{folder}: {error}") from None

    def digest(self) -> str:
        """A hash of the three files."""
        return hashlib.sha256(
            b"".join(hashlib.sha256(self.files[name]).digest() for name in self.file_names)
        ).hexdigest()

    def __reduce__(self) -> tuple[type["MarianTokenizer"], tuple[dict[str, bytes]]]:
        return type(self), (self.files,)

    def _cut_language_code(self, text: str) -> tuple[list[int], str]:
        code, end, body = text.partition("<<")
        id = self.language_ids.get(code + end)
        return ([], text) if id is None else ([id], body)

    def _ids(self, pieces: Any, texts: Sequence[str]) -> list[list[int]]:
        rows = pieces.encode(list(texts), out_type=str, num_threads=1)  # corpora are encoded by several processes
        return [[self.ids.get(piece, self.unknown_id) for piece in row] for row in rows]


def _sentence_pieces(name: str, content: bytes) -> Any:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise UsageError(
            f"Marian's tokenizer needs the package sentencepiece: {uv('sync', '--extra', 'marian')}"
        ) from None
    # The parser is native code: it sees only what begins like a list of pieces.
    if not content.startswith(b"\n"):
        raise ModelFolderError(f"{name} is no SentencePiece model")
    try:
        return SentencePieceProcessor(model_proto=content)
    except RuntimeError:
        raise ModelFolderError(f"{name} is no SentencePiece model") from None


def _vocabulary(content: bytes) -> dict[str, int]:
    try:
        vocabulary = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(f"vocab.json is no JSON ({error})") from None
    if not isinstance(vocabulary, dict) or not all(type(id) is int and id >= 0 for id in vocabulary.values()):
        raise ModelFolderError("vocab.json should give each token its number")
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise ModelFolderError(f"vocab.json lacks {', '.join(missing)}")
    return vocabulary


def _is_language_code(token: str) -> bool:
    return token.startswith(">>") and token.endswith("<<")
