"""Batches of a fixed size: every row once, a pure function of (seed, epoch, position)."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer_architectures.errors import UsageError
from transformer_architectures.samplers import ShuffledBatchSampler

settings_of_a_sampler = st.fixed_dictionaries(
    {
        "num_rows": st.integers(0, 200),
        "batch_size": st.integers(1, 30),
        "seed": st.integers(0, 2**31),
        "shuffle": st.booleans(),
        "epoch": st.integers(0, 50),
    }
)


@given(settings_of_a_sampler)
def test_every_row_once_in_full_batches(config: dict[str, Any]) -> None:
    batches = list(ShuffledBatchSampler(**config))
    assert Counter(row for batch in batches for row in batch) == Counter(range(config["num_rows"]))
    assert all(len(batch) == config["batch_size"] for batch in batches[:-1])
    assert all(1 <= len(batch) <= config["batch_size"] for batch in batches)


@given(settings_of_a_sampler, st.integers(0, 210))
def test_a_position_is_the_tail_of_its_epoch(config: dict[str, Any], position: int) -> None:
    epoch = config.pop("epoch")
    sampler = ShuffledBatchSampler(**config)
    whole = list(sampler.at(epoch))
    tail = sampler.at(epoch, position)
    assert list(tail) == whole[position:] and len(tail) == len(whole[position:])
    assert list(sampler.at(epoch + 1, 3).at(epoch)) == whole == list(ShuffledBatchSampler(**config, epoch=epoch))


@given(settings_of_a_sampler)
def test_the_length_is_known_beforehand(config: dict[str, Any]) -> None:
    sampler = ShuffledBatchSampler(**config)
    assert len(sampler) == len(list(sampler))


def test_epochs_and_seeds_differ_and_global_state_plays_no_part(seed: int) -> None:
    sampler = ShuffledBatchSampler(1000, 32, seed)
    before = np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    orders = [[row for batch in sampler.at(epoch) for row in batch] for epoch in range(3)]
    orders.append([row for batch in ShuffledBatchSampler(1000, 32, seed + 1) for row in batch])
    assert np.random.get_state()[1].tolist() == before  # type: ignore[union-attr]
    for index, left in enumerate(orders):
        assert abs(np.corrcoef(left, range(1000))[0, 1]) < 0.2
        assert all(left != right and abs(np.corrcoef(left, right)[0, 1]) < 0.2 for right in orders[index + 1 :])


def test_without_shuffling_rows_come_as_they_are_numbered() -> None:
    assert list(ShuffledBatchSampler(7, 3, shuffle=False, epoch=4)) == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize("wrong", [{"batch_size": 0}])
def test_impossible_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        ShuffledBatchSampler(**{"num_rows": 1, "batch_size": 1, **wrong})
