"""Plain text as documents, from files or from the embedded Bible.

A document's text is read in one of two ways:

* ``sentences``: each line is normalised (NFC) and cut into sentences; line breaks, indentation and empty lines are lost.
* ``exact``: every character is kept, line breaks and indentation included; only the bytes are decoded (UTF-8, without a byte order mark).

and what a document is, is one of three:

* ``block``: the lines up to one of only white space;
* ``line``: each line (those of only white space are ignored);
* ``file``: each file. One of more than `MAX_DOCUMENT` characters is several documents, so that memory is bounded.

Line breaks that divide two documents belong to neither. Every reader streams. A line that is not UTF-8 is a `Rejection`; it ends the
document, because the text after it does not continue the text before it.
"""

import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_serializer, model_validator

from transformer_architectures.datasets.lines import decode, read_lines
from transformer_architectures.datasets.rejections import Rejection
from transformer_architectures.datasets.splits import Split
from transformer_architectures.datasets.text.bible import Verse, bible_path, chapters
from transformer_architectures.datasets.text.sentences import split_sentences
from transformer_architectures.datasets.text.sources import SourceConfig
from transformer_architectures.errors import DataError

TextForm = Literal["exact", "sentences"]
DocumentForm = Literal["block", "line", "file"]

MAX_DOCUMENT = 2**24  # characters of a file that are one document
MAX_LINE = 2**16  # characters of exact text that stay together; a longer line is cut


class Document(NamedTuple):
    """A text.

    Attributes:
        file, line: where it begins.
        sentences: its pieces in order, none of them empty. Of ``sentences``: in Unicode normal form NFC. Of ``exact`` text: lines with
            their endings; joined they are the text.
        num_lines: number of lines in the file.
    """

    file: str
    line: int
    sentences: tuple[str, ...]
    num_lines: int


class DocumentsConfig(SourceConfig):
    """The files of documents. Exactly one of:

    * ``files``: text files, plain or ``.gz``, read in this order; a ``*`` in a name matches anything, sorted;
    * ``bible``: versions of the embedded corpus. A chapter is a document, a verse a sentence (or a line of exact text).
    """

    files: list[str] | None = Field(None, min_length=1)
    text: TextForm = Field(
        "sentences", description="sentences, or exactly what the file has, with line breaks and indentation"
    )
    document: DocumentForm = Field("block", description="the lines up to an empty one, a line, or a file")

    @model_validator(mode="after")
    def is_one_form(self) -> "DocumentsConfig":
        if (self.files is None) == (self.bible is None):
            raise ValueError("give exactly one of: files, bible")
        if self.bible is not None and "document" in self.model_fields_set:
            raise ValueError("document belongs to files: a chapter of the bible is one")
        if self.bible is not None and len(set(self.bible)) < len(self.bible):
            raise ValueError("a version is given twice under bible")
        return self

    @model_serializer(mode="wrap")
    def as_before(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Leaves out ``text: sentences`` where it is the default: ``text`` is newer than caches and runs, which must stay valid."""
        values = handler(self)
        if self.text == "sentences" == type(self).model_fields["text"].default:
            del values["text"]
        return values

    def paths(self) -> list[Path]:
        """All files that are read.

        Raises:
            DataError: no file matches a name.
        """
        if self.files is None:
            return [bible_path()]
        return [path for pattern in self.files for path in _matching(pattern)]


class ExactDocumentsConfig(DocumentsConfig):
    """The same with the defaults of language models: exact text, each file a document."""

    text: TextForm = Field(
        "exact", description="exactly what the file has, with line breaks and indentation, or sentences"
    )
    document: DocumentForm = Field("file", description="a file, a line, or the lines up to an empty one")


def read_documents(config: DocumentsConfig, split: Split) -> Iterator[Document | Rejection]:
    """All documents, in order. ``split`` counts for the Bible only: files are one split each."""
    if config.bible is not None:
        for version in config.bible:
            for chapter in chapters(version, split):
                yield _chapter(f"bible {version} {chapter[0].book}:{chapter[0].chapter}", chapter, config.text)
    else:
        for path in config.paths():
            yield from _read_file(path, config.text, config.document)


def _chapter(place: str, chapter: list[Verse], form: TextForm) -> Document:
    if form == "exact":
        verses = tuple(f"{verse.text}\n" for verse in chapter)
    else:
        verses = tuple(_normalized(verse.text) for verse in chapter if verse.text)
    return Document(place, chapter[0].verse, verses, len(verses))


def _read_file(path: Path, form: TextForm, document: DocumentForm) -> Iterator[Document | Rejection]:
    is_exact = form == "exact"
    pieces: list[str] = []
    first = num_lines = num_characters = 0

    def finished() -> Document:
        if is_exact and document != "file":  # the line break that divides two documents
            pieces[-1] = pieces[-1].removesuffix("\n").removesuffix("\r")
        return Document(str(path), first, tuple(piece for piece in pieces if piece), num_lines)

    for number, line in enumerate(read_lines(path, keep_ends=is_exact), start=1):
        text = _exact_text(line, number) if is_exact else decode(line)
        if text is None:
            found = []
        elif is_exact:
            found = _cut(text) if document == "file" or text.strip() else []
        else:
            found = split_sentences(_normalized(text))
        if found:
            first = first or number
            num_lines += 1
            pieces += found
            num_characters += len(text or "")
        ends_block = document == "line" or (document == "block" and not found)
        if pieces and (ends_block or text is None or (document == "file" and num_characters >= MAX_DOCUMENT)):
            yield finished()
            pieces, first, num_lines, num_characters = [], 0, 0, 0
        if text is None:
            yield Rejection(str(path), number, "not UTF-8")
    if pieces:
        yield finished()


def _exact_text(line: bytes, number: int) -> str | None:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text.removeprefix("\ufeff") if number == 1 else text


def _cut(text: str) -> list[str]:
    return [text[start : start + MAX_LINE] for start in range(0, len(text), MAX_LINE)]


def _normalized(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _matching(pattern: str) -> list[Path]:
    path = Path(pattern)
    if "*" not in path.name:
        return [path]
    if not (found := sorted(path.parent.glob(path.name))):
        raise DataError(f"{pattern}: no such file")
    return found
