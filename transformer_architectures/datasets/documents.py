"""Plain text to pre-train on: documents of sentences, from files or from the embedded Bible.

Every reader streams. A bad line is a `Rejection` that says where it is; what stands behind it is another document, because the
text between is missing.
"""

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from transformer_architectures.datasets.bible import bible_path, chapters
from transformer_architectures.datasets.lines import decode, read_lines
from transformer_architectures.datasets.parts_recipe import SourceConfig
from transformer_architectures.datasets.rejections import Rejection
from transformer_architectures.datasets.sentences import split_sentences
from transformer_architectures.datasets.splitting import Part
from transformer_architectures.errors import DataError


class Document(NamedTuple):
    """Sentences that belong together, in order.

    Attributes:
        file, line: where it begins.
        sentences: in Unicode normal form NFC, none of them empty.
        num_lines: how many lines of the file it is made of.
    """

    file: str
    line: int
    sentences: tuple[str, ...]
    num_lines: int


class DocumentsConfig(SourceConfig):
    """Where documents lie. Exactly one of:

    * ``files``: text files, plain or ``.gz``, read in this order; a ``*`` in a name stands for anything, sorted;
    * ``bible``: versions of the embedded corpus. A chapter is a document, a verse a sentence.
    """

    files: list[str] | None = Field(None, min_length=1)
    document: Literal["block", "line"] = Field("block", description="what one is: lines up to an empty one, or a line")

    @model_validator(mode="after")
    def is_one_form(self) -> "DocumentsConfig":
        if (self.files is None) == (self.bible is None):
            raise ValueError("give exactly one of: files, bible")
        if self.bible is not None and "document" in self.model_fields_set:
            raise ValueError("document belongs to files: a chapter of the bible is one")
        if self.bible is not None and len(set(self.bible)) < len(self.bible):
            raise ValueError("a version stands twice under bible")
        return self

    def paths(self) -> list[Path]:
        """All files that are read.

        Raises:
            DataError: no file has a name like this.
        """
        if self.files is None:
            return [bible_path()]
        return [path for pattern in self.files for path in _matching(pattern)]


def read_documents(config: DocumentsConfig, part: Part) -> Iterator[Document | Rejection]:
    """All documents, in order. ``part`` matters for the Bible only: files are one part each."""
    if config.bible is not None:
        for version in config.bible:
            for chapter in chapters(version, part):
                place = f"bible {version} {chapter[0].book}:{chapter[0].chapter}"
                sentences = tuple(_normalized(verse.text) for verse in chapter if verse.text)
                yield Document(place, chapter[0].verse, sentences, len(sentences))
    else:
        for path in config.paths():
            yield from _read_file(path, config.document)


def _read_file(path: Path, document: Literal["block", "line"]) -> Iterator[Document | Rejection]:
    sentences: list[str] = []
    first = num_lines = 0
    for number, line in enumerate(read_lines(path), start=1):
        text = decode(line)
        found = split_sentences(_normalized(text)) if text is not None else []
        if found:
            first = first or number
            num_lines += 1
            sentences += found
        if sentences and (not found or document == "line"):
            yield Document(str(path), first, tuple(sentences), num_lines)
            sentences, first, num_lines = [], 0, 0
        if text is None:
            yield Rejection(str(path), number, "not UTF-8")
    if sentences:
        yield Document(str(path), first, tuple(sentences), num_lines)


def _normalized(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _matching(pattern: str) -> list[Path]:
    path = Path(pattern)
    if "*" not in path.name:
        return [path]
    if not (found := sorted(path.parent.glob(path.name))):
        raise DataError(f"{pattern}: no such file")
    return found


__all__ = ["Document", "DocumentsConfig", "read_documents"]
