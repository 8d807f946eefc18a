"""Positions in a grid: the published formula, and tables that are resized like images."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer_architectures.errors import UsageError
from transformer_architectures.positions import (
    LearnedGridPositions,
    SinusoidalGridPositions,
    resize_grid,
    sinusoids_2d,
)


def formula(row: int, column: int, index: int, embed_dim: int) -> float:
    """big_vision's `posemb_sincos_2d`, one number at a time in fp64."""
    quarter = embed_dim // 4
    part, step = divmod(index, quarter)
    angle = (column if part < 2 else row) / 10000.0 ** (step / (quarter - 1))
    return math.cos(angle) if part % 2 else math.sin(angle)


@settings(deadline=None)
@given(rows=st.integers(1, 40), columns=st.integers(1, 40), quarter=st.integers(2, 8), data=st.data())
def test_the_table_is_the_formula(rows: int, columns: int, quarter: int, data: st.DataObject) -> None:
    row, column = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    table = sinusoids_2d((rows, columns), 4 * quarter)
    assert table.shape == (rows * columns, 4 * quarter)
    expected = [formula(row, column, index, 4 * quarter) for index in range(4 * quarter)]
    torch.testing.assert_close(
        table[row * columns + column].double(), torch.tensor(expected, dtype=torch.float64), atol=6e-8, rtol=0
    )


@pytest.mark.parametrize("embed_dim", [4, 6, 10, 15])
def test_a_width_without_four_quarters_is_refused(embed_dim: int) -> None:
    with pytest.raises(UsageError, match=f"not {embed_dim}"):
        sinusoids_2d((2, 2), embed_dim)


def cubic(distance: float) -> float:
    """The kernel of bicubic interpolation with a = -0.5, which torch takes where it antialiases."""
    x = abs(distance)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def resizing_matrix(old: int, new: int) -> torch.Tensor:
    """Weights of old positions in new ones: the kernel is as wide as a step where the new grid is coarser."""
    width = max(1.0, old / new)
    weights = torch.zeros(new, old, dtype=torch.float64)
    for target in range(new):
        center = (target + 0.5) * old / new
        for source in range(old):
            weights[target, source] = cubic((source + 0.5 - center) / width)
    return weights / weights.sum(dim=1, keepdim=True)


def test_resizing_is_bicubic_and_antialiased_in_both_directions(seed: int) -> None:
    """Also to a single column, where one of torch's two kernels is wrong."""
    for _ in range(20):
        old, new = [(random.randint(1, 9), random.randint(1, 9)) for _ in range(2)]
        num_prefix, embed_dim = random.randint(0, 3), random.randint(2, 8)
        table = torch.randn(num_prefix + old[0] * old[1], embed_dim)
        resized = resize_grid(table, old, new, num_prefix)
        assert torch.equal(resized[:num_prefix], table[:num_prefix])
        image = table[num_prefix:].double().unflatten(0, old)
        rows, columns = resizing_matrix(old[0], new[0]), resizing_matrix(old[1], new[1])
        expected = torch.einsum("yr,xc,rcd->yxd", rows, columns, image).flatten(0, 1)
        torch.testing.assert_close(resized[num_prefix:].double(), expected, rtol=0, atol=1e-5)


def test_a_learned_table_is_resized_in_place(seed: int) -> None:
    positions = LearnedGridPositions(4, (2, 3), num_prefix=1)
    torch.nn.init.normal_(positions.weight)
    optimizer = torch.optim.SGD(positions.parameters(), lr=1.0)
    positions().sum().backward()
    before = positions.weight.detach().clone()
    positions.resize((2, 3))
    assert torch.equal(positions(), before)
    positions.resize((5, 1))
    assert positions().shape == (6, 4) and positions.weight.grad is None and positions.weight.requires_grad
    assert torch.equal(positions()[0], before[0])
    # Who held the parameter holds it still: it is trained.
    resized = positions.weight.detach().clone()
    positions().sum().backward()
    optimizer.step()
    torch.testing.assert_close(positions(), resized - 1)


def test_a_fixed_table_is_saved_and_not_trained() -> None:
    positions = SinusoidalGridPositions(8, (3, 4))
    assert torch.equal(positions(), sinusoids_2d((3, 4), 8)) and not list(positions.parameters())
    positions.resize((6, 2))
    other = SinusoidalGridPositions(8, (6, 2))
    assert not torch.equal(other(), positions())  # the images' corners keep their meaning
    other.load_state_dict(positions.state_dict())
    assert torch.equal(other(), positions())
