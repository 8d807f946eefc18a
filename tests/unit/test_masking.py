"""One meaning of a mask: polarity, shapes, absolute positions."""

import pytest
import torch

from transformer_architectures.architectures.vanilla.transformer import Transformer
from transformer_architectures.errors import UsageError
from transformer_architectures.masking import AttentionMask


def test_all_public_shapes_mean_the_same(seed: int) -> None:
    padding = torch.rand(3, 5) > 0.4
    expected = padding[:, None, None, :].expand(3, 2, 4, 5)
    for mask in (
        padding,
        padding.long(),
        padding.float(),
        padding[:, None, :].expand(3, 4, 5),
        padding[:, None, None, :].expand(3, 2, 4, 5),
    ):
        rendered = AttentionMask.from_any(mask).render(4, 5, torch.device("cpu"))
        assert rendered is not None and torch.equal(rendered.expand(3, 2, 4, 5), expected)


def test_no_mask_renders_to_nothing() -> None:
    assert AttentionMask.from_any(None).render(4, 5, torch.device("cpu")) is None


def test_wrong_shape_is_refused() -> None:
    with pytest.raises(UsageError, match="keys"):
        AttentionMask.from_any(torch.ones(3))


@pytest.mark.parametrize("first_query", [0, 1, 3])
def test_causality_is_by_absolute_position(first_query: int) -> None:
    num_keys = 5
    num_queries = num_keys - first_query
    rendered = AttentionMask(causal=True, first_query=first_query).render(num_queries, num_keys, torch.device("cpu"))
    whole = torch.ones(num_keys, num_keys, dtype=torch.bool).tril()
    assert rendered is not None and torch.equal(rendered[0, 0], whole[first_query:])


def test_one_query_at_the_end_sees_everything() -> None:
    assert AttentionMask(causal=True, first_query=6).render(1, 7, torch.device("cpu")) is None


def test_causality_and_padding_combine(seed: int) -> None:
    padding = torch.rand(2, 6) > 0.3
    rendered = AttentionMask.from_any(padding).with_causality().render(6, 6, torch.device("cpu"))
    expected = padding[:, None, :] & torch.ones(6, 6, dtype=torch.bool).tril()
    assert rendered is not None and torch.equal(rendered[:, 0], expected)
    assert torch.equal(Transformer.supplement_causal_mask(padding), expected)
    assert torch.equal(Transformer.suplement_causal_mask(padding.long()), expected)
