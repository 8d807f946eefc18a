"""Precision, recall and F1 from counts, and a table of them with a row for each class or entity type."""

from collections.abc import Sequence
from typing import NamedTuple


class ScoreRow(NamedTuple):
    """The scores of one class. What would be 0 / 0 is 0, as in scikit-learn and seqeval.

    Attributes:
        support: how often it is right to give it.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int


def score_row(name: str, correct: int, predicted: int, gold: int) -> ScoreRow:
    """The scores of something that was predicted ``predicted`` times, ``correct`` of them rightly, and is there ``gold`` times."""
    return ScoreRow(
        name,
        precision=correct / predicted if predicted else 0.0,
        recall=correct / gold if gold else 0.0,
        f1=2 * correct / (predicted + gold) if predicted + gold else 0.0,
        support=int(gold),
    )


def format_score_table(rows: Sequence[ScoreRow]) -> str:
    """Lines of text, in columns."""
    width = max([len("class"), *(len(row.name) for row in rows)])
    lines = [f"{'class':<{width}}  precision  recall      f1  support"]
    lines += [
        f"{row.name:<{width}}  {row.precision:9.4f}  {row.recall:6.4f}  {row.f1:6.4f}  {row.support:7d}" for row in rows
    ]
    return "\n".join(lines)
