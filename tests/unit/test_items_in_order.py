"""Items that processes work out: in order, and an error is what it was."""

import pytest

from transformer_architectures.datasets import items_in_order as module
from transformer_architectures.datasets.items_in_order import items_in_order
from transformer_architectures.errors import UsageError


class Squares:
    """One of them is none."""

    def __init__(self, bad: int | None = None) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> int:
        if index == self.bad:
            raise UsageError(f"number {index} is no number")
        return index * index


@pytest.mark.parametrize("num_inputs", [9, 1000])
def test_in_order_and_errors_arrive_whole(monkeypatch: pytest.MonkeyPatch, num_inputs: int) -> None:
    monkeypatch.setattr(module, "available_cores", lambda: 2)
    assert list(items_in_order(Squares(), num_inputs)) == [index * index for index in range(9)]
    found = []
    with pytest.raises(UsageError) as caught:
        found.extend(items_in_order(Squares(bad=0), num_inputs))
    assert str(caught.value) == "number 0 is no number" and found == []
    items = items_in_order(Squares(bad=5), num_inputs)
    assert [next(items) for _ in range(5)] == [0, 1, 4, 9, 16]
    with pytest.raises(UsageError, match="^number 5 is no number$"):
        next(items)
