"""The bidirectional encoder of Devlin et al. 2019 (BERT), pre-trained to fill masked tokens, with its three heads.

* Token, position and token-type embeddings are added and normalised.
* Learned positions (512), of which a family may leave the first rows to padding; or fixed sinusoids, added to tokens scaled by √embed_dim.
* Pre-norm blocks with a final norm; or post-norm without one, the published form (``pre_layernorm: false``).
* Layer norm with eps 1e-12, exact GELU, biases everywhere; every token sees every other.
* Masked tokens: dense layer, GELU, norm, then the token embeddings as output matrix, with a bias.
* Texts: dense layer with tanh (or ReLU) on the first token, or mean or maximum over tokens, then a linear classifier. Tokens: a linear one.
* Dropout behind the embeddings, on every residual branch and before classifiers.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import AliasChoices, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_architectures.architectures.bert.pooling import Pooling, pool
from transformer_architectures.architectures.model_config import TransformerModelConfig
from transformer_architectures.embedding import TokenEmbedding
from transformer_architectures.encoder import Encoder
from transformer_architectures.errors import UsageError
from transformer_architectures.feedforward import ACTIVATIONS
from transformer_architectures.kernels.dropout import Dropout
from transformer_architectures.kernels.linear import Linear, count_product_weights
from transformer_architectures.masking import AttentionMask, AttentionMaskLike
from transformer_architectures.positions import LearnedPositions, SinusoidalPositions
from transformer_architectures.utils.initialization import InitializationTable, initialize, normal, ones, zeros

Ids = Int[Tensor, "batch length"]
Hidden = Float[Tensor, "batch length embed_dim"]


class BertModelConfig(TransformerModelConfig):
    """Sizes and choices. ``pre_layernorm: false`` is the published form. ``num_labels`` and ``pooling`` are for classification only."""

    chosen_anew = TransformerModelConfig.chosen_anew | {"classifier_dropout", "pooling", "num_labels"}
    classifiers = frozenset({"sequence_head", "token_head"})
    newer_keys = TransformerModelConfig.newer_keys | {"position_offset", "pooler_activation", "dropout_before_pooler"}

    architecture: Literal["bert"] = "bert"
    vocab_size: int = Field(8000, ge=5, le=2**24)
    num_layers: int = Field(4, ge=1, le=1000, validation_alias=AliasChoices("num_layers", "num_stacks"))
    classifier_dropout: float | None = Field(None, ge=0, lt=1, description="before a classifier; dropout unless given")
    layer_norm_eps: float = Field(1e-12, gt=0)
    positions: Literal["learned", "sinusoidal"] = "learned"
    max_positions: int = Field(
        512, ge=2, le=2**20, description="tokens of a window at most; sinusoidal positions have no limit"
    )
    position_offset: int = Field(
        0,
        ge=0,
        description="row of the first learned position; unless 0, the row before is that of padding (its token's number)",
    )
    token_types: int = Field(2, ge=0, description="number of segment embeddings; 0: none")
    pooling: Pooling = Field("cls", description="what a text's classifier sees of its hidden states")
    pooler_activation: Literal["tanh", "relu"] = Field("tanh", description="behind the dense layer of pooling: cls")
    dropout_before_pooler: bool = Field(False, description="that of the classifier before this layer, too")
    num_labels: int = Field(0, ge=0, description="0: no classifier, the model of a text gives its pooled features")

    @model_validator(mode="after")
    def parts_fit_together(self) -> "BertModelConfig":
        if not self.pretrained and self.embed_dim % 2 and self.positions == "sinusoidal":
            raise ValueError(f"sinusoidal positions need an even embed_dim, not {self.embed_dim}")
        if not self.pretrained and self.position_offset and self.positions == "sinusoidal":
            raise ValueError("position_offset belongs to positions: learned")
        return self

    @property
    def dropout_before_classifier(self) -> float:
        """Of what a classifier sees."""
        return self.dropout if self.classifier_dropout is None else self.classifier_dropout


# What each class of module starts with, and why. (The published code truncates its normal distributions at two standard deviations.)
INITIALIZATION: InitializationTable = {
    # Logits start near zero. Beside sinusoids, times √embed_dim it has size one, as they have.
    TokenEmbedding: {"weight": normal(lambda embedding: 0.02 if embedding.scale == 1 else 1 / embedding.scale)},
    # As large as tokens: the norm sees all.
    LearnedPositions: {"weight": normal(0.02).without_decay()},
    "Bert": {"token_types": normal(0.02).without_decay()},
    # Branches start small: blocks begin near the identity.
    nn.Linear: {"weight": normal(0.02), "bias": zeros},
    # Starts as pure normalisation.
    nn.LayerNorm: {"weight": ones, "bias": zeros},
}


class Bert(nn.Module):
    """Tokens to hidden states.

    Both forms of the block have the norm of the embeddings. A pre-norm stack could do without, but what it adds to would
    then begin as small as the tables are drawn (0.02), and the first blocks' outputs would drown the tokens.
    """

    initialization = INITIALIZATION

    def __init__(self, config: BertModelConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = TokenEmbedding(
            config.vocab_size, config.embed_dim, scaled=config.positions == "sinusoidal"
        )
        self.positions = build_positions(config)
        self.token_types = (
            nn.Parameter(torch.empty(config.token_types, config.embed_dim)) if config.token_types else None
        )
        self.embedding_norm = config.norm.build(config.embed_dim)
        self.embedding_dropout = Dropout(config.dropout)
        self.encoder = Encoder(config.block(), config.num_layers)
        initialize(self, INITIALIZATION)

    def forward(
        self,
        token_ids: Ids,
        attention_mask: AttentionMaskLike = None,
        token_type_ids: Ids | None = None,
        position_ids: Ids | None = None,
    ) -> Hidden:
        """Hidden states after the last block (and the final norm of a pre-norm stack).

        Args:
            attention_mask: see `masking` (1 = real token); None = all are. One with segments makes ``token_ids`` packed rows:
                sequences one behind the other, shape ``(1, rows)``.
            token_type_ids: which part of its sequence each token belongs to; None = all to the first.
            position_ids: the position of each token in its sequence; None = from 0 on in every row, or segment.

        Raises:
            UsageError: a position is beyond the learned ones, or the model tells no token types apart.
        """
        mask = AttentionMask.from_any(attention_mask)
        if position_ids is None and mask.segments is not None:
            position_ids = mask.segments.positions(token_ids.device)[None]
        hidden_states = self.embedding_norm(self.embed(token_ids, token_type_ids, position_ids))
        return self.encoder(self.embedding_dropout(hidden_states), mask)

    def embed(self, token_ids: Ids, token_type_ids: Ids | None = None, position_ids: Ids | None = None) -> Hidden:
        """The sum of the embeddings, before norm and dropout; arguments as of `forward`."""
        if self.token_types is None and token_type_ids is not None:
            raise UsageError("this model tells no token types apart (token_types: 0): leave token_type_ids out")
        offset = self.config.position_offset
        if position_ids is not None:
            places = self.positions.look_up(position_ids + offset)
        elif not offset:
            places = self.positions(token_ids.shape[1])
        else:
            is_real = token_ids != offset - 1
            places = self.positions.look_up(is_real.cumsum(dim=1) * is_real + (offset - 1))
        if self.token_types is not None:
            # Without ids one row for all: small, so the tokens are added to but once.
            kinds = self.token_types[0] if token_type_ids is None else F.embedding(token_type_ids, self.token_types)
            places = places + kinds
        return self.token_embedding(token_ids) + places

    def parameter_groups(self) -> dict[str, int]:
        """Number of parameters by part."""
        encoder = _count(self.encoder)
        return {"embedding": _count(self) - encoder, "encoder": encoder}

    def estimate_flops(self, length: int) -> int:
        """Floating-point operations of all matrix products, forward and backward, for one sequence: 6 per weight and token, 12
        per score and width."""
        c = self.config
        return 6 * count_product_weights(self.encoder) * length + 12 * c.num_layers * length**2 * c.embed_dim


class MaskedLMHead(nn.Module):
    """Hidden states to logits of the token that stood there."""

    def __init__(self, config: BertModelConfig) -> None:
        super().__init__()
        self.transform = Linear(config.embed_dim, config.embed_dim)
        self.activation = ACTIVATIONS[config.activation]
        self.norm = config.norm.build(config.embed_dim)
        self.decoder = Linear(config.embed_dim, config.vocab_size)

    def forward(self, hidden_states: Float[Tensor, "rows embed_dim"]) -> Float[Tensor, "rows vocab"]:
        return self.decoder(self.features(hidden_states))

    def features(self, hidden_states: Float[Tensor, "rows embed_dim"]) -> Float[Tensor, "rows embed_dim"]:
        """What the decoder sees."""
        return self.norm(self.activation(self.transform(hidden_states)))


class BertForMaskedLM(nn.Module):
    """Tokens to logits of the tokens that were masked; the output matrix is that of the embeddings."""

    initialization = INITIALIZATION

    def __init__(self, config: BertModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Bert(config)
        self.masked_lm_head = MaskedLMHead(config)
        initialize(self.masked_lm_head, INITIALIZATION)
        self.tie_weights()

    def forward(
        self,
        token_ids: Ids,
        attention_mask: AttentionMaskLike = None,
        token_type_ids: Ids | None = None,
        position_ids: Ids | None = None,
        labeled_positions: Int[Tensor, "rows"] | None = None,
    ) -> Float[Tensor, "rows vocab"]:
        """Logits, a row for each labelled position.

        Args:
            labeled_positions: places in the flattened batch (row × length + column); None = all, one after the other.

        The others are those of `Bert`.
        """
        features = self.forward_features(token_ids, attention_mask, token_type_ids, position_ids, labeled_positions)
        return self.output_projection(features)

    def forward_features(
        self,
        token_ids: Ids,
        attention_mask: AttentionMaskLike = None,
        token_type_ids: Ids | None = None,
        position_ids: Ids | None = None,
        labeled_positions: Int[Tensor, "rows"] | None = None,
    ) -> Float[Tensor, "rows embed_dim"]:
        """What the decoder (``masked_lm_head.decoder``) sees: for a loss that never holds all logits; arguments as of `forward`."""
        hidden_states: Tensor = self.backbone(token_ids, attention_mask, token_type_ids, position_ids).flatten(0, 1)
        if labeled_positions is not None:
            hidden_states = hidden_states.index_select(0, labeled_positions)
        return self.masked_lm_head.features(hidden_states)

    @property
    def output_projection(self) -> Linear:
        """From what `forward_features` gives to the vocabulary."""
        return self.masked_lm_head.decoder

    def tie_weights(self) -> None:
        """One matrix for token embeddings and output (Press & Wolf 2017)."""
        self.masked_lm_head.decoder.weight = self.backbone.token_embedding.weight

    def parameter_groups(self) -> dict[str, int]:
        """Number of parameters by part; the tied matrix counts once, as embedding."""
        return _with_head(self.backbone, self)

    def estimate_flops(self, length: int, num_labels: int) -> int:
        """Floating-point operations of forward and backward for one sequence of which ``num_labels`` tokens are to be filled in."""
        head = count_product_weights(self.masked_lm_head)  # the tied matrix included: it multiplies here
        return self.backbone.estimate_flops(length) + 6 * head * num_labels


class BertForSeqClassification(nn.Module):
    """Texts to one logit per label; whether labels exclude each other is the loss's business."""

    initialization = INITIALIZATION

    def __init__(self, config: BertModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Bert(config)
        self.pooler = Linear(config.embed_dim, config.embed_dim) if config.pooling == "cls" else None
        self.classifier_dropout = Dropout(config.dropout_before_classifier)
        self.sequence_head = Linear(config.embed_dim, config.num_labels) if config.num_labels else nn.Identity()
        initialize(
            nn.ModuleList(part for part in (self.pooler, self.sequence_head) if part is not None), INITIALIZATION
        )

    def forward(
        self,
        token_ids: Ids,
        attention_mask: AttentionMaskLike = None,
        token_type_ids: Ids | None = None,
        position_ids: Ids | None = None,
    ) -> Float[Tensor, "sequences labels"]:
        """Logits of each sequence, or its pooled features where the model has no labels; arguments as of `Bert`."""
        return self.classify(self.forward_features(token_ids, attention_mask, token_type_ids, position_ids))

    def forward_features(
        self,
        token_ids: Ids,
        attention_mask: AttentionMaskLike = None,
        token_type_ids: Ids | None = None,
        position_ids: Ids | None = None,
    ) -> Float[Tensor, "sequences embed_dim"]:
        """One vector per sequence, packed ones in the order of their segments; those of a long text's windows may be averaged before they are classified.

        Raises:
            UsageError: a mean or maximum is to be taken, and the mask does not say over which tokens.
        """
        hidden_states: Tensor = self.backbone(token_ids, attention_mask, token_type_ids, position_ids)
        pooled = pool(hidden_states, self.config.pooling, attention_mask)
        if self.pooler is None:
            return pooled
        if self.config.dropout_before_pooler:
            pooled = self.classifier_dropout(pooled)
        pooled = self.pooler(pooled)
        return pooled.tanh() if self.config.pooler_activation == "tanh" else pooled.relu()

    def classify(self, features: Float[Tensor, "texts embed_dim"]) -> Float[Tensor, "texts labels"]:
        """Logits of pooled features; the features themselves where the model has no labels."""
        if not self.config.num_labels:
            return features
        return self.sequence_head(self.classifier_dropout(features))

    def parameter_groups(self) -> dict[str, int]:
        """Number of parameters by part."""
        return _with_head(self.backbone, self)

    def estimate_flops(self, length: int) -> int:
        """Floating-point operations of forward and backward for one sequence: see `Bert.estimate_flops`."""
        head = count_product_weights(self) - count_product_weights(self.backbone)
        return self.backbone.estimate_flops(length) + 6 * head


class BertForTokenClassification(nn.Module):
    """Tokens to one logit per label each."""

    initialization = INITIALIZATION

    def __init__(self, config: BertModelConfig) -> None:
        super().__init__()
        if not config.num_labels:
            raise UsageError("classification of tokens needs num_labels")
        self.config = config
        self.backbone = Bert(config)
        self.classifier_dropout = Dropout(config.dropout_before_classifier)
        self.token_head = Linear(config.embed_dim, config.num_labels)
        initialize(self.token_head, INITIALIZATION)

    def forward(
        self,
        token_ids: Ids,
        attention_mask: AttentionMaskLike = None,
        token_type_ids: Ids | None = None,
        position_ids: Ids | None = None,
        labeled_positions: Int[Tensor, "rows"] | None = None,
    ) -> Float[Tensor, "batch length labels"] | Float[Tensor, "rows labels"]:
        """Logits of every token, or of those at ``labeled_positions`` of the flattened batch; the other arguments are those of `Bert`."""
        hidden_states: Tensor = self.backbone(token_ids, attention_mask, token_type_ids, position_ids)
        if labeled_positions is not None:
            hidden_states = hidden_states.flatten(0, 1).index_select(0, labeled_positions)
        return self.token_head(self.classifier_dropout(hidden_states))

    def parameter_groups(self) -> dict[str, int]:
        """Number of parameters by part."""
        return _with_head(self.backbone, self)

    def estimate_flops(self, length: int) -> int:
        """Floating-point operations of forward and backward for one sequence: see `Bert.estimate_flops`."""
        return self.backbone.estimate_flops(length) + 6 * count_product_weights(self.token_head) * length


def build_positions(config: BertModelConfig) -> LearnedPositions | SinusoidalPositions:
    """The position table that the config declares."""
    if config.positions == "learned":
        return LearnedPositions(config.embed_dim, config.max_positions + config.position_offset)
    return SinusoidalPositions(config.embed_dim, config.max_positions)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _with_head(backbone: Bert, model: nn.Module) -> dict[str, int]:
    return {**backbone.parameter_groups(), "head": _count(model) - _count(backbone)}
