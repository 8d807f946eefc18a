"""The block and its parts refuse what does not fit together, and say why."""

import random
from dataclasses import replace

import pytest
import torch

from transformer_architectures.attention import AttentionConfig, record_attention
from transformer_architectures.decoder import Decoder
from transformer_architectures.encoder import Encoder
from transformer_architectures.errors import UsageError
from transformer_architectures.feedforward import FeedForwardConfig
from transformer_architectures.generation.decoding_state import STEPS_BETWEEN_DROPS, DecodingState
from transformer_architectures.kernels.dropout import Dropout
from transformer_architectures.masking import AttentionMask
from transformer_architectures.normalization import NormConfig
from transformer_architectures.residual import ResidualConfig
from transformer_architectures.transformer_blocks import TransformerBlock, TransformerBlockConfig

CONFIG = TransformerBlockConfig(8, AttentionConfig(num_heads=2), FeedForwardConfig(16))


@pytest.mark.parametrize("keyword", [{"dropout": 0.5}, {"is_decoder": True}, {"pre_layernorm": False}, {"ff_dim": 3}])
def test_a_config_and_keywords_are_one_too_many(keyword: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="not both"):
        TransformerBlock(CONFIG, **keyword)  # type: ignore[arg-type]


@pytest.mark.parametrize("is_decoder", [True, False])
def test_an_encoder_output_belongs_to_cross_attention(is_decoder: bool) -> None:
    block = TransformerBlock(embed_dim=8, num_heads=2, ff_dim=16, is_decoder=is_decoder)
    states = torch.randn(2, 3, 8)
    block(states, encoder_output=states if is_decoder else None)
    with pytest.raises(UsageError, match="encoder_output"):
        block(states, encoder_output=None if is_decoder else states)


def test_declarations_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="bias"):
        NormConfig("rms", bias=True)
    with pytest.raises(UsageError, match="additive"):
        AttentionConfig(num_heads=2, function="additive", backend="sdpa")
    with pytest.raises(UsageError, match="probability"):
        Dropout(1.5)(torch.ones(3))
    assert NormConfig().build(4).bias is not None and NormConfig(bias=False).build(4).bias is None


def test_dropout_at_its_ends(seed: int) -> None:
    inputs = torch.randn(1000)
    assert torch.equal(Dropout(1e-6)(inputs), inputs)  # less than one in 2^16
    assert not Dropout(1.0)(inputs).any()
    assert not Dropout(0.9999999)(inputs).any()


def test_a_decoder_without_cross_attention_decodes(seed: int) -> None:
    """Cached, reordered, some rows gone: equal to the whole prefix at once."""
    num_sentences, num_beams, steps = 3, 2, STEPS_BETWEEN_DROPS + 3
    embedding, decoder = torch.randn(11, 8, dtype=torch.float64), Decoder(CONFIG, 2).double().eval()

    def embed(tokens: torch.Tensor, position: int) -> torch.Tensor:
        return embedding[tokens] + position

    state = DecodingState(
        embed, decoder, lambda h: h @ embedding.T, 11, num_sentences, num_beams, steps, torch.device("cpu")
    )
    prefixes = torch.randint(11, (num_sentences * num_beams, 1))
    for step in range(steps - 1):
        state.step(prefixes[:, -1])
        parents = torch.arange(len(prefixes)) // num_beams * num_beams + torch.randint(num_beams, (len(prefixes),))
        state.reorder(parents)
        prefixes = prefixes[parents]
        if step == 1:
            state.keep(torch.tensor([0, 2]))
            prefixes = prefixes.view(num_sentences, num_beams, -1)[[0, 2]].flatten(0, 1)
        prefixes = torch.cat([prefixes, torch.randint(11, (len(prefixes), 1))], dim=1)
    whole = decoder(embedding[prefixes] + torch.arange(steps)[:, None], AttentionMask(causal=True))
    torch.testing.assert_close(
        torch.cat(list(state.step(prefixes[:, -1]))), whole[:, -1] @ embedding.T, rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("pre_layernorm", [True, False])
@pytest.mark.parametrize("mask_kind", ["none", "padding", "each query's own", "causal"])
def test_the_first_queries_alone_are_those_of_all(seed: int, pre_layernorm: bool, mask_kind: str) -> None:
    """Values, gradients and recorded weights, in double precision."""
    config = replace(CONFIG, residual=ResidualConfig(pre_layernorm=pre_layernorm))
    encoder, batch, length = Encoder(config, 2).double(), 3, 7
    num_queries = random.randint(1, length)
    mask: AttentionMask | torch.Tensor | None = {
        "none": None,
        "padding": torch.arange(length) < torch.randint(1, length + 1, (batch, 1)),
        "each query's own": torch.rand(batch, length, length) < 0.7,
        "causal": AttentionMask(causal=True),
    }[mask_kind]
    direction = torch.randn(batch, num_queries, 8, dtype=torch.float64)
    states = torch.randn(batch, length, 8, dtype=torch.float64)
    found = []
    for wanted in (None, num_queries):
        inputs = states.clone().requires_grad_()
        with record_attention(encoder) as attention:
            output = encoder(inputs, mask, wanted)
        assert output.shape[1] == (wanted or length)
        output = output[:, :num_queries]
        gradients = torch.autograd.grad((output * direction).sum(), [inputs, *encoder.parameters()])
        found.append([output, *gradients, *(weights for (weights,) in attention.values())])
    for whole, part in zip(*found, strict=True):
        torch.testing.assert_close(part, whole, rtol=0, atol=1e-10)
