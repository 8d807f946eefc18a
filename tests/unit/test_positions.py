"""Sinusoidal and learned positions: the paper's formula in both layouts, at any offset, beyond any table."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer_architectures.errors import UsageError
from transformer_architectures.positions import LearnedPositions, SinusoidalPositions, SinusoidLayout, sinusoids


def formula(position: int, column: int, embed_dim: int, layout: str) -> float:
    """PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i+1) = cos(same), one number at a time in fp64."""
    if layout == "interleaved":
        index, is_cosine = column // 2, column % 2 == 1
    else:
        index, is_cosine = column % (embed_dim // 2), column >= embed_dim // 2
    angle = position / 10000.0 ** (2 * index / embed_dim)
    return math.cos(angle) if is_cosine else math.sin(angle)


@pytest.mark.parametrize("layout", ["interleaved", "half"])
@settings(deadline=None)
@given(position=st.integers(0, 20_000), half_dim=st.integers(1, 20))
def test_table_is_the_formula(layout: SinusoidLayout, position: int, half_dim: int) -> None:
    row = SinusoidalPositions(2 * half_dim, 8, layout)(1, position)
    expected = [[formula(position, column, 2 * half_dim, layout) for column in range(2 * half_dim)]]
    # Half a unit in the last place of fp32 and no more, also where angles are large.
    torch.testing.assert_close(row.double(), torch.tensor(expected, dtype=torch.float64), atol=6e-8, rtol=0)


def test_layouts_hold_the_same_columns() -> None:
    interleaved, half = sinusoids(50, 16), sinusoids(50, 16, "half")
    assert torch.equal(torch.cat([interleaved[:, 0::2], interleaved[:, 1::2]], dim=1), half)
    assert not torch.equal(interleaved, half)


@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_beyond_the_table(layout: SinusoidLayout) -> None:
    positions = SinusoidalPositions(8, num_positions=4, layout=layout)
    expected = sinusoids(300, 8, layout)
    for length, first in ((4, 0), (5, 0), (1, 4), (3, 9), (100, 7), (2, 0), (0, 3), (1, 299)):
        assert torch.equal(positions(length, first), expected[first : first + length])


def test_growing_keeps_type_and_state_dict() -> None:
    positions = SinusoidalPositions(8, num_positions=2).to(torch.bfloat16)
    assert positions(9).dtype == torch.bfloat16
    assert not positions.state_dict() and not list(positions.parameters())
    torch.testing.assert_close(positions(9).float(), sinusoids(9, 8), atol=4e-3, rtol=0)


def test_growing_while_decoding_does_not_hinder_training_after() -> None:
    positions = SinusoidalPositions(8, num_positions=2)
    with torch.inference_mode():
        positions(10)
    hidden_states = torch.randn(10, 8, requires_grad=True)
    (positions(10) * hidden_states).sum().backward()
    assert hidden_states.grad is not None and torch.equal(hidden_states.grad, sinusoids(10, 8))


def test_odd_width_is_refused() -> None:
    for make in (lambda: sinusoids(4, 7), lambda: SinusoidalPositions(7)):
        with pytest.raises(UsageError, match="even embed_dim, not 7"):
            make()


def test_learned_positions_by_offset_and_limit(seed: int) -> None:
    positions = LearnedPositions(4, num_positions=6)
    torch.nn.init.normal_(positions.weight)
    assert torch.equal(positions(3, 2), positions.weight[2:5]) and torch.equal(positions(6), positions.weight)
    for length, first in ((7, 0), (1, 6), (3, 4)):
        with pytest.raises(UsageError, match="beyond the 6 positions"):
            positions(length, first)
