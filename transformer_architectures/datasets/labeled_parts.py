"""The three parts of a labelled set, whatever a row is: what is rejected, what is set apart, which labels exist."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from transformer_architectures.datasets.labeled_text import LabeledText, LabeledTextConfig, read_labeled_text
from transformer_architectures.datasets.labeled_text import unknown_label as unknown_label_reason
from transformer_architectures.datasets.parts_recipe import PARTS, PartsRecipe, SourceConfig
from transformer_architectures.datasets.rejections import Rejection, RejectionLog
from transformer_architectures.datasets.splitting import Part, hash_position
from transformer_architectures.datasets.tagged_text import TaggedText, TaggedTextConfig, read_tagged_text, unknown_tag
from transformer_architectures.errors import DataError

Row = TypeVar("Row")
Config = TypeVar("Config", bound=SourceConfig)


@dataclass(frozen=True)
class Parts(Generic[Row]):
    """All rows that can be used.

    Attributes:
        labels: every label that exists, sorted: those of all training rows, also where only a sample is trained on, or those that
            the config names.
        notes: what a user should know, a sentence each.
    """

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    test: tuple[Row, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaggedParts(Parts[TaggedText]):
    """The same of tagged sentences.

    Attributes:
        are_entities: whether tags spell entities; then ``labels`` has ``O``, and ``B-`` and ``I-`` of every type.
    """

    are_entities: bool = False


@dataclass(frozen=True)
class LabeledRecipe(PartsRecipe[LabeledTextConfig]):
    """Everything that the parts of a set of labelled texts depend on."""

    def read(self, rejections: RejectionLog) -> Parts[LabeledText]:
        """All rows; bad training rows go to ``rejections``.

        Raises:
            DataError: too many training rows are bad, none has a label, a validation or test row is bad or has an unknown
                label, nothing is left.
        """

        def rows(part: Part) -> Iterable[LabeledText | Rejection]:
            config = self.config_of(part)
            return () if config is None else read_labeled_text(config, part)

        parts = _read_parts(self, rows, lambda row: row.text, lambda row: row.labels, rejections)
        parts = parts if self.train.labels is None else replace(parts, labels=tuple(sorted(self.train.labels)))
        if not parts.labels:
            raise DataError("no training row has a label: there is nothing to tell apart")
        for row in (*parts.validation, *parts.test):
            for label in row.labels:
                if label not in parts.labels:
                    raise _refusal(Rejection(row.file, row.line, unknown_label_reason(label)))
        return parts


@dataclass(frozen=True)
class TaggedRecipe(PartsRecipe[TaggedTextConfig]):
    """Everything that the parts of a set of tagged sentences depend on."""

    def read(self, rejections: RejectionLog) -> TaggedParts:
        """All sentences; bad training sentences go to ``rejections``.

        Raises:
            DataError: too many training sentences are bad, a validation or test sentence is bad or has an unknown tag, nothing is left.
        """
        read = {"train": read_tagged_text(self.train, "train")}
        are_entities = read["train"].are_entities
        for part in ("validation", "test"):
            if (config := self.config_of(part)) is not None:
                read[part] = read_tagged_text(config, part, are_entities)

        def rows(part: Part) -> Iterable[TaggedText | Rejection]:
            return read[part].rows if part in read else ()

        parts = _read_parts(self, rows, lambda row: " ".join(row.words), lambda row: row.tags, rejections)
        labels = parts.labels if self.train.tags is None else tuple(sorted(self.train.tags))
        if are_entities and self.train.tags is None:
            labels = entity_labels(labels)
        for row in (*parts.validation, *parts.test):
            for word, tag in enumerate(row.tags):
                if tag not in labels:
                    raise _refusal(unknown_tag(row, word))
        notes = (*(note for part in PARTS if part in read for note in read[part].notes), *parts.notes)
        return TaggedParts(parts.train, parts.validation, parts.test, labels, notes, are_entities)


def entity_labels(tags: Iterable[str]) -> tuple[str, ...]:
    """All tags of the entity types that occur: one that was only seen with ``B-`` may well have a second word."""
    types = {tag[1:] for tag in tags if tag != "O"}
    return tuple(sorted({"O"} | {prefix + type_ for type_ in types for prefix in "BI"}))


def _read_parts(
    recipe: PartsRecipe[Config],
    rows: Callable[[Part], Iterable[Row | Rejection]],
    text: Callable[[Row], str],
    labels: Callable[[Row], Iterable[str]],
    rejections: RejectionLog,
) -> Parts[Row]:
    train: list[Row] = []
    set_apart: list[Row] = []
    for row in rows("train"):
        if isinstance(row, Rejection):
            rejections.add(row)
        elif recipe.sets_apart(text(row)):
            set_apart.append(row)
        else:
            train.append(row)
    known = {label for row in train for label in labels(row)}
    # What has a label that no training row has is trained on: it could not be learned otherwise.
    moved = [row for row in set_apart if not known.issuperset(labels(row))]
    validation = [row for row in set_apart if known.issuperset(labels(row))]
    train += moved
    if not train:
        raise DataError("no row is left to train on" + rejections.summary())
    rejections.check(len(train) + len(validation), recipe.max_rejected_fraction, "training rows")
    notes = [f"{len(moved)} rows are not set apart for validation: no other has their label"] if moved else []
    return Parts(
        train=tuple(_sample(train, text, recipe.num_samples)),
        validation=tuple(validation) if recipe.splits_train() else _all_good(rows("validation")),
        test=_all_good(rows("test")),
        labels=tuple(sorted(known.union(*(labels(row) for row in moved)))),
        notes=tuple(notes),
    )


def _sample(rows: list[Row], text: Callable[[Row], str], num_samples: int | None) -> list[Row]:
    """So many of the rows, chosen by the hash of their text: files are often sorted, and the first rows all alike."""
    if num_samples is None or num_samples >= len(rows):
        return rows
    chosen = sorted(sorted(range(len(rows)), key=lambda number: hash_position(text(rows[number])))[:num_samples])
    return [rows[number] for number in chosen]


def _all_good(rows: Iterable[Row | Rejection]) -> tuple[Row, ...]:
    """Rows of a part that is scored: leaving one out would make the score another one than it seems."""
    good = []
    for row in rows:
        if isinstance(row, Rejection):
            raise _refusal(row)
        good.append(row)
    return tuple(good)


def _refusal(rejection: Rejection) -> DataError:
    place = f"{rejection.file}:{rejection.line}"
    return DataError(f"{place}: {rejection.reason}; every validation and test row is scored, mend it")


__all__ = ["LabeledRecipe", "Parts", "TaggedParts", "TaggedRecipe", "entity_labels"]
