"""Where the sequences of packed rows lie."""

import random

import pytest
import torch
from torch.nn import functional as F

from transformer_architectures.errors import UsageError
from transformer_architectures.masking import AttentionMask, Segments
from transformer_architectures.positions import LearnedPositions, SinusoidalPositions


def test_rows_by_hand() -> None:
    segments = Segments((3, 1, 2), rows_multiple=4)
    assert (segments.num_tokens, segments.num_rows, segments.longest) == (6, 8, 3)
    assert segments.starts().tolist() == [0, 3, 4]
    assert segments.numbers().tolist() == [0, 0, 0, 1, 2, 2, -1, -1]
    assert segments.positions().tolist() == [0, 1, 2, 0, 0, 1, 0, 0]
    packed = segments.pack(torch.tensor([[11, 12, 13], [21, 0, 0], [31, 32, 0]]))
    assert packed.tolist() == [[11, 12, 13, 21, 31, 32, 0, 0]]
    assert segments.unpack(packed).tolist() == [[11, 12, 13], [21, 0, 0], [31, 32, 0]]


def test_segments_of_a_padding_mask_pack_and_unpack(seed: int) -> None:
    lengths = tuple(random.randint(1, 9) for _ in range(random.randint(1, 6)))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    segments = Segments.from_mask(mask.long(), rows_multiple=5)
    assert segments == Segments(lengths, rows_multiple=5)
    padded = (torch.randn(*mask.shape, 2) * mask[..., None]).requires_grad_()
    packed = segments.pack(padded)
    assert packed.shape == (1, segments.num_rows, 2) and torch.count_nonzero(packed[0, sum(lengths) :]) == 0
    assert torch.equal(segments.unpack(packed), padded)
    (gradient,) = torch.autograd.grad(segments.unpack(packed).sum(), padded)
    assert torch.equal(gradient, mask[..., None].expand_as(padded).float())


@pytest.mark.parametrize("kind", [LearnedPositions, SinusoidalPositions])
def test_positions_restart_in_each_segment(kind: type[LearnedPositions] | type[SinusoidalPositions], seed: int) -> None:
    segments = Segments((4, 1, 7), rows_multiple=5)
    positions = kind(6, 9)
    for weight in positions.parameters():
        torch.nn.init.normal_(weight)
    table = positions(segments.longest)
    rows = F.embedding(segments.positions(), table)[None]
    torch.testing.assert_close(segments.unpack(rows), segments.unpack(segments.pack(table.expand(3, -1, -1))))


def test_dense_mask_is_causality_within_each_segment() -> None:
    segments = Segments((2, 3), rows_multiple=6)
    blocks = torch.block_diag(torch.ones(2, 2), torch.ones(3, 3), torch.zeros(1, 1)).bool()
    device = torch.device("cpu")
    assert torch.equal(AttentionMask(segments=segments).render(6, 6, device)[0, 0], blocks)  # type: ignore[index]
    causal = AttentionMask(segments=segments).with_causality()
    assert not causal.is_plain_causal(6, 6)
    assert torch.equal(causal.render(6, 6, device)[0, 0], blocks.tril())  # type: ignore[index]


@pytest.mark.parametrize("lengths", [(), (3, 0, 2)])
def test_nothing_to_pack_is_refused(lengths: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="at least one segment"):
        Segments(lengths)


@pytest.mark.parametrize("row", [[0, 1, 1], [1, 0, 1], [0, 0, 0]])
def test_mask_that_is_not_right_padded_is_refused(row: list[int]) -> None:
    with pytest.raises(UsageError, match="padded on the right|at least one segment"):
        Segments.from_mask(torch.tensor([[1, 1, 1], row]))


def test_segments_combine_with_nothing_but_causality() -> None:
    segments = Segments((2, 1))
    with pytest.raises(UsageError, match="packed rows"):
        AttentionMask(torch.ones(1, 1, 1, 3, dtype=torch.bool), segments=segments)
    with pytest.raises(UsageError, match="packed rows"):
        AttentionMask(segments=segments).with_causality(first_query=1)
    with pytest.raises(UsageError, match="rows_multiple"):
        Segments((2, 1), rows_multiple=0)
