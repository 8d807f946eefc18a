"""The store of annotated pairs: what it keeps, what it refuses, and how little memory it takes."""

import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch

from transformer_architectures.errors import DataError
from transformer_architectures.metrics import AnnotatedPairs, multi_label_scores


def sparse(pairs: AnnotatedPairs, classes: Any, scores: Any, positive: Any) -> None:
    pairs.add_sparse(np.array(classes, np.int64), np.array(scores, np.float32), np.array(positive, bool))


def rows(pairs: AnnotatedPairs) -> set[tuple[int, float, bool]]:
    return set(zip(pairs.class_index.tolist(), pairs.score.tolist(), pairs.is_positive.tolist(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_only_annotated_pairs_are_kept(dtype: torch.dtype) -> None:
    pairs = AnnotatedPairs(3)
    scores = torch.tensor([[0.5, 0.25, 0.75], [0.125, 1.0, 0.0]], dtype=dtype, requires_grad=True)
    labels = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    masks = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    pairs.add(scores, labels, masks)
    expected = {(0, 0.5, True), (2, 0.75, False), (1, 1.0, True)}
    assert rows(pairs) == expected and len(pairs) == 3
    same = AnnotatedPairs(3)
    sparse(same, [2, 0, 1], [0.75, 0.5, 1.0], [False, True, True])
    assert rows(same) == expected


def test_memory_of_the_openimages_test_part() -> None:
    """125,436 images, 9,605 classes, 600,000 annotated pairs, in batches of 64 images: about 10 bytes per pair, no 4.8 GB."""
    generator = np.random.default_rng()
    num_classes, num_pairs, batch = 9605, 600_000, 306
    tracemalloc.start()
    pairs = AnnotatedPairs(num_classes)
    for start in range(0, num_pairs, batch):
        size = min(batch, num_pairs - start)
        classes = generator.integers(num_classes, size=size)
        pairs.add_sparse(classes, generator.random(size), generator.random(size) < 0.4)
    kept, peak_of_adding = tracemalloc.get_traced_memory()
    scores = multi_label_scores(pairs)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(pairs) == num_pairs
    assert pairs.nbytes <= 10.2 * num_pairs and kept < 7e6
    assert peak_of_adding < 14e6  # while the storage grows, old and new
    assert peak < 60e6  # sorting; gone afterwards
    assert scores["map_micro"] == pytest.approx(0.4, abs=0.01)  # random scores: the share of positives


def test_merged_ranks_are_one(seed: int) -> None:
    labels = torch.nn.functional.one_hot(torch.randint(3, (10,)), 3).float()
    scores, masks = torch.rand(10, 3), torch.ones(10, 3)
    whole, first, second = (AnnotatedPairs(3) for _ in range(3))
    whole.add(scores, labels, masks)
    first.add(scores[:4], labels[:4], masks[:4])
    second.add(scores[4:], labels[4:], masks[4:])
    first.merge(pickle.loads(pickle.dumps(second)))  # as it comes from another rank
    assert rows(first) == rows(whole) and multi_label_scores(first) == multi_label_scores(whole)
    assert first.accuracy == whole.accuracy == int((scores.argmax(1) == labels.argmax(1)).sum()) / 10


def test_accuracy_is_known_only_where_every_image_has_one_verified_label() -> None:
    single = (torch.tensor([[0.9, 0.1]]), torch.tensor([[1.0, 0.0]]), torch.ones(1, 2))
    pairs = AnnotatedPairs(2)
    assert pairs.accuracy is None
    pairs.add(*single)
    assert pairs.accuracy == 1.0
    pairs.add(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.0, 1.0]]), torch.ones(1, 2))  # a tie: the first class
    assert pairs.accuracy == 0.5
    for labels, masks in (([1.0, 1.0], [1.0, 1.0]), ([1.0, 0.0], [1.0, 0.0]), ([0.0, 0.0], [1.0, 1.0])):
        other = AnnotatedPairs(2)
        other.add(*single)
        other.add(torch.tensor([[0.9, 0.1]]), torch.tensor([labels]), torch.tensor([masks]))
        assert other.accuracy is None and "accuracy" not in multi_label_scores(other)
        other.merge(pairs)
        assert other.accuracy is None
    sparse(pairs, [0], [0.5], [True])
    assert pairs.accuracy is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_no_numbers_are_refused(value: float) -> None:
    pairs = AnnotatedPairs(2)
    with pytest.raises(DataError, match="NaN"):
        sparse(pairs, [0, 1], [0.5, value], [True, False])
    with pytest.raises(DataError, match="NaN"):
        pairs.add(torch.tensor([[0.5, value]]), torch.zeros(1, 2), torch.zeros(1, 2))
    assert len(pairs) == 0 and pairs.accuracy is None


@pytest.mark.parametrize("classes", [[-1, 0], [0, 2]])
def test_unknown_classes_are_refused(classes: list[int]) -> None:
    with pytest.raises(DataError, match="of 2 classes"):
        sparse(AnnotatedPairs(2), classes, [0.5, 0.5], [True, False])
    with pytest.raises(DataError, match="2 were declared"):
        AnnotatedPairs(2).add(torch.zeros(1, 3), torch.zeros(1, 3), torch.ones(1, 3))
    with pytest.raises(DataError, match="cannot join"):
        AnnotatedPairs(2).merge(AnnotatedPairs(3))


@pytest.mark.parametrize(("label", "mask"), [(0.3, 1.0), (1.0, 0.5), (-1.0, 1.0)])
def test_mixed_labels_are_refused(label: float, mask: float) -> None:
    with pytest.raises(DataError, match="0 or 1"):
        AnnotatedPairs(1).add(torch.zeros(1, 1), torch.tensor([[label]]), torch.tensor([[mask]]))
