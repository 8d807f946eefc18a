"""The bidirectional encoder of Devlin et al. 2019 (BERT), pre-trained to fill masked tokens, with its three heads.

* Token, position and token-type embeddings are added and normalised.
* Learned positions (512); or fixed sinusoids, added to tokens scaled by √embed_dim.
* Pre-norm blocks with a final norm; or post-norm without one, the published form (``pre_layernorm: false``).
* Layer norm with eps 1e-12, exact GELU, biases everywhere; every token sees every other.
* Masked tokens: dense layer, GELU, norm, then the token embeddings as output matrix, with a bias.
* Texts: dense layer with tanh on the first token, or mean or maximum over tokens, then a linear classifier. Tokens: a linear one.
* Dropout behind the embeddings, on every residual branch and before classifiers.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_architectures.architectures.bert.config import BertModelConfig
from transformer_architectures.architectures.bert.pooling import pool
from transformer_architectures.dropout import Dropout
from transformer_architectures.embedding import TokenEmbedding
from transformer_architectures.encoder import Encoder
from transformer_architectures.errors import UsageError
from transformer_architectures.feedforward import ACTIVATIONS
from transformer_architectures.linear import Linear, count_product_weights
from transformer_architectures.masking import AttentionMask, AttentionMaskLike
from transformer_architectures.positions import LearnedPositions, SinusoidalPositions

Ids = Int[Tensor, "batch length"]
Hidden = Float[Tensor, "batch length embed_dim"]


class Bert(nn.Module):
    """Tokens to hidden states.

    The norm of the embeddings stands in both forms of the block. A pre-norm stack could do without, but what it adds to would
    then begin as small as the tables are drawn (0.02), and the first blocks' outputs would drown the tokens.
    """

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
        initialize(self)

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
            position_ids: where each token stands in its sequence; None = from 0 on in every row, or segment.

        Raises:
            UsageError: a position is beyond the learned ones, or the model tells no token types apart.
        """
        mask = AttentionMask.of(attention_mask)
        if position_ids is None and mask.segments is not None:
            position_ids = mask.segments.positions(token_ids.device)[None]
        hidden_states = self.embedding_norm(self.embed(token_ids, token_type_ids, position_ids))
        return self.encoder(self.embedding_dropout(hidden_states), mask)  # type: ignore[no-any-return]

    def embed(self, token_ids: Ids, token_type_ids: Ids | None = None, position_ids: Ids | None = None) -> Hidden:
        """The sum of the embeddings, before norm and dropout; arguments as of `forward`."""
        if self.token_types is None and token_type_ids is not None:
            raise UsageError("this model tells no token types apart (token_types: 0): leave token_type_ids out")
        if position_ids is None:
            places = self.positions(token_ids.shape[1])
        else:
            places = self.positions.look_up(position_ids)
        if self.token_types is not None:
            # Without ids one row for all: small, so the tokens are added to but once.
            kinds = self.token_types[0] if token_type_ids is None else F.embedding(token_type_ids, self.token_types)
            places = places + kinds
        embedded: Tensor = self.token_embedding(token_ids) + places
        return embedded

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
        logits: Tensor = self.decoder(self.features(hidden_states))
        return logits

    def features(self, hidden_states: Float[Tensor, "rows embed_dim"]) -> Float[Tensor, "rows embed_dim"]:
        """What the decoder sees."""
        features: Tensor = self.norm(self.activation(self.transform(hidden_states)))
        return features


class BertForMaskedLM(nn.Module):
    """Tokens to logits of what should stand in the places of some of them; the output matrix is that of the embeddings."""

    def __init__(self, config: BertModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Bert(config)
        self.masked_lm_head = MaskedLMHead(config)
        initialize(self.masked_lm_head)
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
        logits: Tensor = self.masked_lm_head.decoder(features)
        return logits

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

    def __init__(self, config: BertModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Bert(config)
        self.pooler = Linear(config.embed_dim, config.embed_dim) if config.pooling == "cls" else None
        self.classifier_dropout = Dropout(config.dropout_before_classifier)
        self.sequence_head = Linear(config.embed_dim, config.num_labels) if config.num_labels else nn.Identity()
        initialize(nn.ModuleList(part for part in (self.pooler, self.sequence_head) if part is not None))

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
        return pooled if self.pooler is None else torch.tanh(self.pooler(pooled))

    def classify(self, features: Float[Tensor, "texts embed_dim"]) -> Float[Tensor, "texts labels"]:
        """Logits of pooled features; the features themselves where the model has no labels."""
        if not self.config.num_labels:
            return features
        logits: Tensor = self.sequence_head(self.classifier_dropout(features))
        return logits

    def parameter_groups(self) -> dict[str, int]:
        """Number of parameters by part."""
        return _with_head(self.backbone, self)

    def estimate_flops(self, length: int) -> int:
        """Floating-point operations of forward and backward for one sequence: see `Bert.estimate_flops`."""
        head = count_product_weights(self) - count_product_weights(self.backbone)
        return self.backbone.estimate_flops(length) + 6 * head


class BertForTokenClassification(nn.Module):
    """Tokens to one logit per label each."""

    def __init__(self, config: BertModelConfig) -> None:
        super().__init__()
        if not config.num_labels:
            raise UsageError("classification of tokens needs num_labels")
        self.config = config
        self.backbone = Bert(config)
        self.classifier_dropout = Dropout(config.dropout_before_classifier)
        self.token_head = Linear(config.embed_dim, config.num_labels)
        initialize(self.token_head)

    def forward(
        self,
        token_ids: Ids,
        attention_mask: AttentionMaskLike = None,
        token_type_ids: Ids | None = None,
        position_ids: Ids | None = None,
    ) -> Float[Tensor, "batch length labels"]:
        """Logits of every token; arguments as of `Bert`."""
        hidden_states: Tensor = self.backbone(token_ids, attention_mask, token_type_ids, position_ids)
        logits: Tensor = self.token_head(self.classifier_dropout(hidden_states))
        return logits

    def parameter_groups(self) -> dict[str, int]:
        """Number of parameters by part."""
        return _with_head(self.backbone, self)

    def estimate_flops(self, length: int) -> int:
        """Floating-point operations of forward and backward for one sequence: see `Bert.estimate_flops`."""
        return self.backbone.estimate_flops(length) + 6 * count_product_weights(self.token_head) * length


def build_positions(config: BertModelConfig) -> LearnedPositions | SinusoidalPositions:
    """The position table that the config declares."""
    if config.positions == "learned":
        return LearnedPositions(config.embed_dim, config.max_positions)
    return SinusoidalPositions(config.embed_dim, config.max_positions)


@torch.no_grad()
def initialize(model: nn.Module) -> None:
    """Draws all weights of a model.

    | weight                         | distribution                    | why                                                  |
    |--------------------------------|---------------------------------|------------------------------------------------------|
    | token embeddings               | normal, std 0.02                | logits start near zero: the loss, near ln(vocabulary) |
    | ... beside sinusoids           | normal, std ``embed_dim**-0.5`` | × √embed_dim gives size one, as sinusoids have       |
    | learned positions, token types | normal, std 0.02                | as large as tokens: the norm sees all                |
    | projections, heads             | normal, std 0.02                | branches start small: blocks begin near the identity |
    | biases                         | zero                            |                                                      |
    | norms                          | weight one, bias zero           | starts as pure normalisation                         |

    (The published code truncates its normal distributions at two standard deviations.)
    """
    for module in model.modules():
        match module:
            case TokenEmbedding():
                nn.init.normal_(module.weight, std=0.02 if module.scale == 1 else 1 / module.scale)
            case LearnedPositions():
                nn.init.normal_(module.weight, std=0.02)
            case Bert():
                if module.token_types is not None:
                    nn.init.normal_(module.token_types, std=0.02)
            case nn.Linear():
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            case nn.LayerNorm():
                module.reset_parameters()


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _with_head(backbone: Bert, model: nn.Module) -> dict[str, int]:
    return {**backbone.parameter_groups(), "head": _count(model) - _count(backbone)}


__all__ = [
    "Bert",
    "BertForMaskedLM",
    "BertForSeqClassification",
    "BertForTokenClassification",
    "MaskedLMHead",
    "build_positions",
    "initialize",
]
