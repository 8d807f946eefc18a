"""The splits of a labelled set, whatever a row is: what is rejected, what is set apart, which labels exist."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from transformer_architectures.datasets.rejections import Rejection, RejectionLog, all_usable, refusal
from transformer_architectures.datasets.splits import SPLITS, Split, sample_by_hash, text_key
from transformer_architectures.datasets.text.conll import TaggedText
from transformer_architectures.datasets.text.labeled_text import LabeledText, LabeledTextConfig, read_labeled_text
from transformer_architectures.datasets.text.labeled_text import unknown_label as unknown_label_reason
from transformer_architectures.datasets.text.sources import SourceConfig, TextRecipe
from transformer_architectures.datasets.text.tagged_text import TaggedTextConfig, read_tagged_text, unknown_tag
from transformer_architectures.errors import DataError

SCORED = "row of the validation and test splits"

Row = TypeVar("Row")
AnySource = TypeVar("AnySource", bound=SourceConfig)


@dataclass(frozen=True)
class LabeledSplits(Generic[Row]):
    """All rows that can be used.

    Attributes:
        labels: every label that exists, sorted: those of all training rows (also if only a sample of them is used), or those that
            the config names.
        notes: what a user should know, a sentence each.
    """

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    test: tuple[Row, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaggedSplits(LabeledSplits[TaggedText]):
    """All sentences that can be used.

    Attributes:
        are_entities: whether tags spell entities; then ``labels`` has ``O``, and ``B-`` and ``I-`` of every type.
    """

    are_entities: bool = False


@dataclass(frozen=True)
class LabeledRecipe(TextRecipe[LabeledTextConfig]):
    """Everything that the splits of a set of labelled texts depend on."""

    def read(self, rejections: RejectionLog) -> LabeledSplits[LabeledText]:
        """All rows; bad training rows go to ``rejections``.

        Raises:
            DataError: too many training rows are bad, none has a label, a validation or test row is bad or has an unknown
                label, nothing is left.
        """

        def rows(split: Split) -> Iterable[LabeledText | Rejection]:
            config = self.source_of(split)
            return () if config is None else read_labeled_text(config, split)

        splits = _read_splits(self, rows, lambda row: row.text, lambda row: row.labels, rejections)
        splits = splits if self.train.labels is None else replace(splits, labels=tuple(sorted(self.train.labels)))
        if not splits.labels:
            raise DataError("no training row has a label: there is nothing to tell apart")
        for row in (*splits.validation, *splits.test):
            for label in row.labels:
                if label not in splits.labels:
                    raise refusal(Rejection(row.file, row.line, unknown_label_reason(label)), SCORED)
        return splits


@dataclass(frozen=True)
class TaggedRecipe(TextRecipe[TaggedTextConfig]):
    """Everything that the splits of a set of tagged sentences depend on."""

    def read(self, rejections: RejectionLog) -> TaggedSplits:
        """All sentences; bad training sentences go to ``rejections``.

        Raises:
            DataError: too many training sentences are bad, a validation or test sentence is bad or has an unknown tag, nothing is left.
        """
        read = {"train": read_tagged_text(self.train, "train")}
        are_entities = read["train"].are_entities
        for split in ("validation", "test"):
            if (config := self.source_of(split)) is not None:
                read[split] = read_tagged_text(config, split, are_entities)

        def rows(split: Split) -> Iterable[TaggedText | Rejection]:
            return read[split].rows if split in read else ()

        splits = _read_splits(self, rows, lambda row: " ".join(row.words), lambda row: row.tags, rejections)
        labels = splits.labels if self.train.tags is None else tuple(sorted(self.train.tags))
        if are_entities and self.train.tags is None:
            labels = entity_labels(labels)
        for row in (*splits.validation, *splits.test):
            for word, tag in enumerate(row.tags):
                if tag not in labels:
                    raise refusal(unknown_tag(row, word), SCORED)
        notes = (*(note for split in SPLITS if split in read for note in read[split].notes), *splits.notes)
        return TaggedSplits(splits.train, splits.validation, splits.test, labels, notes, are_entities)


def entity_labels(tags: Iterable[str]) -> tuple[str, ...]:
    """All tags of the entity types that occur: one that was only seen with ``B-`` may well have a second word."""
    types = {tag[1:] for tag in tags if tag != "O"}
    return tuple(sorted({"O"} | {prefix + type_ for type_ in types for prefix in "BI"}))


def _read_splits(
    recipe: TextRecipe[AnySource],
    rows: Callable[[Split], Iterable[Row | Rejection]],
    text: Callable[[Row], str],
    labels: Callable[[Row], Iterable[str]],
    rejections: RejectionLog,
) -> LabeledSplits[Row]:
    train: list[Row] = []
    set_apart: list[Row] = []
    for row in rows("train"):
        if isinstance(row, Rejection):
            rejections.add(row)
        elif recipe.sets_apart(text_key(text(row))):
            set_apart.append(row)
        else:
            train.append(row)
    known = {label for row in train for label in labels(row)}
    # A row with a label that no training row has is trained on: the label could not be learned otherwise.
    moved = [row for row in set_apart if not known.issuperset(labels(row))]
    validation = [row for row in set_apart if known.issuperset(labels(row))]
    train += moved
    if not train:
        raise DataError("no row is left to train on" + rejections.summary())
    rejections.check(len(train) + len(validation), recipe.max_rejected_fraction, "training rows")
    notes = [f"{len(moved)} rows are not set apart for validation: no other has their label"] if moved else []
    return LabeledSplits(
        train=tuple(train if recipe.num_samples is None else _sample(train, text, recipe.num_samples)),
        validation=(
            tuple(validation)
            if recipe.splits_train()
            else tuple(all_usable(rows("validation"), "row of the validation split"))
        ),
        test=tuple(all_usable(rows("test"), "row of the test split")),
        labels=tuple(sorted(known.union(*(labels(row) for row in moved)))),
        notes=tuple(notes),
    )


def _sample(rows: list[Row], text: Callable[[Row], str], num_samples: int) -> list[Row]:
    return [rows[index] for index in sample_by_hash(map(text, rows), num_samples)]
