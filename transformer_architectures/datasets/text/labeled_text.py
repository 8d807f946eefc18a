"""Labelled texts: one label or several per text, from tables with named columns or from the embedded Bible."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, model_validator

from transformer_architectures.datasets.lines import is_utf8_text, text_format
from transformer_architectures.datasets.rejections import Rejection
from transformer_architectures.datasets.splits import Split
from transformer_architectures.datasets.text.bible import bible_path
from transformer_architectures.datasets.text.bible_tasks import verses_by_kind
from transformer_architectures.datasets.text.sources import SourceConfig
from transformer_architectures.datasets.text.tables import TableRow, read_table


class LabeledText(NamedTuple):
    """A text, its labels (sorted and distinct), and its file and line."""

    file: str
    line: int
    text: str
    labels: tuple[str, ...]


class LabeledTextConfig(SourceConfig):
    """The file of labelled texts. Exactly one of:

    * ``file``: TSV or CSV with a header, or JSON lines (``.json``, ``.jsonl``), plain or ``.gz``;
    * ``bible``: verses of these versions of the embedded corpus, labelled with the kind of their book.

    A label is text, or in JSON lines a whole number, too. With ``multi_label`` a text has any number of labels: in a table
    they are divided by ``label_separator`` (an empty cell: none); in JSON lines they are a list.
    """

    file: str | None = None
    text_column: str = "text"
    label_column: str = "label"
    multi_label: bool = False
    label_separator: str = Field(",", min_length=1)
    labels: list[str] | None = Field(
        None, min_length=1, description="all that exist; otherwise those of the training split"
    )

    @model_validator(mode="after")
    def is_one_form(self) -> "LabeledTextConfig":
        if (self.file is None) == (self.bible is None):
            raise ValueError("give exactly one of: file, bible")
        if foreign := self.model_fields_set - {"bible"} if self.bible is not None else set():
            raise ValueError(f"{', '.join(sorted(foreign))} belongs to file: the bible has its own")
        if "label_separator" in self.model_fields_set and not self.multi_label:
            raise ValueError("label_separator belongs to multi_label")
        return self

    def paths(self) -> list[Path]:
        """All files that are read."""
        return [bible_path() if self.file is None else Path(self.file)]


def read_labeled_text(config: LabeledTextConfig, split: Split) -> Iterator[LabeledText | Rejection]:
    """All rows, in order. ``split`` counts for the Bible only: a file is one split."""
    if config.file is None:
        assert config.bible is not None
        for verse in verses_by_kind(config.bible, split):
            yield LabeledText(verse.file, verse.line, verse.text, (verse.kind,))
        return
    for row in read_table(Path(config.file), (config.text_column, config.label_column)):
        yield row if isinstance(row, Rejection) else _checked(row, config)


def _checked(row: TableRow, config: LabeledTextConfig) -> LabeledText | Rejection:
    text, cell = row.cells
    labels = _labels(cell, config)
    if not isinstance(text, str):
        reason = f"{config.text_column} is not text"
    elif isinstance(labels, str):
        reason = labels
    elif not is_utf8_text(text + "".join(labels)):
        reason = "not UTF-8"
    elif not text.strip():
        reason = "empty text"
    elif unknown := [label for label in labels if config.labels is not None and label not in config.labels]:
        reason = unknown_label(unknown[0])
    else:
        return LabeledText(row.file, row.line, text.strip(), tuple(sorted(set(labels))))
    return Rejection(row.file, row.line, reason)


def unknown_label(label: str) -> str:
    """The reason for rejecting a row with a label that does not exist."""
    return f"unknown label {label[:40]!r}"


def _labels(cell: Any, config: LabeledTextConfig) -> list[str] | str:
    """The labels in a cell, or the reason why there are none."""
    if isinstance(cell, list) and not config.multi_label:
        return "a list of labels, without multi_label"
    is_table = text_format(Path(str(config.file))) not in (".json", ".jsonl")
    if isinstance(cell, str) and config.multi_label and is_table:
        cell = [label for label in cell.split(config.label_separator) if label.strip()]
    cells = cell if isinstance(cell, list) else [cell]
    labels = [str(label).strip() for label in cells if isinstance(label, str | int) and not isinstance(label, bool)]
    if len(labels) < len(cells):
        return f"{config.label_column} is no label"
    return labels if all(labels) else "no label"
