"""What a BERT encoder is made of: the `Model:` section of its configs and the `model` part of its model folder."""

from typing import Any, Literal

from pydantic import AliasChoices, Field, model_validator

from transformer_architectures.attention import AttentionConfig
from transformer_architectures.config import OptionalPath, StrictModel
from transformer_architectures.feedforward import ActivationName, FeedForwardConfig
from transformer_architectures.normalization import NormConfig
from transformer_architectures.sublayer import ResidualConfig
from transformer_architectures.transformer_blocks import TransformerBlockConfig

Pooling = Literal["cls", "mean", "max"]


class BertModelConfig(StrictModel):
    """Sizes and choices. ``pre_layernorm: false`` is the published form.

    ``num_labels`` and ``pooling`` are for classification only. ``pretrained`` names a folder whose weights, sizes and tokenizer
    a training starts from.
    """

    architecture: Literal["bert"] = "bert"
    vocab_size: int = Field(8000, ge=5, le=2**24)
    embed_dim: int = Field(256, ge=2, le=2**16)
    num_heads: int = Field(4, ge=1)
    ff_dim: int = Field(1024, ge=1, le=2**18)
    num_layers: int = Field(4, ge=1, le=1000, validation_alias=AliasChoices("num_layers", "num_stacks"))
    dropout: float = Field(0.1, ge=0, lt=1)
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    activation_dropout: float = Field(0.0, ge=0, lt=1)
    classifier_dropout: float | None = Field(None, ge=0, lt=1, description="before a classifier; dropout unless given")
    attention_backend: Literal["auto", "math", "sdpa"] = "auto"
    pre_layernorm: bool = True
    layer_norm_eps: float = Field(1e-12, gt=0)
    activation: ActivationName = "gelu"
    positions: Literal["learned", "sinusoidal"] = "learned"
    max_positions: int = Field(
        512, ge=2, le=2**20, description="tokens of a window at most; sinusoidal positions go on behind it"
    )
    token_types: int = Field(2, ge=0, description="kinds of segments that a sequence may have; 0: none are told apart")
    pooling: Pooling = Field("cls", description="what a text's classifier sees of its hidden states")
    num_labels: int = Field(0, ge=0, description="0: no classifier, the model of a text gives its pooled features")
    pretrained: OptionalPath = ""

    @model_validator(mode="after")
    def parts_fit_together(self) -> "BertModelConfig":
        if self.pretrained:  # what is not given comes from there, not from the defaults
            return self
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} must be divisible by num_heads {self.num_heads}")
        if self.embed_dim % 2 and self.positions == "sinusoidal":
            raise ValueError(f"sinusoidal positions need an even embed_dim, not {self.embed_dim}")
        return self

    @property
    def norm(self) -> NormConfig:
        """Of all norms."""
        return NormConfig(eps=self.layer_norm_eps)

    @property
    def dropout_before_classifier(self) -> float:
        """Of what a classifier sees."""
        return self.dropout if self.classifier_dropout is None else self.classifier_dropout

    def block(self) -> TransformerBlockConfig:
        """The declaration of a block."""
        return TransformerBlockConfig(
            embed_dim=self.embed_dim,
            attention=AttentionConfig(
                num_heads=self.num_heads, backend=self.attention_backend, dropout=self.attention_dropout
            ),
            feedforward=FeedForwardConfig(
                ff_dim=self.ff_dim, activation=self.activation, dropout=self.activation_dropout
            ),
            residual=ResidualConfig(pre_layernorm=self.pre_layernorm, dropout=self.dropout, norm=self.norm),
        )

    def to_folder(self) -> dict[str, Any]:
        """What the model folder keeps: all but where the training started from (no path of a machine belongs there)."""
        return self.model_dump(mode="json", exclude={"pretrained"})
