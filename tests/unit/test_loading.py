"""Shares of batches: together they are the batch, whatever the number of ranks."""

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from transformer_architectures.datasets.loading import BatchSlice, DummyBatch, Loading, RowByRow, every_nth
from transformer_architectures.samplers import ShuffledBatchSampler

batches = st.lists(st.integers(0, 999), min_size=1, max_size=40, unique=True)


@given(batches, st.integers(1, 50))
def test_shares_are_the_batch(batch: list[int], world_size: int) -> None:
    shares = [BatchSlice.of_rank(batch, rank, world_size) for rank in range(world_size)]
    counted = [share.rows for share in shares if not share.is_dummy]
    assert [row for rows in counted for row in rows] == batch
    assert len(counted) == min(world_size, len(batch))
    assert max(map(len, counted)) - min(map(len, counted)) <= 1
    assert all(share.rows == (batch[0],) for share in shares if share.is_dummy)


class Squares(Dataset[int]):
    def __len__(self) -> int:
        return 23

    def __getitem__(self, index: int) -> int:
        return index**2


def test_a_loader_gives_shares_and_spares() -> None:
    sampler = ShuffledBatchSampler(23, 5, seed=3)  # the last batch has three rows
    whole = list(sampler)
    loaders = [
        Loading(rank, 4).slices(Squares(), sampler, RowByRow(list), num_workers=rank % 2, seed=1) for rank in range(4)
    ]
    for rows, *shares in zip(whole, *loaders, strict=True):
        found: list[Any] = [share for share in shares if not isinstance(share, DummyBatch)]
        assert [value for share in found for value in share] == [row**2 for row in rows]
        spares = [share for share in shares if isinstance(share, DummyBatch)]
        assert len(spares) == max(0, 4 - len(rows))
        assert all(spare.batch == [rows[0] ** 2] and spare.num_labels == 0 for spare in spares)


def test_some_batches_of_a_loader() -> None:
    loader = Loading().whole(Squares(), ShuffledBatchSampler(23, 5, shuffle=False), torch.tensor, num_workers=0, seed=1)
    parts = [list(every_nth(loader, first, 2)) for first in range(2)]
    assert [len(part) for part in parts] == [3, 2]
    for place, batch in enumerate(loader):
        assert torch.equal(batch, parts[place % 2][place // 2])
