"""Which tokens are asked for: how many, never special ones, whole words, a pure function of seed, epoch and row."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from transformer_architectures.datasets.text.token_masking import DynamicMasking, MaskedRow, MaskingConfig

VOCAB, MASK = 500, 4
IS_SPECIAL = np.arange(VOCAB) < 5  # [PAD] [UNK] [CLS] [SEP] [MASK]
CONTINUES = np.arange(VOCAB) >= 300

rows = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=60).map(lambda ids: np.array(ids, dtype=np.int64))
configs = st.builds(MaskingConfig, rate=st.sampled_from([0.15, 0.2, 0.3]), whole_words=st.booleans())


def masking(seed: int = 7, **config: Any) -> DynamicMasking:
    return DynamicMasking(MaskingConfig(**config), seed, MASK, IS_SPECIAL, CONTINUES)


def same(left: MaskedRow, right: MaskedRow) -> bool:
    return all(np.array_equal(*sides) for sides in zip(left, right, strict=True))


def words(ids: np.ndarray) -> list[list[int]]:
    """The places of each word's tokens."""
    found: list[list[int]] = []
    for place, token in enumerate(ids.tolist()):
        if IS_SPECIAL[token]:
            continue
        goes_on = CONTINUES[token] and place > 0 and not IS_SPECIAL[ids[place - 1]]
        if goes_on:
            found[-1].append(place)
        else:
            found.append([place])
    return found


@settings(deadline=None, max_examples=300)
@given(rows, configs, st.integers(0, 2**32 - 1), st.integers(0, 99), st.integers(0, 10**6))
def test_what_is_chosen(ids: np.ndarray, config: MaskingConfig, seed: int, epoch: int, row: int) -> None:
    before = ids.copy()
    masked = DynamicMasking(config, seed, MASK, IS_SPECIAL, CONTINUES)(ids, epoch, row)
    assert np.array_equal(ids, before)
    positions = masked.positions.tolist()
    assert positions == sorted(set(positions))
    assert masked.labels.tolist() == ids[masked.positions].tolist()
    assert not IS_SPECIAL[masked.labels].any()
    others = np.setdiff1d(np.arange(len(ids)), masked.positions)
    assert np.array_equal(masked.input_ids[others], ids[others])
    inputs = masked.input_ids[masked.positions]
    assert not (IS_SPECIAL[inputs] & (inputs != MASK)).any()
    candidates = int((~IS_SPECIAL[ids]).sum())
    wanted = min(candidates, max(1, round(config.rate * candidates)))
    if not config.whole_words:
        assert len(positions) == wanted
        return
    chosen = [word for word in words(ids) if set(word) & set(positions)]
    assert sorted(place for word in chosen for place in word) == positions
    assert (len(chosen) > 0) == (candidates > 0)
    longest = max((len(word) for word in words(ids)), default=0)
    assert len(chosen) <= 1 or abs(len(positions) - wanted) <= longest / 2


@settings(deadline=None, max_examples=100)
@given(rows, configs, st.integers(0, 2**31), st.integers(0, 99), st.integers(0, 10**6))
def test_a_pure_function_that_draws_from_no_global_generator(
    ids: np.ndarray, config: MaskingConfig, seed: int, epoch: int, row: int
) -> None:
    first = DynamicMasking(config, seed, MASK, IS_SPECIAL, CONTINUES)(ids, epoch, row)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[union-attr]
    np.random.seed(seed % 1000)
    middle = np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    second = DynamicMasking(config, seed, MASK, IS_SPECIAL, CONTINUES)(ids, epoch, row)
    assert same(first, second)
    assert np.random.get_state()[1].tolist() == middle  # type: ignore[union-attr]
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[2])


@pytest.mark.parametrize("whole_words", [False, True])
def test_seed_epoch_and_row_each_change_the_places(whole_words: bool, seed: int) -> None:
    ids = np.random.randint(5, VOCAB, 400)
    base = masking(3, whole_words=whole_words)(ids, 1, 2)
    # Of 400 tokens 60 are chosen: that two draws agree has a chance of less than 1e-70.
    for other in (
        masking(4, whole_words=whole_words)(ids, 1, 2),
        masking(3, whole_words=whole_words)(ids, 2, 2),
        masking(3, whole_words=whole_words)(ids, 1, 3),
        masking(3, whole_words=whole_words)(ids, 2, 1),
        masking(1, whole_words=whole_words)(ids, 3, 2),
    ):
        assert not np.array_equal(base.positions, other.positions)


def test_row_0_is_not_the_order_of_the_epoch() -> None:
    """Numpy takes [seed, epoch] and [seed, epoch, 0] for the same seed: samplers use the former."""
    assert np.random.default_rng([3, 1]).random() == np.random.default_rng([3, 1, 0]).random()
    ids = np.arange(5, 405)
    order = np.random.default_rng([3, 1]).permutation(ids)
    assert not np.array_equal(masking(3)(ids, 1, 0).labels, np.sort(order[:60]))


def test_validation_masks_are_the_same_for_every_seed(seed: int) -> None:
    ids = np.random.randint(5, VOCAB, 400)
    one, two = (masking(number).for_validation()(ids, 0, 9) for number in (1, 2))
    assert same(one, two)
    assert not np.array_equal(one.positions, masking(1)(ids, 0, 9).positions)
    assert masking(1).for_validation().config == masking(1).config


@pytest.mark.parametrize("whole_words", [False, True])
def test_80_10_10_at_even_places(whole_words: bool, seed: int) -> None:
    """Bounds of eight standard deviations."""
    ids = np.random.randint(5, 300, 100)  # no token goes on with a word: every place is as likely
    made = [masking(seed, rate=0.3, whole_words=whole_words)(ids, 0, row) for row in range(2000)]
    inputs = np.concatenate([row.input_ids[row.positions] for row in made])
    labels = np.concatenate([row.labels for row in made])
    num = len(labels)
    assert num == 60_000
    is_random = (inputs != MASK) & (inputs != labels)
    for share, expected in (((inputs == MASK).mean(), 0.8), (is_random.mean(), 0.1 * (1 - 1 / (VOCAB - 5)))):
        assert abs(share - expected) < 8 * (expected * (1 - expected) / num) ** 0.5
    # Random tokens are any but special ones.
    counts = np.bincount(inputs[is_random], minlength=VOCAB)
    assert (
        counts[:5].sum() == 0 and abs(counts[250:].sum() / counts.sum() - 250 / 495) < 8 * (0.25 / counts.sum()) ** 0.5
    )
    by_place = np.bincount(np.concatenate([row.positions for row in made]), minlength=100)
    assert abs(by_place - 600).max() < 8 * (2000 * 0.3 * 0.7) ** 0.5


def test_long_words_are_chosen_about_as_often_as_short_ones() -> None:
    ids = np.concatenate([[10, 300, 301, 302], np.full(196, 20)])  # one word of four tokens, 196 of one
    rate = np.mean([0 in masking(row, whole_words=True)(ids, 0, row).positions for row in range(4000)])
    assert abs(rate - 0.15) < 0.03  # eight standard deviations are 0.045, what the rule favours is under 0.01


def test_a_row_of_special_tokens_alone() -> None:
    for whole_words in (False, True):
        masked = masking(whole_words=whole_words)(np.array([2, 1, 3]), 0, 0)
        assert masked.input_ids.tolist() == [2, 1, 3] and len(masked.positions) == len(masked.labels) == 0


@pytest.mark.parametrize("rate", [0.0, -0.1, 0.51, 1.0])
def test_rates_without_sense(rate: float) -> None:
    with pytest.raises(ValidationError):
        MaskingConfig(rate=rate)
