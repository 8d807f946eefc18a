"""Scores of tagged words: equal to seqeval on random tags, in both modes."""

import warnings
from typing import Any

import pytest
import seqeval.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import sequence_labeling as loose
from seqeval.metrics import v1 as strict
from seqeval.scheme import IOB2, Entities

from transformer_architectures.datasets.text.tag_schemes import entity_spans, strict_entity_spans
from transformer_architectures.errors import DataError
from transformer_architectures.metrics import (
    entity_score,
    entity_table,
    tagging_scores,
    tagging_signatures,
    word_accuracy,
)

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-creative-work", "I-creative-work", "B", "I"]
# Words of a text with the gold tag and the predicted one: often the same, or nothing would be right.
tag_pairs = st.one_of(
    st.sampled_from(TAGS).map(lambda tag: (tag, tag)), st.tuples(st.sampled_from(TAGS), st.sampled_from(TAGS))
)
texts = st.lists(st.lists(tag_pairs, max_size=12), min_size=1, max_size=6)
Texts = list[list[tuple[str, str]]]


def sides(texts: Texts) -> tuple[list[list[str]], list[list[str]]]:
    return [[gold for gold, _ in text] for text in texts], [[predicted for _, predicted in text] for text in texts]


def from_seqeval(name: str, gold: Any, predicted: Any, module: Any = seqeval.metrics, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of nothing predicted
        return getattr(module, name)(gold, predicted, **options)


@settings(deadline=None, max_examples=400)
@given(texts)
def test_equal_to_seqeval(texts: Texts) -> None:
    gold, predicted = sides(texts)
    if not any(gold):
        return
    scores = tagging_scores(gold, predicted, are_entities=True)
    strictly = {"mode": "strict", "scheme": IOB2}
    assert scores == pytest.approx(
        {
            "f1": from_seqeval("f1_score", gold, predicted),
            "precision": from_seqeval("precision_score", gold, predicted),
            "recall": from_seqeval("recall_score", gold, predicted),
            "f1_strict": from_seqeval("f1_score", gold, predicted, **strictly) if any_strict(gold, predicted) else 0.0,
            "accuracy": from_seqeval("accuracy_score", gold, predicted),
        },
        abs=1e-12,
    )
    assert list(scores) == ["f1", "precision", "recall", "f1_strict", "accuracy"] == list(tagging_signatures(True))


@settings(deadline=None, max_examples=300)
@given(texts)
def test_tables_equal_to_seqeval(texts: Texts) -> None:
    gold, predicted = sides(texts)
    if not any(gold):
        return
    for spans, module, options in ((entity_spans, loose, {}), (strict_entity_spans, strict, {"scheme": IOB2})):
        rows = entity_table(gold, predicted, spans)
        if not rows:
            continue
        columns = from_seqeval("precision_recall_fscore_support", gold, predicted, module, average=None, **options)
        for row, *of_type in zip(rows, *columns, strict=True):
            assert row[1:] == pytest.approx(of_type, abs=1e-12)
        assert [row.name for row in rows] == sorted({span.type for text in gold + predicted for span in spans(text)})


def any_strict(*texts: list[list[str]]) -> bool:
    """seqeval raises where there is no entity on either side."""
    return any(strict_entity_spans(tags) for side in texts for tags in side)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(TAGS), max_size=20))
def test_spans_equal_to_seqeval(tags: list[str]) -> None:
    assert [tuple(span) for span in entity_spans(tags)] == loose.get_entities(tags)
    [of_seqeval] = Entities([tags], IOB2).entities
    assert [(span.type, span.first, span.last + 1) for span in strict_entity_spans(tags)] == [
        (entity.tag, entity.start, entity.end) for entity in of_seqeval
    ]


def test_by_hand() -> None:
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-PER"]]
    predicted = [["I-PER", "I-PER", "O", "B-PER"], ["O", "B-PER"]]
    scores = tagging_scores(gold, predicted, are_entities=True)
    assert scores == {
        "f1": pytest.approx(2 / 3), "precision": pytest.approx(2 / 3), "recall": pytest.approx(2 / 3),
        "f1_strict": pytest.approx(2 * 1 / (2 + 3)), "accuracy": pytest.approx(4 / 6),
    }  # fmt: skip
    assert entity_score(gold, predicted).support == 3


def test_free_tags_have_accuracy_alone() -> None:
    assert tagging_scores([["NOUN", "B-x"]], [["NOUN", "VERB"]], are_entities=False) == {"accuracy": 0.5}
    assert list(tagging_signatures(False)) == ["accuracy"]
    with pytest.raises(DataError, match="'NOUN' spells no entity"):
        tagging_scores([["NOUN"]], [["O"]], are_entities=True)


def test_nothing_predicted_and_nothing_there() -> None:
    outside = [["O", "O"]]
    assert tagging_scores(outside, outside, are_entities=True)["f1"] == 0.0
    assert tagging_scores([["B-X", "O"]], outside, are_entities=True) == {
        "f1": 0.0, "precision": 0.0, "recall": 0.0, "f1_strict": 0.0, "accuracy": 0.5,
    }  # fmt: skip


def test_lengths_that_differ() -> None:
    with pytest.raises(DataError, match="1 tagged texts cannot be scored against 2"):
        word_accuracy([["O"], ["O"]], [["O"]])
    with pytest.raises(DataError, match="text 2 has 2 words, but 1 tags"):
        word_accuracy([["O"], ["O", "O"]], [["O"], ["O"]])
    for nothing in ([], [[]]):
        with pytest.raises(DataError, match="no word to score"):
            word_accuracy(nothing, nothing)
