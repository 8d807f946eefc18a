"""The encoder-decoder Transformer of Vaswani et al. 2017, as this library trains it.

* Pre-norm blocks (layer norm, eps 1e-5) with a final norm on both stacks; post-norm by ``pre_layernorm: false``.
* Feed-forward with ReLU, biases everywhere.
* Sinusoidal positions, interleaved, added to embeddings scaled by √embed_dim.
* One matrix for source embedding, target embedding and output projection.
* No dropout on attention weights unless asked for; dropout on embeddings and on every residual branch.
"""

from dataclasses import replace
from typing import Literal

from jaxtyping import Bool, Float, Int, Shaped
from pydantic import Field, model_validator
from torch import Tensor, nn

from transformer_architectures.architectures.model_config import TransformerModelConfig
from transformer_architectures.attention import AdditiveAttention, AttentionConfig, FusedLinear
from transformer_architectures.decoder import Decoder
from transformer_architectures.embedding import TokenEmbedding
from transformer_architectures.encoder import Encoder
from transformer_architectures.feedforward import ActivationName
from transformer_architectures.generation.decoding_state import DecodingState
from transformer_architectures.kernels.dropout import Dropout
from transformer_architectures.kernels.linear import Linear, count_product_weights
from transformer_architectures.masking import AttentionMask
from transformer_architectures.positions import LearnedPositions, SinusoidalPositions, SinusoidLayout
from transformer_architectures.utils.initialization import (
    InitializationTable,
    for_each_part,
    initialize,
    normal,
    ones,
    xavier_uniform,
    zeros,
)

SourceMask = Shaped[Tensor, "batch source"] | None


class VanillaModelConfig(TransformerModelConfig):
    """Sizes and choices; the defaults are those of this library's own models.

    ``num_layers`` sets encoder and decoder; ``num_encoder_layers`` / ``num_decoder_layers`` override it for one of them.
    """

    same_as = {
        "num_encoder_layers": "encoder_layers",
        "num_decoder_layers": "decoder_layers",
        "decoder_start_id": "start_id",
    }

    architecture: Literal["vanilla"] = "vanilla"
    vocab_size: int = Field(8000, ge=4, le=2**24)
    num_encoder_layers: int | None = Field(None, ge=1, le=1000)
    num_decoder_layers: int | None = Field(None, ge=1, le=1000)
    attention: Literal["dot_product", "additive"] = "dot_product"
    activation: ActivationName = "relu"
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    position_layout: SinusoidLayout = "interleaved"
    max_length: int = Field(
        256, ge=2, le=2**20, description="tokens that decoding may give at most; size of learned positions"
    )
    scale_embedding: bool = True
    tie_weights: bool = True
    output_bias: bool = False
    pad_id: int = Field(0, ge=0)
    bos_id: int = Field(1, ge=0)
    eos_id: int = Field(2, ge=0)
    decoder_start_id: int | None = Field(None, ge=0, description="first decoder input; bos_id unless given")

    @model_validator(mode="after")
    def parts_fit_together(self) -> "VanillaModelConfig":
        for name in ("pad_id", "bos_id", "eos_id", "decoder_start_id"):
            if (token := getattr(self, name)) is not None and token >= self.vocab_size:
                raise ValueError(f"{name} {token} is outside the vocabulary of {self.vocab_size}")
        if self.attention == "additive" and self.attention_backend != "auto":
            raise ValueError("attention_backend belongs to attention: dot_product; leave it out for additive")
        if self.embed_dim % 2 and self.positions == "sinusoidal":
            raise ValueError(f"sinusoidal positions need an even embed_dim, not {self.embed_dim}")
        return self

    @property
    def encoder_layers(self) -> int:
        """Number of encoder blocks."""
        return self.num_encoder_layers or self.num_layers

    @property
    def decoder_layers(self) -> int:
        """Number of decoder blocks."""
        return self.num_decoder_layers or self.num_layers

    @property
    def start_id(self) -> int:
        """The token that the decoder starts with."""
        return self.bos_id if self.decoder_start_id is None else self.decoder_start_id

    @property
    def attention_config(self) -> AttentionConfig:
        """Of all attention layers."""
        return replace(super().attention_config, function=self.attention)


# What each class of module starts with, and why.
INITIALIZATION: InitializationTable = {
    # Times √embed_dim it has size one as input; as output projection its logits are near one.
    TokenEmbedding: {"weight": normal(lambda embedding: embedding.weight.shape[1] ** -0.5)},
    # Starts small beside the tokens (BERT).
    LearnedPositions: {"weight": normal(0.02).without_decay()},
    # Keeps the variance; query, key and value count as three matrices.
    FusedLinear: {"weight": for_each_part(xavier_uniform()), "bias": zeros},
    nn.Linear: {"weight": xavier_uniform(), "bias": zeros},
    # Scores near one.
    AdditiveAttention: {"score_vector": normal(lambda module: module.score_vector.shape[1] ** -0.5).without_decay()},
    # Starts as pure normalisation.
    nn.LayerNorm: {"weight": ones, "bias": zeros},
}


class Transformer(nn.Module):
    """Encoder-decoder model: source tokens and target prefix to logits of the next target token."""

    initialization = INITIALIZATION

    def __init__(self, config: VanillaModelConfig) -> None:
        super().__init__()
        self.config = config
        self.source_embedding = TokenEmbedding(config.vocab_size, config.embed_dim, scaled=config.scale_embedding)
        self.target_embedding = TokenEmbedding(config.vocab_size, config.embed_dim, scaled=config.scale_embedding)
        self.source_positions = build_positions(config)
        self.target_positions = build_positions(config)
        self.embedding_dropout = Dropout(config.dropout)
        self.encoder = Encoder(config.block(is_decoder=False), config.encoder_layers)
        self.decoder = Decoder(config.block(is_decoder=True), config.decoder_layers)
        self.output_projection = Linear(config.embed_dim, config.vocab_size, bias=config.output_bias)
        initialize(self, INITIALIZATION)
        if config.tie_weights:
            self.tie_weights()

    def forward(
        self,
        source_ids: Int[Tensor, "batch source"],
        target_ids: Int[Tensor, "batch target"],
        source_mask: SourceMask = None,
    ) -> Float[Tensor, "batch target vocab"]:
        """Logits of the token after each target position. ``source_mask``: 1 = real token; None = all are."""
        return self.output_logits(self.forward_features(source_ids, target_ids, source_mask))

    def forward_features(
        self,
        source_ids: Int[Tensor, "batch source"],
        target_ids: Int[Tensor, "batch target"],
        source_mask: SourceMask = None,
    ) -> Float[Tensor, "batch target embed_dim"]:
        """The decoder's output before the vocabulary: what a loss that projects only labelled positions needs."""
        return self.decode(target_ids, self.encode(source_ids, source_mask), source_mask)

    def encode(
        self, source_ids: Int[Tensor, "batch source"], source_mask: SourceMask = None
    ) -> Float[Tensor, "batch source embed_dim"]:
        """Hidden states of the source. ``source_mask``: 1 = real token; None = all are."""
        hidden_states = self.source_embedding(source_ids) + self.source_positions(source_ids.shape[1])
        return self.encoder(self.embedding_dropout(hidden_states), source_mask)

    def decode(
        self,
        target_ids: Int[Tensor, "batch target"],
        encoder_output: Float[Tensor, "batch source embed_dim"],
        source_mask: SourceMask = None,
    ) -> Float[Tensor, "batch target embed_dim"]:
        """Hidden states of a whole target prefix.

        Targets are padded on the right: under causality no real position sees the padding, so they need no mask of their own.
        """
        hidden_states = self.target_embedding(target_ids) + self.target_positions(target_ids.shape[1])
        causal = AttentionMask(causal=True)
        return self.decoder(self.embedding_dropout(hidden_states), causal, encoder_output, source_mask)

    def output_logits(self, hidden_states: Float[Tensor, "*batch embed_dim"]) -> Float[Tensor, "*batch vocab"]:
        """The decoder's output projected to the vocabulary."""
        return self.output_projection(hidden_states)

    def start_decoding(
        self,
        source_ids: Int[Tensor, "sentences source"],
        source_mask: Shaped[Tensor, "sentences source"] | None,
        num_beams: int,
        max_length: int,
    ) -> DecodingState:
        """Encodes the sources and returns the state that `generation` searches with; ``max_length`` sizes its caches."""

        def embed(tokens: Tensor, position: int) -> Tensor:
            return self.target_embedding(tokens) + self.target_positions(1, position)

        mask = None if source_mask is None or bool(source_mask.all()) else source_mask != 0
        encoder_output = self.encode(source_ids, mask)
        return DecodingState(
            embed,
            self.decoder,
            self.output_logits,
            self.config.vocab_size,
            len(source_ids),
            num_beams,
            max_length,
            source_ids.device,
            encoder_output,
            mask,
        )

    @staticmethod
    def supplement_causal_mask(
        attention_mask: Shaped[Tensor, "batch length"],
    ) -> Bool[Tensor, "batch length length"]:
        """A padding mask (1 = real) with causality added: may position ``i`` attend to position ``j``?"""
        length = attention_mask.shape[1]
        rendered = AttentionMask.from_any(attention_mask).with_causality().render(length, length, attention_mask.device)
        assert rendered is not None
        return rendered[:, 0].expand(-1, length, -1)

    suplement_causal_mask = supplement_causal_mask  # the name that older code uses

    def tie_weights(self) -> None:
        """One matrix for both embeddings and the output projection (Press & Wolf 2017; Vaswani et al. section 3.4)."""
        self.target_embedding.weight = self.source_embedding.weight
        self.output_projection.weight = self.source_embedding.weight

    def parameter_groups(self) -> dict[str, int]:
        """Number of parameters by part; a tied matrix counts once, as embedding."""
        tables = [self.source_embedding, self.target_embedding, self.source_positions, self.target_positions]
        groups = {
            "embedding": list(nn.ModuleList(tables).parameters()),
            "encoder": list(self.encoder.parameters()),
            "decoder": list(self.decoder.parameters()),
        }
        seen = {id(parameter) for group in groups.values() for parameter in group}
        groups["output"] = [parameter for parameter in self.output_projection.parameters() if id(parameter) not in seen]
        counts = {name: sum(parameter.numel() for parameter in group) for name, group in groups.items()}
        assert sum(counts.values()) == sum(parameter.numel() for parameter in self.parameters())
        return counts

    def estimate_flops(self, source_length: int, target_length: int) -> int:
        """Floating-point operations of all matrix products, forward and backward, for one pair: 6 per weight and token, 12 per
        score and width."""
        c = self.config
        encoder_weights, decoder_weights = count_product_weights(self.encoder), count_product_weights(self.decoder)
        cross_weights = c.decoder_layers * 2 * c.embed_dim * c.embed_dim  # its keys and values run over the source
        weights = (
            (encoder_weights + cross_weights) * source_length
            + (decoder_weights - cross_weights) * target_length
            + c.vocab_size * c.embed_dim * target_length
        )
        scores = c.encoder_layers * source_length**2 + c.decoder_layers * target_length * (
            source_length + target_length
        )
        return 6 * weights + 12 * scores * c.embed_dim


def build_positions(config: VanillaModelConfig) -> LearnedPositions | SinusoidalPositions:
    """The position table that the config declares."""
    if config.positions == "learned":
        return LearnedPositions(config.embed_dim, config.max_length)
    return SinusoidalPositions(config.embed_dim, config.max_length, config.position_layout)
