"""Tagged texts: words with a tag each, from CoNLL files or from the embedded Bible, entity tags always as BIO."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from transformer_architectures.datasets.lines import text_format
from transformer_architectures.datasets.rejections import Rejection
from transformer_architectures.datasets.splits import Split
from transformer_architectures.datasets.text.bible import bible_path
from transformer_architectures.datasets.text.bible_tasks import verses_without_punctuation
from transformer_architectures.datasets.text.conll import TaggedText, read_columns, read_conllu
from transformer_architectures.datasets.text.sources import SourceConfig
from transformer_architectures.datasets.text.tag_schemes import (
    TagScheme,
    as_bio,
    detect_scheme,
    is_entity_tag,
    look_like_bioes,
    stray_insides,
)

CONLLU = ".conllu"
WORD_FORM, UPOS = 1, 3  # columns of CoNLL-U
UPOS_TAGS = tuple("ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X".split())


class TaggedTextConfig(SourceConfig):
    """The file of tagged texts. Exactly one of:

    * ``file``: CoNLL-U (``.conllu``), or columns with one word a line; plain or ``.gz``;
    * ``bible``: verses of these versions of the embedded corpus, without punctuation and capitals; the tags are what was removed.

    Columns are counted from 0, or from the end with -1.
    """

    file: str | None = None
    word_column: int | None = Field(None, description="the first column; CoNLL-U: 1, the word form")
    tag_column: int | None = Field(None, description="the last column; CoNLL-U: 3, the universal part of speech")
    scheme: Literal["auto"] | TagScheme = Field("auto", description="how tags spell entities; free: they spell none")
    tags: list[str] | None = Field(
        None, min_length=1, description="all that exist; otherwise those of the training split"
    )

    @model_validator(mode="after")
    def is_one_form(self) -> "TaggedTextConfig":
        if (self.file is None) == (self.bible is None):
            raise ValueError("give exactly one of: file, bible")
        if foreign := self.model_fields_set - {"bible"} if self.bible is not None else set():
            raise ValueError(f"{', '.join(sorted(foreign))} belongs to file: the bible has its own")
        return self

    def paths(self) -> list[Path]:
        """All files that are read."""
        return [bible_path() if self.file is None else Path(self.file)]


@dataclass(frozen=True)
class TaggedRows:
    """The sentences of a file.

    Attributes:
        rows: sentences (with tags in BIO if they spell entities) and rejections, in the order of the file.
        are_entities: whether the tags spell entities.
        notes: what was found, converted and ignored, a sentence each.
    """

    rows: tuple[TaggedText | Rejection, ...]
    are_entities: bool
    notes: tuple[str, ...] = ()


def read_tagged_text(config: TaggedTextConfig, split: Split, are_entities: bool | None = None) -> TaggedRows:
    """Reads all sentences.

    Args:
        split: of the Bible; a file is one split.
        are_entities: for a validation or test split, whether the tags of the training split spell entities.

    Raises:
        DataError: the file cannot be read.
    """
    if config.file is None:
        assert config.bible is not None
        verses = verses_without_punctuation(config.bible, split)
        rows = tuple(TaggedText(file, (line,) * len(words), words, tags) for file, line, words, tags in verses)
        return TaggedRows(rows, are_entities=False)
    path = Path(config.file)
    is_conllu = text_format(path) == CONLLU
    word_column, tag_column = (WORD_FORM, UPOS) if is_conllu else (0, -1)
    word_column = word_column if config.word_column is None else config.word_column
    tag_column = tag_column if config.tag_column is None else config.tag_column
    remarks: Counter[str] = Counter()
    read = read_conllu if is_conllu else read_columns
    found = tuple(read(path, word_column, tag_column, lambda what: remarks.update([what])))

    is_upos = is_conllu and tag_column == UPOS
    tags_of_sentences = [row.tags for row in found if isinstance(row, TaggedText)]
    if config.scheme != "auto":
        scheme: TagScheme = config.scheme
    else:
        scheme = "free" if is_upos else detect_scheme(tags_of_sentences, are_entities)
    known = config.tags or (list(UPOS_TAGS) if is_upos else None)
    if known is not None and scheme == "iob1":  # tags are compared as they are after the conversion
        known = [*known, *(f"B{tag[1:]}" for tag in known if tag.startswith("I"))]
    checked = tuple(row if isinstance(row, Rejection) else _checked(row, scheme, known) for row in found)
    notes = [f"{path}: {count} {what}" for what, count in remarks.items()]
    if scheme == "free" and config.scheme == "auto" and look_like_bioes(tags_of_sentences):
        notes.append(
            f"{path}: the tags look like BIOES or BILOU, read as free labels: as BIO they would be scored as entities"
        )
    return TaggedRows(checked, scheme != "free", (*notes, *_notes(path, scheme, checked, found)))


def unknown_tag(row: TaggedText, word: int) -> Rejection:
    """The rejection of a sentence in which a word has a tag that does not exist."""
    return Rejection(row.file, row.lines[word], f"unknown tag {row.tags[word][:40]!r}")


def _checked(row: TaggedText, scheme: TagScheme, known: list[str] | None) -> TaggedText | Rejection:
    if scheme != "free":
        for word, tag in enumerate(row.tags):
            if not is_entity_tag(tag):
                return unknown_tag(row, word)
    converted = row._replace(tags=as_bio(row.tags)) if scheme == "iob1" else row
    for word, tag in enumerate(converted.tags):
        if known is not None and tag not in known:
            return unknown_tag(converted, word)
    return converted


def _notes(
    path: Path,
    scheme: TagScheme,
    rows: tuple[TaggedText | Rejection, ...],
    found: tuple[TaggedText | Rejection, ...],
) -> list[str]:
    """How the tags were read and converted."""
    if scheme == "free":
        return []
    strays = changed = 0
    for before, row in zip(found, rows, strict=True):
        if isinstance(before, TaggedText) and isinstance(row, TaggedText):
            strays += stray_insides(row.tags)
            changed += sum(old != new for old, new in zip(before.tags, row.tags, strict=True))
    if scheme == "iob1":
        return [f"{path}: the tags are IOB1, converted to BIO: {changed} I- that begin an entity became B-"]
    notes = [f"{path}: the tags are BIO, used as they stand"]
    if strays:
        notes.append(
            f"{path}: {strays} I- begin an entity without a B-: they count as conlleval reads them, not in strict scores"
        )
    return notes
