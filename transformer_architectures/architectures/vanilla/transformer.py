"""The encoder-decoder Transformer of Vaswani et al. 2017, as this library trains it.

* Pre-norm blocks (layer norm, eps 1e-5) with a final norm on both stacks; post-norm by ``pre_layernorm: false``.
* Feed-forward with ReLU, biases everywhere.
* Sinusoidal positions, interleaved, added to embeddings scaled by √embed_dim.
* One matrix for source embedding, target embedding and output projection.
* No dropout on attention weights unless asked for; dropout on embeddings and on every residual branch.
"""

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from transformer_architectures.architectures.vanilla.config import VanillaModelConfig
from transformer_architectures.attention import AdditiveAttention, FusedLinear
from transformer_architectures.decoder import Decoder
from transformer_architectures.decoding_state import DecodingState
from transformer_architectures.dropout import Dropout
from transformer_architectures.embedding import TokenEmbedding
from transformer_architectures.encoder import Encoder
from transformer_architectures.linear import Linear, count_product_weights
from transformer_architectures.masking import AttentionMask
from transformer_architectures.positions import LearnedPositions, SinusoidalPositions

SourceMask = Shaped[Tensor, "batch source"] | None


class Transformer(nn.Module):
    """Encoder-decoder model: source tokens and target prefix to logits of the next target token."""

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
        initialize(self)
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
        return self.encoder(self.embedding_dropout(hidden_states), source_mask)  # type: ignore[no-any-return]

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
        decoded: Tensor = self.decoder(self.embedding_dropout(hidden_states), causal, encoder_output, source_mask)
        return decoded

    def output_logits(self, hidden_states: Float[Tensor, "*batch embed_dim"]) -> Float[Tensor, "*batch vocab"]:
        """The decoder's output projected to the vocabulary."""
        logits: Tensor = self.output_projection(hidden_states)
        return logits

    def start_decoding(
        self,
        source_ids: Int[Tensor, "sentences source"],
        source_mask: Shaped[Tensor, "sentences source"] | None,
        num_beams: int,
        max_length: int,
    ) -> DecodingState:
        """Encodes the sources and returns the state that `generation` searches with; ``max_length`` sizes its caches."""

        def embed(tokens: Tensor, position: int) -> Tensor:
            hidden_states: Tensor = self.target_embedding(tokens) + self.target_positions(1, position)
            return hidden_states

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
        rendered = AttentionMask.of(attention_mask).with_causality().render(length, length, attention_mask.device)
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


@torch.no_grad()
def initialize(model: nn.Module) -> None:
    """Draws all weights of a model.

    | weight                  | distribution                     | why                                                        |
    |-------------------------|----------------------------------|------------------------------------------------------------|
    | token embeddings        | normal, std ``embed_dim**-0.5``  | × √embed_dim gives size one in; as output, logits near one |
    | learned positions       | normal, std 0.02                 | starts small beside the tokens (BERT)                      |
    | projections             | Xavier uniform, each on its own  | keeps variance; fused q, k, v count as three matrices      |
    | additive score vector   | normal, std ``head_dim**-0.5``   | scores near one                                            |
    | biases                  | zero                             |                                                            |
    | norms                   | weight one, bias zero            | starts as pure normalisation                               |
    """
    for module in model.modules():
        match module:
            case TokenEmbedding():
                nn.init.normal_(module.weight, std=module.weight.shape[1] ** -0.5)
            case LearnedPositions():
                nn.init.normal_(module.weight, std=0.02)
            case FusedLinear():
                for part in module.parts(module.weight).values():
                    nn.init.xavier_uniform_(part)
            case nn.Linear():
                nn.init.xavier_uniform_(module.weight)
            case AdditiveAttention():
                nn.init.normal_(module.score_vector, std=module.score_vector.shape[1] ** -0.5)
            case nn.LayerNorm():
                module.reset_parameters()
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
