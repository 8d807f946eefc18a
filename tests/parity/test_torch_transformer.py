"""The block and the stacks against `torch.nn.Transformer`: outputs and gradients, pre- and post-norm, with masks.

There True in a boolean mask means "drop", here it means "may attend".
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from agreement import (
    TOLERANCES,
    Layer,
    agreeing,
    assert_gradients_agree,
    difference,
    our_gradients,
    randomize,
    their_gradients,
)
from torch import Tensor, nn

from transformer_architectures.attention import AttentionConfig
from transformer_architectures.decoder import Decoder
from transformer_architectures.encoder import Encoder
from transformer_architectures.feedforward import FeedForwardConfig
from transformer_architectures.masking import AttentionMask
from transformer_architectures.normalization import NormConfig
from transformer_architectures.pretrained.weight_map import Entry, Rename, Stacked, WeightMap, for_each
from transformer_architectures.residual import ResidualConfig
from transformer_architectures.transformer_blocks import TransformerBlock, TransformerBlockConfig

# Names inside a block; `{kind}` is weight or bias.
SELF_ATTENTION: list[Entry] = [
    Stacked(
        (
            "self_attention.attention.query.{kind}",
            "self_attention.attention.key.{kind}",
            "self_attention.attention.value.{kind}",
        ),
        "self_attn.in_proj_{kind}",
    ),
    Rename("self_attention.attention.output.{kind}", "self_attn.out_proj.{kind}"),
    Rename("self_attention.residual.norm.{kind}", "norm1.{kind}"),
]
CROSS_ATTENTION: list[Entry] = [
    Stacked(
        (
            "cross_attention.attention.query.{kind}",
            "cross_attention.attention.key.{kind}",
            "cross_attention.attention.value.{kind}",
        ),
        "multihead_attn.in_proj_{kind}",
    ),
    Rename("cross_attention.attention.output.{kind}", "multihead_attn.out_proj.{kind}"),
    Rename("cross_attention.residual.norm.{kind}", "norm2.{kind}"),
]
FEED_FORWARD: list[Entry] = [
    Rename("feedforward.expand.{kind}", "linear1.{kind}"),
    Rename("feedforward.output.{kind}", "linear2.{kind}"),
]
ENCODER_BLOCK = [*SELF_ATTENTION, *FEED_FORWARD, Rename("feedforward.residual.norm.{kind}", "norm2.{kind}")]
DECODER_BLOCK = [
    *SELF_ATTENTION,
    *CROSS_ATTENTION,
    *FEED_FORWARD,
    Rename("feedforward.residual.norm.{kind}", "norm3.{kind}"),
]
KINDS = ("weight", "bias")


def block_map(is_decoder: bool) -> WeightMap:
    """Of one layer."""
    return WeightMap(for_each(DECODER_BLOCK if is_decoder else ENCODER_BLOCK, kind=KINDS))


def inside(entries: list[Entry], ours: str, theirs: str) -> list[Entry]:
    """The same entries for a layer that is part of a stack."""
    moved: list[Entry] = []
    for entry in entries:
        if isinstance(entry, Stacked):
            moved.append(Stacked(tuple(ours + name for name in entry.ours), theirs + entry.theirs))
        else:
            assert isinstance(entry, Rename)
            moved.append(Rename(ours + entry.ours, theirs + entry.theirs))
    return moved


def stack_map(num_encoder_layers: int, num_decoder_layers: int, has_final_norm: bool) -> WeightMap:
    """Of an encoder and a decoder."""
    final_norm = [Rename("{stack}.final_norm.{kind}", "{stack}.norm.{kind}")] if has_final_norm else []
    encoder = inside(ENCODER_BLOCK, "encoder.blocks.{i}.", "encoder.layers.{i}.")
    decoder = inside(DECODER_BLOCK, "decoder.blocks.{i}.", "decoder.layers.{i}.")
    return WeightMap(
        [
            *for_each(encoder, i=range(num_encoder_layers), kind=KINDS),
            *for_each(decoder, i=range(num_decoder_layers), kind=KINDS),
            *for_each(final_norm, stack=("encoder", "decoder"), kind=KINDS),
        ]
    )


@dataclass(frozen=True)
class Sizes:
    """What a layer is made of, drawn by chance."""

    num_heads: int
    head_dim: int
    ff_dim: int
    eps: float
    activation: str
    pre_layernorm: bool

    @classmethod
    def draw(cls, pre_layernorm: bool) -> "Sizes":
        return cls(
            num_heads=random.randint(1, 4),
            head_dim=random.randint(2, 8),
            ff_dim=random.randint(5, 40),
            eps=random.choice([1e-3, 1e-5, 1e-12]),
            activation=random.choice(["relu", "gelu"]),
            pre_layernorm=pre_layernorm,
        )

    @property
    def embed_dim(self) -> int:
        return self.num_heads * self.head_dim

    def our_config(self, is_decoder: bool) -> TransformerBlockConfig:
        return TransformerBlockConfig(
            embed_dim=self.embed_dim,
            attention=AttentionConfig(num_heads=self.num_heads, backend=random.choice(["auto", "math", "sdpa"])),
            feedforward=FeedForwardConfig(self.ff_dim, activation=self.activation),
            residual=ResidualConfig(pre_layernorm=self.pre_layernorm, norm=NormConfig(eps=self.eps)),
            is_decoder=is_decoder,
        )

    def their_layer(self, is_decoder: bool) -> nn.Module:
        kind = nn.TransformerDecoderLayer if is_decoder else nn.TransformerEncoderLayer
        return kind(
            self.embed_dim,
            self.num_heads,
            self.ff_dim,
            dropout=0.0,
            activation=self.activation,
            layer_norm_eps=self.eps,
            batch_first=True,
            norm_first=self.pre_layernorm,
        )


class OurStacks(nn.Module):
    """An encoder and a decoder of ours, called as `nn.Transformer` is."""

    def __init__(self, sizes: Sizes, num_encoder_layers: int, num_decoder_layers: int) -> None:
        super().__init__()
        self.encoder = Encoder(sizes.our_config(is_decoder=False), num_encoder_layers)
        self.decoder = Decoder(sizes.our_config(is_decoder=True), num_decoder_layers)

    def forward(self, source: Tensor, target: Tensor, source_mask: Tensor, target_mask: Tensor) -> Tensor:
        encoded = self.encoder(source, source_mask)
        output: Tensor = self.decoder(
            target, AttentionMask.from_any(target_mask).with_causality(), encoded, encoder_mask=source_mask
        )
        return output


def their_stacks(sizes: Sizes, num_encoder_layers: int, num_decoder_layers: int) -> nn.Transformer:
    """`nn.Transformer` by itself ends post-norm stacks with a norm; ours, like those of published models, have none."""

    def norm() -> nn.Module | None:
        return nn.LayerNorm(sizes.embed_dim, eps=sizes.eps) if sizes.pre_layernorm else None

    encoder = nn.TransformerEncoder(
        sizes.their_layer(is_decoder=False), num_encoder_layers, norm(), enable_nested_tensor=False
    )
    decoder = nn.TransformerDecoder(sizes.their_layer(is_decoder=True), num_decoder_layers, norm())
    return nn.Transformer(
        sizes.embed_dim, sizes.num_heads, custom_encoder=encoder, custom_decoder=decoder, batch_first=True
    )


@pytest.fixture(autouse=True, params=TOLERANCES, ids=str)
def default_dtype(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test runs in single and in double precision."""
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(torch.float32)


def padding_mask(batch: int, length: int) -> Tensor:
    """True = real token; every row has one."""
    return torch.arange(length) < torch.randint(1, length + 1, (batch, 1))


def random_mask(*shape: int) -> Tensor:
    """True = may attend; every query may attend to something (where it may not, torch gives NaN)."""
    mask = torch.rand(shape) < 0.6
    mask[..., 0] |= ~mask.any(dim=-1)
    return mask


@pytest.mark.parametrize("pre_layernorm", [True, False], ids=["pre-norm", "post-norm"])
def test_stacks_agree(seed: int, pre_layernorm: bool) -> None:
    sizes, depths = Sizes.draw(pre_layernorm), (random.randint(1, 3), random.randint(1, 3))
    ours, theirs = OurStacks(sizes, *depths), their_stacks(sizes, *depths)
    randomize(theirs)
    weight_map = stack_map(*depths, has_final_norm=pre_layernorm)
    ours.load_state_dict(weight_map.to_ours(theirs.state_dict()))
    back = weight_map.to_theirs(ours.state_dict())
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs.state_dict().items())

    batch, source_length, target_length = random.randint(1, 4), random.randint(1, 9), random.randint(1, 9)
    source = torch.randn(batch, source_length, sizes.embed_dim)
    target = torch.randn(batch, target_length, sizes.embed_dim)
    source_mask, target_mask = padding_mask(batch, source_length), padding_mask(batch, target_length)
    future = torch.ones(target_length, target_length, dtype=torch.bool).triu(1)

    layers = [
        Layer(f"{name} {index}", block, layer)
        for name, blocks, their_layers in (
            ("encoder", ours.encoder.blocks, theirs.encoder.layers),
            ("decoder", ours.decoder.blocks, theirs.decoder.layers),
        )
        for index, (block, layer) in enumerate(zip(blocks, their_layers, strict=True))
    ]
    with agreeing(layers):
        output = ours(source, target, source_mask, target_mask)
        expected = theirs(
            source,
            target,
            tgt_mask=future,
            src_key_padding_mask=~source_mask,
            tgt_key_padding_mask=~target_mask,
            memory_key_padding_mask=~source_mask,
        )
    assert difference(output, expected) <= 1

    direction = torch.randn_like(output)
    for result in (output, expected):
        (result * direction).sum().backward()
    assert_gradients_agree(our_gradients(ours), weight_map.to_ours(their_gradients(theirs)))


@pytest.mark.parametrize("pre_layernorm", [True, False], ids=["pre-norm", "post-norm"])
@pytest.mark.parametrize("mask_dims", [None, 3, 4], ids=["no mask", "query mask", "head mask"])
def test_an_encoder_layer_agrees(seed: int, pre_layernorm: bool, mask_dims: int | None) -> None:
    sizes = Sizes.draw(pre_layernorm)
    theirs = sizes.their_layer(is_decoder=False)
    randomize(theirs)
    ours = TransformerBlock(sizes.our_config(is_decoder=False))
    ours.load_state_dict(block_map(is_decoder=False).to_ours(theirs.state_dict()))

    batch, length = random.randint(1, 4), random.randint(1, 9)
    hidden_states = torch.randn(batch, length, sizes.embed_dim)
    mask, their_mask = mask_of_both(mask_dims, batch, sizes.num_heads, length, length)
    inputs = [hidden_states.clone().requires_grad_() for _ in range(2)]
    outputs = [ours(inputs[0], mask), theirs(inputs[1], src_mask=their_mask)]
    assert_agreement(ours, theirs, inputs, outputs, is_decoder=False)


@pytest.mark.parametrize("pre_layernorm", [True, False], ids=["pre-norm", "post-norm"])
@pytest.mark.parametrize("mask_dims", [None, 3, 4], ids=["no mask", "query mask", "head mask"])
def test_a_decoder_layer_agrees(seed: int, pre_layernorm: bool, mask_dims: int | None) -> None:
    sizes = Sizes.draw(pre_layernorm)
    theirs = sizes.their_layer(is_decoder=True)
    randomize(theirs)
    ours = TransformerBlock(sizes.our_config(is_decoder=True))
    ours.load_state_dict(block_map(is_decoder=True).to_ours(theirs.state_dict()))

    batch, length, other_length = random.randint(1, 4), random.randint(1, 9), random.randint(1, 9)
    hidden_states = torch.randn(batch, length, sizes.embed_dim)
    other = torch.randn(batch, other_length, sizes.embed_dim)
    mask, their_mask = mask_of_both(mask_dims, batch, sizes.num_heads, length, length)
    cross_mask, their_cross_mask = mask_of_both(mask_dims, batch, sizes.num_heads, length, other_length)
    inputs = [tensor.clone().requires_grad_() for _ in range(2) for tensor in (hidden_states, other)]
    outputs = [
        ours(inputs[0], mask, inputs[1], cross_mask),
        theirs(inputs[2], inputs[3], tgt_mask=their_mask, memory_mask=their_cross_mask),
    ]
    assert_agreement(ours, theirs, inputs, outputs, is_decoder=True)


def mask_of_both(
    dims: int | None, batch: int, heads: int, queries: int, keys: int
) -> tuple[Tensor | None, Tensor | None]:
    """A mask in our meaning and the same one in theirs, which has the heads in the batch dimension."""
    if dims is None:
        return None, None
    mask = random_mask(batch, queries, keys) if dims == 3 else random_mask(batch, heads, queries, keys)
    dense = mask[:, None].expand(-1, heads, -1, -1) if dims == 3 else mask
    return mask, ~dense.reshape(batch * heads, queries, keys)


def assert_agreement(
    ours: nn.Module, theirs: nn.Module, inputs: list[Tensor], outputs: list[Tensor], is_decoder: bool
) -> None:
    """Outputs, gradients of the weights and gradients of the inputs (the first half of which went into ours)."""
    assert difference(*outputs) <= 1
    direction = torch.randn_like(outputs[0])
    for output in outputs:
        (output * direction).sum().backward()
    assert_gradients_agree(our_gradients(ours), block_map(is_decoder).to_ours(their_gradients(theirs)))
    half = len(inputs) // 2
    for our_input, their_input in zip(inputs[:half], inputs[half:], strict=True):
        assert our_input.grad is not None and their_input.grad is not None
        assert difference(our_input.grad, their_input.grad) <= 1
