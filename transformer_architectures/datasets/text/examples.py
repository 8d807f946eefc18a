"""The examples of one file that is scored, read as in training. Every example is scored: a bad one is an error with its line.

One function for each kind of text. `tarch evaluate --data FILE` calls them with what the model folder says about the training files.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformer_architectures.datasets.rejections import all_usable
from transformer_architectures.datasets.text.conll import TaggedText
from transformer_architectures.datasets.text.documents import (
    Document,
    DocumentForm,
    DocumentsConfig,
    TextForm,
    read_documents,
)
from transformer_architectures.datasets.text.labeled_text import LabeledText, LabeledTextConfig, read_labeled_text
from transformer_architectures.datasets.text.parallel_text import Pair, ParallelTextConfig, read_pairs
from transformer_architectures.datasets.text.tagged_text import TaggedRows, TaggedTextConfig, read_tagged_text


def labeled_examples(
    path: Path,
    classes: Sequence[str],
    text_column: str = "text",
    label_column: str = "label",
    multi_label: bool = False,
    label_separator: str | None = None,
) -> tuple[LabeledText, ...]:
    """The texts of a table, with their labels.

    Args:
        classes: all labels that may occur.
        text_column, label_column, multi_label, label_separator: as in `LabeledTextConfig`.

    Raises:
        DataError: the file cannot be read, or a row is bad or has a label that is none of ``classes``.
    """
    columns: dict[str, Any] = {"text_column": text_column, "label_column": label_column, "multi_label": multi_label}
    if multi_label and label_separator is not None:
        columns["label_separator"] = label_separator
    config = LabeledTextConfig(file=str(path), labels=list(classes), **columns)
    return tuple(all_usable(read_labeled_text(config, "test")))


def tagged_examples(
    path: Path, tags: Sequence[str], are_entities: bool, word_column: int | None = None, tag_column: int | None = None
) -> tuple[tuple[TaggedText, ...], tuple[str, ...]]:
    """The sentences of a CoNLL file, and notes on how its tags were read.

    Args:
        tags: all that may occur.
        are_entities: whether they spell entities.
        word_column, tag_column: as in `TaggedTextConfig`.

    Raises:
        DataError: the file cannot be read, or a sentence is bad or has a tag that is none of ``tags``.
    """
    columns: dict[str, Any] = {"word_column": word_column, "tag_column": tag_column}
    config = TaggedTextConfig(
        file=str(path),
        tags=list(tags),
        scheme="auto" if are_entities else "free",
        **{name: column for name, column in columns.items() if column is not None},
    )
    found: TaggedRows = read_tagged_text(config, "test", are_entities)
    return tuple(all_usable(found.rows, "sentence")), found.notes


def document_examples(path: Path, text: TextForm = "sentences", document: DocumentForm = "block") -> Iterator[Document]:
    """The documents of a text file, one by one.

    Args:
        text, document: as in `DocumentsConfig`; for a language model ``exact`` and ``file`` are usual.

    Raises:
        DataError: the file cannot be read, or a line is not UTF-8.
    """
    config = DocumentsConfig.model_validate({"files": [str(path)], "text": text, "document": document})
    return all_usable(read_documents(config, "test"), "line")


def pair_examples(config: ParallelTextConfig, source_language: str, target_language: str) -> Iterator[Pair]:
    """The sentence pairs of one or several files.

    Raises:
        DataError: a file cannot be read, or a row is bad.
    """
    return all_usable(read_pairs(config, "test", source_language, target_language))
