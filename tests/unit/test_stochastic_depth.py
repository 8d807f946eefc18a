"""Stochastic depth: whole branches are dropped, sample by sample, in training only, and more of them the deeper they stand."""

import random

import pytest
import torch
from torch import Tensor

from transformer_architectures.attention import AttentionConfig
from transformer_architectures.decoder import Decoder
from transformer_architectures.encoder import Encoder
from transformer_architectures.errors import UsageError
from transformer_architectures.feedforward import FeedForwardConfig
from transformer_architectures.normalization import NormConfig
from transformer_architectures.residual import Residual, ResidualConfig
from transformer_architectures.transformer_blocks import TransformerBlockConfig


def block(**residual: object) -> TransformerBlockConfig:
    return TransformerBlockConfig(
        embed_dim=8,
        attention=AttentionConfig(num_heads=2),
        feedforward=FeedForwardConfig(ff_dim=12),
        residual=ResidualConfig(**residual),  # type: ignore[arg-type]
    )


def branch(states: Tensor) -> Tensor:
    return torch.sin(3 * states) + 1


@pytest.mark.parametrize("pre_layernorm", [True, False])
def test_a_sample_has_its_branch_whole_and_scaled_or_not_at_all(seed: int, pre_layernorm: bool) -> None:
    share = random.uniform(0.2, 0.8)
    residual = Residual(8, ResidualConfig(pre_layernorm=pre_layernorm, stochastic_depth=share)).double()
    states = torch.randn(200, 3, 8, dtype=torch.float64, requires_grad=True)
    output = residual(states, branch)
    if pre_layernorm:
        past, through = states, states + branch(residual.norm(states)) / (1 - share)
    else:
        past, through = residual.norm(states), residual.norm(states + branch(states) / (1 - share))
    dropped = (output - past).abs().amax(dim=(1, 2)) < 1e-12
    assert 0 < int(dropped.sum()) < 200
    expected = torch.where(dropped[:, None, None], past, through)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    direction = torch.randn_like(output)
    found, wanted = (torch.autograd.grad((value * direction).sum(), states)[0] for value in (output, expected))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


def test_the_mean_is_kept(seed: int) -> None:
    share, number = random.uniform(0.05, 0.6), 40_000
    residual = Residual(1, ResidualConfig(stochastic_depth=share, norm=NormConfig()))
    output = residual(torch.zeros(number, 1, 1), torch.ones_like)
    deviation = (share / (1 - share) / number) ** 0.5
    assert float(output.mean()) == pytest.approx(1, abs=6 * deviation)
    assert float((output == 0).float().mean()) == pytest.approx(share, abs=6 * (share * (1 - share) / number) ** 0.5)


def test_it_is_off_in_evaluation_and_draws_nothing_then(seed: int) -> None:
    states = torch.randn(5, 3, 8)
    with_it, without = Residual(8, ResidualConfig(stochastic_depth=0.9)), Residual(8, ResidualConfig())
    before = torch.get_rng_state()
    assert torch.equal(with_it.eval()(states, branch), without(states, branch))
    assert torch.equal(torch.get_rng_state(), before)
    assert with_it.state_dict().keys() == without.state_dict().keys()


def test_the_global_generator_decides(seed: int) -> None:
    encoder, states = Encoder(block().with_stochastic_depth(0.7, 4)), torch.randn(6, 3, 8)
    state = torch.get_rng_state()
    first, other = encoder(states), encoder(states)
    torch.set_rng_state(state)
    assert torch.equal(encoder(states), first) and not torch.equal(other, first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_types_are_kept_also_under_autocast(seed: int, dtype: torch.dtype) -> None:
    encoder, states = Encoder(block(stochastic_depth=0.5), 2).to(dtype), torch.randn(6, 3, 8, dtype=dtype)
    assert encoder(states).dtype == dtype
    with torch.autocast("cpu", torch.bfloat16):
        mixed = encoder.train()(states).dtype
        assert mixed == encoder.eval()(states).dtype


def test_it_grows_linearly_from_the_first_block_to_the_last(seed: int) -> None:
    last, num_layers = random.uniform(0, 0.9), random.randint(2, 12)
    configs = block(dropout=0.1).with_stochastic_depth(last, num_layers)
    rates = [config.residual.stochastic_depth for config in configs]
    assert rates == pytest.approx(torch.linspace(0, last, num_layers).tolist(), abs=1e-6)  # as in timm
    assert rates[0] == 0 and all(config.residual.dropout == 0.1 for config in configs)
    encoder = Encoder(configs)
    for layer, rate in zip(encoder.blocks, rates, strict=True):
        assert layer.self_attention.residual.stochastic_depth == layer.feedforward.residual.stochastic_depth == rate
    assert [config.residual.stochastic_depth for config in block().with_stochastic_depth(0.5, 1)] == [0]


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5])
def test_an_impossible_share_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="stochastic_depth"):
        ResidualConfig(stochastic_depth=share)


@pytest.mark.parametrize("stack", [Encoder, Decoder])
def test_a_stack_takes_one_declaration_for_all_or_one_for_each_block(seed: int, stack: type[Encoder]) -> None:
    equal, different = stack(block(), 3), stack([block(), block(norm=NormConfig(eps=0.5))])
    assert len(equal.blocks) == 3 and len(different.blocks) == 2
    assert different.blocks[0].feedforward.residual.norm.eps == 1e-5
    assert different.blocks[1].feedforward.residual.norm.eps == different.final_norm.eps == 0.5  # type: ignore[union-attr]
    assert len(stack([block()], 1).blocks) == 1
    for wrong in (lambda: stack(block()), lambda: stack([block()], 2), lambda: stack([]), lambda: stack(block(), 0)):
        with pytest.raises(UsageError):
            wrong()
