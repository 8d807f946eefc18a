"""Hides part of the known labels, to measure what not knowing them costs."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from jaxtyping import Float64, UInt64

from transformer_architectures.datasets.images.image_labels import ImageLabels
from transformer_architectures.errors import DataError


def hide_negatives(labels: ImageLabels, fraction: float) -> ImageLabels:
    """The same labels, of which about ``fraction`` of those that are verified absent are unknown.

    Which ones is a pure function of image and class: a larger fraction hides these and more, other files hide the same.

    Raises:
        DataError: every image has one label, and its absent ones are not listed.
    """
    if fraction == 0:
        return labels
    if labels.is_single_label:
        raise DataError(
            "Data.hidden_negatives needs listed labels: images with one label each have no absent ones to hide"
        )
    lengths = np.diff(labels.offsets)
    image_hashes = _hashes(labels.image_ids).repeat(lengths)
    is_kept = labels.is_positive | (_positions(image_hashes, _hashes(labels.classes)[labels.class_index]) >= fraction)
    kept_before = np.concatenate([[0], np.cumsum(is_kept, dtype=np.int64)])
    return replace(
        labels,
        offsets=kept_before[labels.offsets],
        class_index=labels.class_index[is_kept],
        is_positive=labels.is_positive[is_kept],
    )


def _hashes(names: Iterable[str]) -> UInt64[np.ndarray, "names"]:
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


def _positions(left: UInt64[np.ndarray, "pairs"], right: UInt64[np.ndarray, "pairs"]) -> Float64[np.ndarray, "pairs"]:
    """A number in [0, 1) for each pair: SplitMix64's mixing of both hashes, for it must be fast for millions of pairs."""
    mixed = left + right * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return mixed.astype(np.float64) / 2**64
