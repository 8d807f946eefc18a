"""Batches of the translation task: the shift by one, ignored labels, masks, order; the same from any number of workers."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from transformer_architectures.architectures.vanilla.data import (
    IGNORED_LABEL,
    LabeledBatch,
    SourceTarget,
    TransformerDataCollator,
    TransformerDataModule,
    VanillaDataConfig,
)
from transformer_architectures.datasets.loading import Loading
from transformer_architectures.errors import DataError

PAD, START, EOS = 0, 1, 2
tokens = st.lists(st.integers(3, 60_000), max_size=12)


def pair(source: list[int], target: list[int]) -> SourceTarget:
    return SourceTarget(np.array(source, dtype=np.uint16), np.array(target, dtype=np.uint16))


@settings(deadline=None)
@given(st.lists(st.tuples(tokens, tokens), min_size=1, max_size=6), st.sampled_from([1, 3, 8]), st.integers(0, 1))
def test_collator(rows: list[tuple[list[int], list[int]]], multiple: int, start: int) -> None:
    collate = TransformerDataCollator(PAD, start, EOS, multiple)
    batch = collate([(10 + number, pair(*row)) for number, row in enumerate(rows)])
    assert batch.indices == tuple(range(10, 10 + len(rows)))
    for number, (source, target) in enumerate(rows):
        num_source, num_labels = len(source) + 1, len(target) + 1
        assert batch.source_ids[number, :num_source].tolist() == [*source, EOS]
        assert batch.source_mask[number].tolist() == [place < num_source for place in range(batch.source_ids.shape[1])]
        # What goes in at a position is what should have come out of the one before.
        assert batch.target_ids[number, :num_labels].tolist() == [start, *target]
        assert batch.labels[number, :num_labels].tolist() == [*target, EOS]
        assert (batch.source_ids[number, num_source:] == PAD).all()
        assert (batch.target_ids[number, num_labels:] == PAD).all()
        assert (batch.labels[number, num_labels:] == IGNORED_LABEL).all()
    for ids, side in ((batch.source_ids, 0), (batch.target_ids, 1)):
        longest = max(len(row[side]) for row in rows) + 1
        assert ids.dtype == torch.int64 and ids.shape[1] % multiple == 0 and 0 <= ids.shape[1] - longest < multiple
    assert batch.num_labels == sum(len(target) + 1 for _, target in rows)
    assert batch.num_tokens == batch.num_labels + sum(len(source) + 1 for source, _ in rows)
    assert batch.num_positions == len(rows) * (batch.source_ids.shape[1] + batch.target_ids.shape[1])
    assert batch.to(torch.device("cpu")) is batch


# ---------------------------------------------------------------------------------------------------------------------
# The data module
# ---------------------------------------------------------------------------------------------------------------------

WORDS = "the house tree sees green small bird water été là\u2028ici".split(" ")


@pytest.fixture
def texts(seed: int) -> list[tuple[str, str]]:
    sources = [f"{' '.join(random.choices(WORDS, k=random.randint(1, 12)))} {number}" for number in range(120)]
    return [(source, source.upper()[: random.randint(3, 40)]) for source in sources]


def make(tmp_path: Path, texts: list[tuple[str, str]], seed: int = 3, **changes: Any) -> TransformerDataModule:
    file = tmp_path / "train.tsv"
    file.write_text("".join(f"{left}\t{right}\n" for left, right in texts), encoding="utf-8")
    config = {"train": {"file": str(file)}, "cache_dir": str(tmp_path / "cache"), "validation_fraction": 0.2}
    names = ("batch_tokens", "loading", "length_multiple", "start_id", "rejected_path")
    options = {"batch_tokens": 200, **{name: changes.pop(name) for name in names if name in changes}}
    data = TransformerDataModule(VanillaDataConfig.model_validate({**config, **changes}), 300, seed=seed, **options)
    data.setup()
    return data


def plain(batch: LabeledBatch) -> tuple[Any, ...]:
    tensors = (batch.source_ids, batch.source_mask, batch.target_ids, batch.labels)
    return (batch.indices, *(tensor.tolist() for tensor in tensors))


def test_every_training_pair_is_seen_once_within_the_budget(tmp_path: Path, texts: list[tuple[str, str]]) -> None:
    data = make(tmp_path, texts)
    batches = list(data.train_dataloader(epoch=1))
    assert len(batches) == data.batches_per_epoch(1)
    assert sorted(index for batch in batches for index in batch.indices) == list(range(len(data.dataset("train"))))
    assert all(batch.num_positions <= 200 or len(batch.indices) == 1 for batch in batches)
    found = set()
    for batch in batches:
        for source, target in zip(batch.source_ids.tolist(), batch.labels.tolist(), strict=True):
            target = [token for token in target if token != IGNORED_LABEL]
            found.add((data.tokenizer.decode(source), data.tokenizer.decode(target)))
    held_out = set(zip(*data.evaluation_texts("validation"), strict=True))
    stripped = {(source, target.strip()) for source, target in texts}
    assert found == stripped - held_out and held_out


def test_the_budget_counts_rounded_lengths(tmp_path: Path, texts: list[tuple[str, str]]) -> None:
    data = make(tmp_path, texts, length_multiple=16, batch_tokens=300)
    for batch in data.train_dataloader():
        assert batch.num_positions <= 300 or len(batch.indices) == 1
        assert batch.source_ids.shape[1] % 16 == 0 and batch.target_ids.shape[1] % 16 == 0


def test_an_epoch_from_a_position_on_is_its_tail(tmp_path: Path, texts: list[tuple[str, str]]) -> None:
    data = make(tmp_path, texts)
    whole = [plain(batch) for batch in data.train_dataloader(2)]
    assert [plain(batch) for batch in data.train_dataloader(2, 3)] == whole[3:]
    assert [plain(batch) for batch in make(tmp_path, texts).train_dataloader(2)] == whole
    assert [plain(batch) for batch in data.train_dataloader(3)] != whole
    assert [plain(batch) for batch in make(tmp_path, texts, seed=4).train_dataloader(2)] != whole


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_batches_of_one(tmp_path: Path, texts: list[tuple[str, str]], world_size: int) -> None:
    one = list(make(tmp_path, texts).train_dataloader(epoch=1))
    ranks = [make(tmp_path, texts, loading=Loading(rank, world_size)) for rank in range(world_size)]
    assert {data.batches_per_epoch(1) for data in ranks} == {len(one)}
    for batch, *shares in zip(one, *(data.train_dataloader(epoch=1) for data in ranks), strict=True):
        assert tuple(index for share in shares for index in share.indices) == batch.indices
        assert sum(share.num_labels for share in shares) == batch.num_labels
    # What is scored is shared out in whole batches.
    assert len(list(ranks[0].val_dataloader())) == len(list(ranks[1].val_dataloader()))


def test_loaders_leave_the_global_random_state_alone(tmp_path: Path, texts: list[tuple[str, str]]) -> None:
    data = make(tmp_path, texts)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    first = [plain(batch) for batch in data.train_dataloader()]
    list(data.val_dataloader())
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1].tolist() == numpy_before  # type: ignore[union-attr]
    torch.manual_seed(1)
    assert [plain(batch) for batch in data.train_dataloader()] == first


def test_workers_give_the_same_batches(tmp_path: Path, texts: list[tuple[str, str]]) -> None:
    here, there = make(tmp_path, texts), make(tmp_path, texts, num_workers=2)
    before = torch.get_rng_state()
    assert [plain(b) for b in there.train_dataloader(1, 2)] == [plain(b) for b in here.train_dataloader(1, 2)]
    assert [plain(b) for b in there.val_dataloader()] == [plain(b) for b in here.val_dataloader()]
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_parts_are_whole_and_in_a_fixed_order(tmp_path: Path, texts: list[tuple[str, str]]) -> None:
    (tmp_path / "test.tsv").write_text("".join(f"{left} x\t{right}\n" for left, right in texts), encoding="utf-8")
    data = make(tmp_path, texts, test={"file": str(tmp_path / "test.tsv")})
    loader = data.test_dataloader()
    assert loader is not None
    order = [index for batch in loader for index in batch.indices]
    assert sorted(order) == list(range(len(texts)))
    loader = data.test_dataloader()
    assert loader is not None and [index for batch in loader for index in batch.indices] == order
    assert make(tmp_path, texts).test_dataloader() is None


def test_evaluation_texts_are_those_of_the_file(tmp_path: Path, texts: list[tuple[str, str]]) -> None:
    odd = [
        ("a\u2028b\x85c", "d\x0be\x1cf"),
        ('"quoted" \\n', "back\\slash"),
        ("e\u0301", "\ud7ff👩‍👩‍👧"),
        ("x\ry", "\x00"),
    ]
    lines = odd + texts[:3]
    (tmp_path / "held_out.tsv").write_bytes("".join(f"{left}\t{right}\n" for left, right in lines).encode())
    held_out = {"file": str(tmp_path / "held_out.tsv")}
    data = make(tmp_path, texts, validation=held_out, test=held_out)
    for part in ("validation", "test"):
        sources, references = data.evaluation_texts(part)
        assert list(zip(sources, references, strict=True)) == [(left, right.strip()) for left, right in lines]
    assert make(tmp_path, texts).evaluation_texts("test") == ([], [])


def test_start_of_the_decoder(tmp_path: Path, texts: list[tuple[str, str]]) -> None:
    for start_id, expected in ((None, START), (0, 0)):
        batch = next(iter(make(tmp_path, texts, start_id=start_id).train_dataloader()))
        assert (batch.target_ids[:, 0] == expected).all()


def test_nothing_to_validate_on_is_an_error(tmp_path: Path, texts: list[tuple[str, str]]) -> None:
    with pytest.raises(DataError, match="validation_fraction"):
        make(tmp_path, [("one", "un")] * 3, validation_fraction=1e-9)


def test_the_bible_has_its_own_parts() -> None:
    with pytest.raises(ValidationError, match="its own validation and test"):
        VanillaDataConfig.model_validate({"train": {"bible": {}}, "test": {"file": "a.tsv"}})
