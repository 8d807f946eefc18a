"""Scores of labelled texts: scikit-learn's on random labels, by hand on small ones."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    matthews_corrcoef,
    precision_recall_fscore_support,
)

from transformer_architectures.errors import DataError
from transformer_architectures.metrics import (
    class_table,
    classification_scores,
    classification_signatures,
    format_score_table,
    multi_label_table,
    multi_label_text_scores,
    multi_label_text_signatures,
)

NUM_CLASSES = 4
labels = st.integers(0, NUM_CLASSES - 1)
pairs = st.lists(st.tuples(labels, labels), min_size=1, max_size=40)
chosen = st.lists(st.tuples(*[st.booleans()] * (2 * NUM_CLASSES)), min_size=1, max_size=30)


@settings(deadline=None, max_examples=300)
@given(pairs)
def test_equal_to_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    gold, predicted = np.array(pairs).T
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a single class
        expected = {
            "accuracy": accuracy_score(gold, predicted),
            "macro_f1": f1_score(gold, predicted, average="macro", zero_division=0),
            "mcc": matthews_corrcoef(gold, predicted),
        }
    scores = classification_scores(gold, predicted)
    assert scores == pytest.approx(expected, abs=1e-12)
    assert list(scores) == ["accuracy", "macro_f1", "mcc"] == list(classification_signatures())
    names = [f"class {number}" for number in range(NUM_CLASSES)]
    table = class_table(gold, predicted, names)
    columns = precision_recall_fscore_support(gold, predicted, labels=range(NUM_CLASSES), zero_division=0)
    assert [row.name for row in table] == names
    for row, *of_class in zip(table, *columns, strict=True):
        assert row[1:] == pytest.approx(of_class, abs=1e-12)


@settings(deadline=None, max_examples=200)
@given(chosen)
def test_several_labels_equal_to_scikit_learn(rows: list[tuple[bool, ...]]) -> None:
    gold, predicted = np.split(np.array(rows), 2, axis=1)
    expected = {
        "micro_f1": f1_score(gold, predicted, average="micro", zero_division=0),
        "macro_f1": f1_score(gold, predicted, average="macro", zero_division=0),
        "accuracy": accuracy_score(gold, predicted),
    }
    scores = multi_label_text_scores(gold, predicted)
    assert scores == pytest.approx(expected, abs=1e-12)
    assert list(scores) == list(expected) == list(multi_label_text_signatures())
    columns = precision_recall_fscore_support(gold, predicted, zero_division=0)
    for row, *of_class in zip(multi_label_table(gold, predicted, list("abcd")), *columns, strict=True):
        assert row[1:] == pytest.approx(of_class, abs=1e-12)


def test_by_hand() -> None:
    gold, predicted = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1])
    scores = classification_scores(gold, predicted)
    assert scores["accuracy"] == 0.5
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 2 / 4 + 0) / 3)
    rows = class_table(gold, predicted, ["a", "b", "c", "never"])
    assert [tuple(row) for row in rows] == [
        ("a", 1.0, 0.5, pytest.approx(2 / 3), 2), ("b", pytest.approx(1 / 3), 1.0, 0.5, 1), ("c", 0.0, 0.0, 0.0, 1),
        ("never", 0.0, 0.0, 0.0, 0),
    ]  # fmt: skip


def test_perfect_and_constant_predictions() -> None:
    gold = np.array([0, 1, 2, 1])
    assert classification_scores(gold, gold) == {"accuracy": 1.0, "macro_f1": 1.0, "mcc": 1.0}
    assert classification_scores(gold, np.ones(4, dtype=np.int64))["mcc"] == 0.0
    assert classification_scores(np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64))["mcc"] == 0.0


def test_large_numbers_do_not_overflow() -> None:
    gold = np.repeat(np.arange(3), 200_000)
    scores = classification_scores(gold, np.roll(gold, 1000))
    assert scores["mcc"] == pytest.approx(1 - 3 * 3000 / 600_000 / 2)


def test_nothing_to_score_and_lengths_that_differ() -> None:
    empty, one = np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64)
    with pytest.raises(DataError, match="no row to score"):
        classification_scores(empty, empty)
    with pytest.raises(DataError, match="0 predictions cannot be scored against 1"):
        classification_scores(one, empty)
    with pytest.raises(DataError, match="no row to score"):
        multi_label_text_scores(np.zeros((0, 2), dtype=bool), np.zeros((0, 2), dtype=bool))


def test_the_table_as_text() -> None:
    rows = class_table(np.array([0, 1, 1]), np.array([0, 1, 0]), ["a long name", "b"])
    assert format_score_table(rows).splitlines() == [
        "class        precision  recall      f1  support",
        "a long name     0.5000  1.0000  0.6667        1",
        "b               1.0000  0.5000  0.6667        2",
    ]
