"""Average precision, F1 and thresholds: scikit-learn's on full annotation, the definitions by brute force on partial one."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score

from transformer_architectures.errors import DataError
from transformer_architectures.metrics import (
    AnnotatedPairs,
    average_precision_per_class,
    best_thresholds,
    class_coverage,
    f1_per_class,
    multi_label_scores,
    multi_label_signatures,
)

NUM_CLASSES = 4
# Few distinct scores, so that ties are the rule; all of them 32-bit floats.
score_values = st.one_of(
    st.sampled_from([0.0, 0.25, 0.5, 0.5 + 2**-24, 0.75, 1.0]), st.floats(0, 1, width=32, allow_subnormal=False)
)
pairs_of_a_class = st.lists(st.tuples(score_values, st.booleans()), max_size=25)
pairs_by_class = st.lists(pairs_of_a_class, min_size=NUM_CLASSES, max_size=NUM_CLASSES)
ByClass = list[list[tuple[float, bool]]]


def collect(by_class: ByClass) -> AnnotatedPairs:
    pairs = AnnotatedPairs(len(by_class))
    flat = [(index, score, positive) for index, of_class in enumerate(by_class) for score, positive in of_class]
    np.random.default_rng(len(flat)).shuffle(flat)
    add(pairs, flat)
    return pairs


def add(pairs: AnnotatedPairs, flat: list[Any]) -> None:
    columns = list(zip(*flat, strict=True)) or [(), (), ()]
    pairs.add_sparse(*(np.array(column, dtype) for column, dtype in zip(columns, (int, float, bool), strict=True)))


def curve(of_class: list[tuple[float, bool]]) -> list[tuple[Fraction, Fraction]]:
    """(recall, precision) at every distinct threshold, from the highest on, by counting."""
    positives = sum(positive for _, positive in of_class)
    points = []
    for threshold in sorted({score for score, _ in of_class}, reverse=True):
        predicted = [positive for score, positive in of_class if score >= threshold]
        points.append((Fraction(sum(predicted), positives), Fraction(sum(predicted), len(predicted))))
    return points


def brute_average_precision(of_class: list[tuple[float, bool]]) -> float:
    if not any(positive for _, positive in of_class):
        return float("nan")
    points = curve(of_class)
    recalls = [Fraction(0), *(recall for recall, _ in points)]
    gains = [new - old for old, new in zip(recalls, recalls[1:])]
    return float(sum(gain * precision for gain, (_, precision) in zip(gains, points, strict=True)))


def brute_eleven_points(of_class: list[tuple[float, bool]]) -> float:
    if not any(positive for _, positive in of_class):
        return float("nan")
    points = curve(of_class)
    best = (max(precision for recall, precision in points if recall >= Fraction(k, 10)) for k in range(11))
    return float(sum(best) / 11)


def brute_f1(of_class: list[tuple[float, bool]], threshold: float) -> Fraction:
    true = sum(positive for score, positive in of_class if score >= threshold)
    size = sum(score >= threshold for score, _ in of_class) + sum(positive for _, positive in of_class)
    return Fraction(2 * true, size)


# ---------------------------------------------- equal to the definitions
@settings(deadline=None)
@given(pairs_by_class)
def test_average_precision_on_partial_labels_is_that_of_brute_force(by_class: ByClass) -> None:
    pairs = collect(by_class)
    for found, brute in (
        (average_precision_per_class(pairs), brute_average_precision),
        (average_precision_per_class(pairs, "voc2007"), brute_eleven_points),
    ):
        np.testing.assert_allclose(found, [brute(of_class) for of_class in by_class], rtol=1e-12)


@settings(deadline=None)
@given(pairs_by_class, st.sampled_from(["none", "voc2007"]))
def test_means_are_over_classes_with_a_positive(by_class: ByClass, interpolation: Any) -> None:
    pairs = collect(by_class)
    scored = [of_class for of_class in by_class if any(positive for _, positive in of_class)]
    if not scored:
        with pytest.raises(DataError, match="positive"):
            multi_label_scores(pairs)
        return
    brute = brute_average_precision if interpolation == "none" else brute_eleven_points
    precisions = [brute(of_class) for of_class in scored]
    weights = [sum(positive for _, positive in of_class) for of_class in scored]
    assert multi_label_scores(pairs, 0.3, interpolation) == {
        "map_macro": pytest.approx(np.mean(precisions)),
        "map_micro": pytest.approx(brute([pair for of_class in by_class for pair in of_class])),
        "map_weighted": pytest.approx(np.average(precisions, weights=weights)),
        "f1": pytest.approx(np.mean([float(brute_f1(of_class, 0.3)) for of_class in scored])),
    }


@settings(deadline=None)
@given(st.data())
def test_full_annotation_gives_the_scores_of_scikit_learn(data: st.DataObject) -> None:
    rows = data.draw(st.integers(2, 30))
    cells = st.lists(st.tuples(score_values, st.booleans()), min_size=rows * NUM_CLASSES, max_size=rows * NUM_CLASSES)
    drawn = np.array(data.draw(cells)).reshape(rows, NUM_CLASSES, 2)
    scores, labels = drawn[..., 0], drawn[..., 1] == 1
    labels[0] = True  # scikit-learn calls a class without a positive 0, which is not a score
    pairs = AnnotatedPairs(NUM_CLASSES)
    pairs.add(torch.tensor(scores), torch.tensor(labels).double(), torch.ones(rows, NUM_CLASSES))
    threshold = data.draw(score_values)
    found = multi_label_scores(pairs, threshold)
    for key in ("macro", "micro", "weighted"):
        assert found[f"map_{key}"] == pytest.approx(average_precision_score(labels, scores, average=key), rel=1e-12)
    assert found["f1"] == pytest.approx(f1_score(labels, scores >= threshold, average="macro"), rel=1e-12)
    np.testing.assert_allclose(
        f1_per_class(pairs, np.full(NUM_CLASSES, threshold)), f1_score(labels, scores >= threshold, average=None)
    )


def test_a_recall_of_three_tenths_reaches_three_tenths() -> None:
    """0.1 × 3 > 0.3 in floating point: three of ten positives, then nothing but negatives and at last the rest."""
    of_class = [(0.9, True)] * 3 + [(0.5, False)] * 90 + [(0.1, True)] * 7
    (found,) = average_precision_per_class(collect([of_class]), "voc2007")
    assert found == pytest.approx((4 * 1.0 + 7 * 0.1) / 11)


def test_order_within_a_tie_does_not_matter() -> None:
    best_first, worst_first = [(0.5, True), (0.5, False)], [(0.5, False), (0.5, True)]
    assert average_precision_per_class(collect([best_first, worst_first])).tolist() == [0.5, 0.5]


def test_the_frequency_baseline_scores_the_share_of_positives(seed: int) -> None:
    """One constant score per class, by the same path: average precision is the share of positives, all in one tie."""
    labels = (torch.rand(200, NUM_CLASSES) < torch.tensor([0.1, 0.3, 0.5, 0.9])).float()
    labels[0] = 1
    pairs = AnnotatedPairs(NUM_CLASSES)
    pairs.add(labels.mean(dim=0).expand(200, -1), labels, torch.ones(200, NUM_CLASSES))
    np.testing.assert_allclose(average_precision_per_class(pairs), labels.mean(dim=0), rtol=1e-6)
    np.testing.assert_allclose(average_precision_per_class(pairs, "voc2007"), labels.mean(dim=0), rtol=1e-6)


# ------------------------------------------------------------ one shot or not
@settings(deadline=None)
@given(pairs_by_class, st.lists(st.integers(0, 100), max_size=6))
def test_streamed_and_merged_are_one_shot(by_class: ByClass, cuts: list[int]) -> None:
    whole = collect(by_class)
    flat = [(index, score, positive) for index, of_class in enumerate(by_class) for score, positive in of_class]
    edges = [0, *sorted(min(cut, len(flat)) for cut in cuts), len(flat)]
    streamed, merged = AnnotatedPairs(NUM_CLASSES), AnnotatedPairs(NUM_CLASSES)
    for start, stop in zip(edges, edges[1:]):
        add(streamed, flat[start:stop])
        rank = AnnotatedPairs(NUM_CLASSES)
        add(rank, flat[start:stop])
        merged.merge(rank)
    for pairs in (streamed, merged):
        assert len(pairs) == len(whole) == len(flat)
        for interpolation in ("none", "voc2007"):
            expected = average_precision_per_class(whole, interpolation)
            np.testing.assert_array_equal(
                average_precision_per_class(pairs, interpolation), expected
            )  # to the last bit
        np.testing.assert_array_equal(best_thresholds(pairs), best_thresholds(whole))


# ----------------------------------------------------------------- thresholds
@settings(deadline=None, max_examples=300)
@given(pairs_by_class)
def test_best_thresholds_are_best(by_class: ByClass) -> None:
    thresholds = best_thresholds(collect(by_class))
    for of_class, threshold in zip(by_class, thresholds, strict=True):
        if len({positive for _, positive in of_class}) < 2:
            assert threshold == 0.5
            continue
        scores = sorted({score for score, _ in of_class})
        middles = [(lower + upper) / 2 for lower, upper in zip(scores, scores[1:])]
        best = max(brute_f1(of_class, candidate) for candidate in scores)
        assert brute_f1(of_class, threshold) == best
        if brute_f1(of_class, 0.5) == best:
            assert threshold == 0.5
        else:
            equally_good = [candidate for candidate in [scores[0], *middles] if brute_f1(of_class, candidate) == best]
            assert threshold == min(equally_good, key=lambda candidate: (abs(candidate - 0.5), -candidate))


@pytest.mark.parametrize(
    ("of_class", "threshold"),
    [
        ([], 0.5),
        ([(0.9, True), (0.2, True)], 0.5),  # no negative
        ([(0.9, False)], 0.5),  # no positive
        ([(0.25, True), (0.25, False)], 0.25),  # a constant: at it, all are predicted
        ([(0.75, True), (0.75, False)], 0.5),  # as good as at 0.75
        ([(0.25, True), (0.125, False)], 0.1875),  # the middle of the gap
        ([(1.0, True), (0.25, False)], 0.5),  # in the gap
        ([(1.0, True), (0.75, False)], 0.875),
    ],
)
def test_thresholds_of_simple_and_degenerate_classes(of_class: list[tuple[float, bool]], threshold: float) -> None:
    assert best_thresholds(collect([of_class])).tolist() == [threshold]


def test_thresholds_are_of_their_class(seed: int) -> None:
    by_class = [[(0.25, True), (0.125, False)], [], [(1.0, True), (0.75, False)]]
    thresholds = best_thresholds(collect(by_class))
    assert thresholds.tolist() == [0.1875, 0.5, 0.875]
    assert multi_label_scores(collect(by_class), thresholds)["f1"] == 1.0
    assert multi_label_scores(collect(by_class))["f1"] == pytest.approx((0 + 2 / 3) / 2)


# ------------------------------------------------------ classes that say little
def test_coverage_says_what_was_skipped_and_why() -> None:
    by_class: ByClass = [[(0.9, True), (0.1, False)], [], [(0.9, False)], [(0.2, True)], [(0.3, False)], [(0.5, True)]]
    pairs = collect(by_class)
    coverage = class_coverage(*pairs.class_counts())
    assert (coverage.scored, coverage.unannotated, coverage.without_positive, coverage.without_negative) == (3, 1, 2, 2)
    assert coverage.skipped == 3 and "3 skipped (1 without annotation, 2 without a positive)" in str(coverage)
    np.testing.assert_array_equal(average_precision_per_class(pairs), [1, np.nan, np.nan, 1, np.nan, 1])
    np.testing.assert_array_equal(f1_per_class(pairs), [1, np.nan, np.nan, 0, np.nan, 1])


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(DataError, match="none of 0 annotated pairs"):
        multi_label_scores(AnnotatedPairs(3))
    assert best_thresholds(AnnotatedPairs(3)).tolist() == [0.5, 0.5, 0.5]


# ------------------------------------------------------------------ signatures
def test_signatures_belong_to_the_scores() -> None:
    pairs = AnnotatedPairs(2)
    pairs.add(torch.rand(5, 2), torch.tensor([[1.0, 0.0]]).expand(5, -1), torch.ones(5, 2))
    keys = list(multi_label_scores(pairs))
    assert keys == ["map_macro", "map_micro", "map_weighted", "f1", "accuracy"]
    assert list(multi_label_signatures(single_label=True)) == keys
    assert list(multi_label_signatures()) == keys[:-1]
    assert "threshold:0.5|" in multi_label_signatures()["f1"]
    assert "threshold:best-per-class-on-validation|" in multi_label_signatures(threshold=None)["f1"]
    assert "interpolation:voc2007" in multi_label_signatures(interpolation="voc2007")["map_macro"]
