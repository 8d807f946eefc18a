"""Packed rows give what padded ones give: outputs, gradients, recorded weights; and segments do not see each other."""

import random
from dataclasses import replace

import pytest
import torch
from test_attention_functions import FUNCTIONS
from torch import Tensor

from transformer_architectures.attention import AttentionConfig, KeyValueCache, MultiHeadAttention, record_attention
from transformer_architectures.attention.packed import PackedHeads, rounded_length
from transformer_architectures.decoder import Decoder
from transformer_architectures.encoder import Encoder
from transformer_architectures.errors import UsageError
from transformer_architectures.feedforward import FeedForwardConfig
from transformer_architectures.masking import AttentionMask, Segments
from transformer_architectures.residual import ResidualConfig
from transformer_architectures.transformer_blocks import TransformerBlockConfig

EMBED_DIM, HEADS, HEAD_DIM = 8, 2, 4


def random_segments(rows_multiple: int | None = None, long: int = 70) -> Segments:
    """Lengths of several rectangles, 1 among them."""
    lengths = [
        1,
        *(random.randint(1, long // 2) for _ in range(random.randint(1, 5))),
        random.choice([1, 16, 17, long]),
    ]
    random.shuffle(lengths)
    return Segments(tuple(lengths), rows_multiple or random.choice([1, 8, 64]))


def config(function: str = "dot_product", backend: str = "auto", pre_layernorm: bool = True) -> TransformerBlockConfig:
    return TransformerBlockConfig(
        EMBED_DIM,
        AttentionConfig(HEADS, function, backend),  # type: ignore[arg-type]
        FeedForwardConfig(16),
        ResidualConfig(pre_layernorm),
    )


def padded_mask(segments: Segments, causal: bool = False) -> AttentionMask:
    mask = AttentionMask.from_any(torch.arange(segments.longest) < torch.tensor(segments.lengths)[:, None])
    return mask.with_causality() if causal else mask


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_every_function_equals_mathematics_within_segments(
    name: str, causal: bool, dtype: torch.dtype, tolerance: float, seed: int
) -> None:
    build, scores = FUNCTIONS[name]
    function = build().to(dtype)
    segments = random_segments(rows_multiple=8, long=20)
    projected = torch.randn(1, segments.num_rows, 3 * EMBED_DIM, dtype=dtype, requires_grad=True)
    mask = AttentionMask(causal=causal, segments=segments)
    q, k, v = projected.view(1, segments.num_rows, 3, HEADS, HEAD_DIM).permute(2, 0, 3, 1, 4)

    def on_paper(start: int, length: int) -> Tensor:
        own = slice(start, start + length)
        found = scores(function, q[:, :, own], k[:, :, own])
        if causal:
            found = found.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), -torch.inf)
        weights = found.exp() / found.exp().sum(dim=-1, keepdim=True)
        return (weights @ v[:, :, own]).transpose(1, 2).flatten(2)

    places = zip(segments.starts().tolist(), segments.lengths, strict=True)
    nobody = projected.new_zeros(1, segments.num_rows - segments.num_tokens, EMBED_DIM)
    expected = torch.cat([*(on_paper(start, length) for start, length in places), nobody], dim=1)

    packed = PackedHeads.from_mask(mask, HEADS, projected.device)
    rectangles = zip(packed.split(projected), packed.rectangles, strict=True)
    context = packed.merge([function(*heads, rectangle.mask) for heads, rectangle in rectangles])
    dense = function(q, k, v, mask).transpose(1, 2).flatten(2)  # what the mask says, without moving anything

    direction = torch.randn_like(expected)
    (wanted,) = torch.autograd.grad((expected * direction).sum(), projected, retain_graph=True)
    for actual in (context, dense):
        torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)
        (gradient,) = torch.autograd.grad((actual * direction).sum(), projected, retain_graph=True)
        torch.testing.assert_close(gradient, wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "block",
    [config(), config(backend="sdpa"), config("additive"), config(pre_layernorm=False)],
    ids=["auto", "sdpa", "additive", "post-norm"],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_packed_encoder_equals_padded(
    block: TransformerBlockConfig, causal: bool, dtype: torch.dtype, tolerance: float, seed: int
) -> None:
    segments = random_segments()
    encoder = Encoder(block, 2).to(dtype)
    padded = torch.randn(len(segments.lengths), segments.longest, EMBED_DIM, dtype=dtype, requires_grad=True)
    expected = segments.pack(encoder(padded, padded_mask(segments, causal)))
    output = encoder(segments.pack(padded), AttentionMask(causal=causal, segments=segments))
    real = slice(0, segments.num_tokens)
    torch.testing.assert_close(output[:, real], expected[:, real], atol=tolerance, rtol=tolerance)

    inputs = [padded, *encoder.parameters()]
    direction = torch.randn_like(expected)[:, real]
    wanted = torch.autograd.grad((expected[:, real] * direction).sum(), inputs)
    for actual, gradient in zip(torch.autograd.grad((output[:, real] * direction).sum(), inputs), wanted, strict=True):
        scale = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(actual / scale, gradient / scale, atol=tolerance, rtol=tolerance)


def test_bf16_is_as_near_to_exact_as_padded_rows_are(seed: int) -> None:
    segments = random_segments()
    encoder = Encoder(config(), 2)
    padded = torch.randn(len(segments.lengths), segments.longest, EMBED_DIM)
    with torch.no_grad():
        exact = segments.pack(encoder(padded, padded_mask(segments)))
        with torch.autocast("cpu", torch.bfloat16):
            other = segments.pack(encoder(padded, padded_mask(segments)))
            output = encoder(segments.pack(padded), AttentionMask(segments=segments))
    real = slice(0, segments.num_tokens)
    error, of_padded = ((found - exact)[:, real].abs().max() for found in (output, other))
    assert error < 2 * of_padded + 1e-3


@pytest.mark.parametrize("function", ["dot_product", "additive"])
def test_segments_see_nothing_of_each_other_nor_of_the_rows_behind(function: str, seed: int) -> None:
    segments = random_segments(rows_multiple=64)
    encoder = Encoder(config(function), 2)
    mask = AttentionMask(segments=segments)
    states = torch.randn(1, segments.num_rows, EMBED_DIM)
    changed = random.randrange(len(segments.lengths))
    hit = (segments.numbers() == changed) | (segments.numbers() == -1)
    others = torch.where(hit[:, None], torch.randn_like(states) * 100, states)
    before, after = encoder(states, mask), encoder(others, mask)
    assert torch.equal(before[:, ~hit], after[:, ~hit])
    assert not torch.equal(before[:, hit], after[:, hit])


def test_packing_is_deterministic_and_keeps_the_order(seed: int) -> None:
    segments = random_segments()
    encoder = Encoder(config(), 2).double()
    states = torch.randn(1, segments.num_rows, EMBED_DIM, dtype=torch.float64)
    output = encoder(states, AttentionMask(segments=segments))
    assert torch.equal(output, encoder(states, AttentionMask(segments=segments)))
    for start, length in zip(segments.starts().tolist(), segments.lengths, strict=True):
        own = slice(start, start + length)
        torch.testing.assert_close(encoder(states[:, own]), output[:, own], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_recorded_weights_are_those_of_padded_rows(causal: bool, seed: int) -> None:
    segments = random_segments()
    encoder = Encoder(config(), 2)
    padded = torch.randn(len(segments.lengths), segments.longest, EMBED_DIM)
    with record_attention(encoder) as expected:
        encoder(padded, padded_mask(segments, causal))
    with record_attention(encoder) as found:
        encoder(segments.pack(padded), AttentionMask(causal=causal, segments=segments))
    real = (torch.arange(segments.longest) < torch.tensor(segments.lengths)[:, None])[:, None, :, None]
    assert found.keys() == expected.keys() and found
    for name, (weights,) in found.items():
        torch.testing.assert_close(weights, expected[name][0] * real)


def test_dropout_hits_weights_in_training_only(seed: int) -> None:
    segments = random_segments()
    encoder = Encoder(replace(config(), attention=AttentionConfig(HEADS, dropout=0.5)), 1)
    states, mask = torch.randn(1, segments.num_rows, EMBED_DIM), AttentionMask(segments=segments)
    torch.manual_seed(1)
    first, second = encoder(states, mask), encoder(states, mask)
    torch.manual_seed(1)
    assert not torch.equal(first, second) and torch.equal(first, encoder(states, mask))
    encoder.eval()
    assert torch.equal(encoder(states, mask), encoder(states, mask))


def test_training_after_evaluation_of_the_same_lengths(seed: int) -> None:
    segments = random_segments()
    encoder = Encoder(config(backend="sdpa"), 2)
    states = torch.randn(1, segments.num_rows, EMBED_DIM)
    with torch.inference_mode():
        expected = encoder(states, AttentionMask(segments=segments))
    output = encoder(states, AttentionMask(segments=segments))
    output.sum().backward()
    torch.testing.assert_close(output, expected.clone())


def test_rows_behind_the_last_segment_get_no_context(seed: int) -> None:
    segments = Segments((3, 2), rows_multiple=8)
    attention = MultiHeadAttention(EMBED_DIM, AttentionConfig(HEADS))
    output = attention.attend_to_self(torch.randn(1, 8, EMBED_DIM), AttentionMask(segments=segments))
    torch.testing.assert_close(output[0, 5:], attention.output.bias.expand(3, -1))


def test_rounded_length_is_little_more_and_one_of_few() -> None:
    lengths = range(1, 1025)
    assert all(length <= rounded_length(length) < length + max(16, length / 4) for length in lengths)
    assert len({rounded_length(length) for length in lengths}) == 20
    assert [rounded_length(length) for length in (1, 16, 17, 64, 65, 128, 129, 512)] == [
        16,
        16,
        32,
        64,
        80,
        128,
        160,
        512,
    ]


def test_wrong_use_is_refused(seed: int) -> None:
    segments = Segments((3, 2))
    mask = AttentionMask(segments=segments)
    encoder = Encoder(config(), 1)
    with pytest.raises(UsageError, match="5 rows"):
        encoder(torch.randn(1, 6, EMBED_DIM), mask)
    with pytest.raises(UsageError, match="5 rows"):
        encoder(torch.randn(2, 5, EMBED_DIM), mask)
    with pytest.raises(UsageError, match="cache"):
        Decoder(config(), 1)(torch.randn(1, 5, EMBED_DIM), mask, caches=[KeyValueCache()])
    crossed = Decoder(replace(config(), is_decoder=True), 1)
    with pytest.raises(UsageError, match="[Cc]ross-attention"):
        crossed(torch.randn(1, 5, EMBED_DIM), None, torch.randn(1, 5, EMBED_DIM), mask)
    deep = Encoder(replace(config(), residual=ResidualConfig(stochastic_depth=0.1)), 1)
    with pytest.raises(UsageError, match="stochastic depth"):
        deep(torch.randn(1, 5, EMBED_DIM), mask)
    deep.eval()(torch.randn(1, 5, EMBED_DIM), mask)


@pytest.mark.slow
def test_packed_rows_inside_a_compiled_encoder(seed: int) -> None:
    encoder = Encoder(config(), 1)
    for _ in range(2):
        segments = random_segments()
        states, mask = torch.randn(1, segments.num_rows, EMBED_DIM), AttentionMask(segments=segments)
        expected = encoder(states, mask)
        torch.testing.assert_close(torch.compile(encoder, backend="eager", dynamic=False)(states, mask), expected)
