"""Batches under a token budget: every row once, a pure function of (seed, epoch, position), the same work for every rank."""

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer_architectures.errors import UsageError
from transformer_architectures.samplers import TokenBudgetBatchSampler

row_lengths = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), max_size=120).map(
    lambda rows: np.array(rows, dtype=np.int32).reshape(-1, 2)
)
settings_of_a_sampler = st.fixed_dictionaries(
    {
        "lengths": row_lengths,
        "max_tokens": st.integers(1, 400),
        "seed": st.integers(0, 2**31),
        "shuffle": st.booleans(),
        "epoch": st.integers(0, 50),
    }
)


def cost(lengths: np.ndarray, batch: list[int]) -> int:
    return len(batch) * int(lengths[batch].max(axis=0).sum())


def realistic_lengths(rows: int) -> np.ndarray:
    """Source and target lengths that go together, as in translations."""
    generator = np.random.default_rng(random.randrange(2**31))
    source = np.clip(generator.lognormal(3.1, 0.5, rows), 2, 128)
    target = np.clip(source * generator.normal(1.15, 0.15, rows), 2, 140)
    return np.stack([source, target], axis=1).astype(np.int32)


@settings(deadline=None)
@given(settings_of_a_sampler)
def test_every_row_once_within_the_budget(config: dict[str, Any]) -> None:
    lengths = config["lengths"]
    batches = list(TokenBudgetBatchSampler(**config))
    assert Counter(row for batch in batches for row in batch) == Counter(range(len(lengths)))
    for batch in batches:
        assert batch
        assert cost(lengths, batch) <= config["max_tokens"] or len(batch) == 1


@settings(deadline=None)
@given(settings_of_a_sampler)
def test_a_row_over_the_budget_is_alone_and_no_other_is_left_out(config: dict[str, Any]) -> None:
    lengths = config["lengths"]
    over = {row for row in range(len(lengths)) if lengths[row].sum() > config["max_tokens"]}
    alone = {batch[0] for batch in TokenBudgetBatchSampler(**config) if len(batch) == 1}
    assert over <= alone


@settings(deadline=None)
@given(settings_of_a_sampler, st.integers(0, 130))
def test_a_position_is_the_tail_of_its_epoch(config: dict[str, Any], position: int) -> None:
    epoch = config.pop("epoch")
    sampler = TokenBudgetBatchSampler(**config)
    whole = list(sampler.at(epoch))
    tail = sampler.at(epoch, position)
    assert list(tail) == whole[position:] and len(tail) == len(whole[position:])
    # Neither iterating before, nor how the sampler came to its epoch, changes anything.
    assert list(sampler.at(epoch + 1, 3).at(epoch)) == whole == list(sampler.at(epoch))
    assert list(TokenBudgetBatchSampler(**config, epoch=epoch)) == whole


def test_the_global_random_state_plays_no_part(seed: int) -> None:
    sampler = TokenBudgetBatchSampler(realistic_lengths(50), 500, seed)
    before = np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    first = list(sampler)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[union-attr]
    np.random.seed(1)
    random.seed(1)
    assert list(sampler) == first


def test_epochs_and_seeds_differ_also_in_who_is_together(seed: int) -> None:
    sampler = TokenBudgetBatchSampler(realistic_lengths(1000), 800, seed)
    epochs = [list(sampler.at(epoch)) for epoch in range(4)]
    other_seed = list(TokenBudgetBatchSampler(sampler.lengths, 800, seed + 1))
    for index, left in enumerate(epochs):
        for right in [*epochs[index + 1 :], other_seed]:
            assert left != right
            # Not only another order of the same batches.
            shared = {frozenset(batch) for batch in left} & {frozenset(batch) for batch in right}
            assert len(shared) < len(left) / 10


def test_without_shuffling_every_epoch_is_the_same_longest_first(seed: int) -> None:
    lengths = realistic_lengths(300)
    sampler = TokenBudgetBatchSampler(lengths, 800, seed, shuffle=False)
    assert list(sampler.at(0)) == list(sampler.at(5))
    assert list(sampler) == list(TokenBudgetBatchSampler(lengths, 800, seed + 1, shuffle=False))
    longest = [lengths[batch, 0].max() for batch in sampler]
    assert longest == sorted(longest, reverse=True) and longest[0] == lengths[:, 0].max()


def test_batches_come_in_no_order_of_length(seed: int) -> None:
    lengths = realistic_lengths(3000)
    sizes = [lengths[batch, 0].mean() for batch in TokenBudgetBatchSampler(lengths, 800, seed)]
    assert abs(np.corrcoef(sizes, range(len(sizes)))[0, 1]) < 0.5


@pytest.mark.parametrize("shuffle", [True, False])
def test_padding_share_is_low_and_right(seed: int, shuffle: bool) -> None:
    lengths = realistic_lengths(5000)
    sampler = TokenBudgetBatchSampler(lengths, 4096, seed, shuffle)
    batches = list(sampler)
    shuffled = np.array_split(np.random.permutation(len(lengths)), len(batches))
    assert (
        1 - lengths.sum() / sum(cost(lengths, rows.tolist()) for rows in shuffled) > 0.4
    )  # what it is without sorting
    positions = sum(cost(lengths, batch) for batch in batches)
    assert sampler.padding_share(0) == pytest.approx(1 - lengths.sum() / positions)
    assert sampler.padding_share(0) < 0.15
    # The budget is used, too.
    assert np.mean([cost(lengths, batch) for batch in batches]) > 0.9 * 4096


@pytest.mark.parametrize("shuffle", [True, False])
def test_no_rows(shuffle: bool) -> None:
    sampler = TokenBudgetBatchSampler(np.empty((0, 2), dtype=np.int32), 10, shuffle=shuffle)
    assert list(sampler) == [] and len(sampler) == 0 and len(sampler.at(3, 4)) == 0
    assert sampler.padding_share(0) == 0


def test_one_side(seed: int) -> None:
    lengths = realistic_lengths(100)[:, :1]
    batches = list(TokenBudgetBatchSampler(lengths, 300, seed))
    assert sorted(row for batch in batches for row in batch) == list(range(100))
    assert all(cost(lengths, batch) <= 300 for batch in batches)


def test_many_long_rows_do_not_overflow() -> None:
    lengths = np.full((70_000, 2), 30_000, dtype=np.int32)
    batches = list(TokenBudgetBatchSampler(lengths, 2**33))
    assert sum(len(batch) for batch in batches) == 70_000 and len(batches) == 1


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"rows_multiple": 0}])
def test_impossible_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        TokenBudgetBatchSampler(**{"lengths": np.ones((1, 2), dtype=np.int32), "max_tokens": 1, **wrong})
