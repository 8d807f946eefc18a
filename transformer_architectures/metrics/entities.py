"""Scores of tagged words: accuracy, and precision, recall and F1 of entities as conlleval counts them, and strictly."""

from collections import Counter
from collections.abc import Callable, Sequence

from transformer_architectures.datasets.text.tag_schemes import EntitySpan, entity_spans, strict_entity_spans
from transformer_architectures.errors import DataError
from transformer_architectures.metrics.score_table import ScoreRow, score_row

Tags = Sequence[str]
Spans = Callable[[Tags], list[EntitySpan]]


def tagging_scores(gold: Sequence[Tags], predicted: Sequence[Tags], are_entities: bool) -> dict[str, float]:
    """Fractions from 0 to 1, the main one first: ``f1`` where tags spell entities, otherwise ``accuracy`` alone.

    - ``f1``, ``precision``, ``recall``: entities of all types together (micro), tags read as conlleval reads them; an entity is right
      if its type, its first and its last word are;
    - ``f1_strict``: the same, tags read as strict BIO, where an ``I-`` that goes on with nothing is no entity;
    - ``accuracy``: share of the words whose tag is right.

    Raises:
        DataError: there is nothing to score, not one tag for each word, or a tag spells no entity.
    """
    accuracy = {"accuracy": word_accuracy(gold, predicted)}
    if not are_entities:
        return accuracy
    loose = entity_score(gold, predicted, entity_spans)
    strict = entity_score(gold, predicted, strict_entity_spans)
    scores = {"f1": loose.f1, "precision": loose.precision, "recall": loose.recall, "f1_strict": strict.f1}
    return scores | accuracy


def tagging_signatures(are_entities: bool) -> dict[str, str]:
    """How each score is computed, for others to repeat it."""
    accuracy = {"accuracy": "words:all"}
    if not are_entities:
        return accuracy
    loose, strict = (
        f"entities:exact|average:micro|mode:{mode}|zero-division:0" for mode in ("conlleval", "strict-iob2")
    )
    return {"f1": loose, "precision": loose, "recall": loose, "f1_strict": strict} | accuracy


def word_accuracy(gold: Sequence[Tags], predicted: Sequence[Tags]) -> float:
    """Share of the words whose tag is right.

    Raises:
        DataError: there is nothing to score, or not one tag for each word.
    """
    _check_lengths(gold, predicted)
    pairs = [pair for sides in zip(gold, predicted, strict=True) for pair in zip(*sides, strict=True)]
    return sum(left == right for left, right in pairs) / len(pairs)


def entity_score(gold: Sequence[Tags], predicted: Sequence[Tags], spans: Spans = entity_spans) -> ScoreRow:
    """Precision, recall and F1 of entities of all types together."""
    counts = _counts_by_type(gold, predicted, spans)
    return score_row("all", *(sum(of_side.values()) for of_side in counts))


def entity_table(gold: Sequence[Tags], predicted: Sequence[Tags], spans: Spans = entity_spans) -> list[ScoreRow]:
    """A row for each type that occurs on either side, sorted by name."""
    correct, found, wanted = _counts_by_type(gold, predicted, spans)
    return [score_row(type_, correct[type_], found[type_], wanted[type_]) for type_ in sorted(found | wanted)]


def _counts_by_type(
    gold: Sequence[Tags], predicted: Sequence[Tags], spans: Spans
) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Entities of each type that are rightly predicted, predicted, there."""
    _check_lengths(gold, predicted)
    correct, found, wanted = Counter[str](), Counter[str](), Counter[str]()
    for gold_tags, predicted_tags in zip(gold, predicted, strict=True):
        gold_spans, predicted_spans = set(spans(gold_tags)), set(spans(predicted_tags))
        correct.update(span.type for span in gold_spans & predicted_spans)
        found.update(span.type for span in predicted_spans)
        wanted.update(span.type for span in gold_spans)
    return correct, found, wanted


def _check_lengths(gold: Sequence[Tags], predicted: Sequence[Tags]) -> None:
    if len(gold) != len(predicted):
        raise DataError(f"{len(predicted)} tagged texts cannot be scored against {len(gold)}")
    for number, (gold_tags, predicted_tags) in enumerate(zip(gold, predicted, strict=True), start=1):
        if len(gold_tags) != len(predicted_tags):
            raise DataError(f"text {number} has {len(gold_tags)} words, but {len(predicted_tags)} tags were predicted")
    if not any(gold):
        raise DataError("there is no word to score")
