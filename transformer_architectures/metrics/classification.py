"""Scores of texts with one label each, or several: accuracy, F1, Matthews' correlation, a table by class."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from transformer_architectures.errors import DataError
from transformer_architectures.metrics.score_table import ScoreRow, score_row

Classes = Int[np.ndarray, "_"]  # a class number for each row
Chosen = Bool[np.ndarray, "_ classes"]  # for each row which classes


def classification_scores(gold: Classes, predicted: Classes) -> dict[str, float]:
    """Scores of one class for each row, the main one (``accuracy``) first.

    - ``accuracy``: share of the rows whose class is predicted, 0 to 1;
    - ``macro_f1``: mean F1 of the classes that occur in ``gold`` or ``predicted``, 0 to 1;
    - ``mcc``: Matthews' correlation for any number of classes (Gorodkin 2004), -1 to 1; 0 where all rows have one class on either side.

    Raises:
        DataError: there is nothing to score, or not one prediction for each row.
    """
    confusion = _confusion(gold, predicted, num_classes=None)
    correct, by_prediction, by_gold = _counts(confusion)
    f1 = [score_row("", *counts).f1 for counts in zip(correct, by_prediction, by_gold, strict=True) if any(counts)]
    num_rows = len(gold)
    covariance = num_rows * sum(correct) - sum(p * g for p, g in zip(by_prediction, by_gold, strict=True))
    spread_predicted = num_rows**2 - sum(count**2 for count in by_prediction)
    spread_gold = num_rows**2 - sum(count**2 for count in by_gold)
    spread = spread_predicted * spread_gold
    return {
        "accuracy": sum(correct) / num_rows,
        "macro_f1": math.fsum(f1) / len(f1),
        "mcc": covariance / math.sqrt(spread) if spread else 0.0,
    }


def classification_signatures() -> dict[str, str]:
    """How each score is computed, for others to repeat it."""
    return {
        "accuracy": "top:1|rows:all",
        "macro_f1": "average:macro|classes:in-gold-or-predicted|zero-division:0",
        "mcc": "multiclass:gorodkin|zero-division:0",
    }


def class_table(gold: Classes, predicted: Classes, names: Sequence[str]) -> list[ScoreRow]:
    """A row for each class, in the order of ``names``, also for those that do not occur."""
    counts = _counts(_confusion(gold, predicted, len(names)))
    return [score_row(name, *of_class) for name, *of_class in zip(names, *counts, strict=True)]


def multi_label_text_scores(gold: Chosen, predicted: Chosen) -> dict[str, float]:
    """Scores of any number of classes for each row, the main one (``micro_f1``) first; all from 0 to 1.

    - ``micro_f1``: F1 of all pairs of row and class;
    - ``macro_f1``: mean F1 of all classes; one that is neither there nor predicted has 0, as in scikit-learn;
    - ``accuracy``: share of the rows whose classes are predicted exactly.

    Raises:
        DataError: there is nothing to score, or not one prediction for each row.
    """
    _check_lengths(len(gold), len(predicted))
    rows = multi_label_table(gold, predicted, [""] * gold.shape[1])
    pooled = score_row("", int((gold & predicted).sum()), int(predicted.sum()), int(gold.sum()))
    return {
        "micro_f1": pooled.f1,
        "macro_f1": math.fsum(row.f1 for row in rows) / len(rows),
        "accuracy": float((gold == predicted).all(axis=1).mean()),
    }


def multi_label_text_signatures() -> dict[str, str]:
    """How each score is computed, for others to repeat it."""
    return {
        "micro_f1": "average:micro|zero-division:0",
        "macro_f1": "average:macro|classes:all|zero-division:0",
        "accuracy": "match:exact|rows:all",
    }


def multi_label_table(gold: Chosen, predicted: Chosen, names: Sequence[str]) -> list[ScoreRow]:
    """A row for each class, in the order of ``names``."""
    counts = ((gold & predicted).sum(axis=0), predicted.sum(axis=0), gold.sum(axis=0))
    columns = (column.tolist() for column in counts)
    return [score_row(name, *of_class) for name, *of_class in zip(names, *columns, strict=True)]


def _confusion(gold: Classes, predicted: Classes, num_classes: int | None) -> Int[np.ndarray, "classes classes"]:
    """How often each class (row) was predicted as each (column)."""
    _check_lengths(len(gold), len(predicted))
    size = num_classes or int(max(gold.max(), predicted.max())) + 1
    pairs = gold.astype(np.int64) * size + predicted
    return np.bincount(pairs, minlength=size**2).reshape(size, size)


def _counts(confusion: Int[np.ndarray, "classes classes"]) -> tuple[list[int], list[int], list[int]]:
    """Of each class: rightly predicted, predicted, there. Python's integers, whose squares never overflow."""
    return confusion.diagonal().tolist(), confusion.sum(axis=0).tolist(), confusion.sum(axis=1).tolist()


def _check_lengths(num_gold: int, num_predicted: int) -> None:
    if num_gold != num_predicted:
        raise DataError(f"{num_predicted} predictions cannot be scored against {num_gold} rows")
    if not num_gold:
        raise DataError("there is no row to score")
