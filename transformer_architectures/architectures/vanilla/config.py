"""What a vanilla Transformer is made of: the `Model:` section of its configs and the `model` part of its model folder."""

from typing import Any, Literal

from pydantic import AliasChoices, Field, model_validator

from transformer_architectures.attention import AttentionConfig
from transformer_architectures.config import OptionalPath, StrictModel
from transformer_architectures.feedforward import ActivationName, FeedForwardConfig
from transformer_architectures.normalization import NormConfig
from transformer_architectures.positions import SinusoidLayout
from transformer_architectures.sublayer import ResidualConfig
from transformer_architectures.transformer_blocks import TransformerBlockConfig


class VanillaModelConfig(StrictModel):
    """Sizes and choices. The defaults are those of this library's own models; the Marian row of the docs differs in many.

    ``num_layers`` sets encoder and decoder; ``num_encoder_layers`` / ``num_decoder_layers`` override it for one of them.
    ``pretrained`` names a folder whose weights, sizes and tokenizer a training starts from.
    """

    architecture: Literal["vanilla"] = "vanilla"
    vocab_size: int = Field(8000, ge=4, le=2**24)
    embed_dim: int = Field(256, ge=2, le=2**16)
    num_heads: int = Field(4, ge=1)
    ff_dim: int = Field(1024, ge=1, le=2**18)
    num_layers: int = Field(3, ge=1, le=1000, validation_alias=AliasChoices("num_layers", "num_stacks"))
    num_encoder_layers: int | None = Field(None, ge=1, le=1000)
    num_decoder_layers: int | None = Field(None, ge=1, le=1000)
    dropout: float = Field(0.1, ge=0, lt=1)
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    activation_dropout: float = Field(0.0, ge=0, lt=1)
    attention: Literal["dot_product", "additive"] = "dot_product"
    attention_backend: Literal["auto", "math", "sdpa"] = "auto"
    pre_layernorm: bool = True
    layer_norm_eps: float = Field(1e-5, gt=0)
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
    pretrained: OptionalPath = ""

    @model_validator(mode="after")
    def parts_fit_together(self) -> "VanillaModelConfig":
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} must be divisible by num_heads {self.num_heads}")
        for name in ("pad_id", "bos_id", "eos_id", "decoder_start_id"):
            if (token := getattr(self, name)) is not None and token >= self.vocab_size:
                raise ValueError(f"{name} {token} is no token of a vocabulary of {self.vocab_size}")
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

    def block(self, is_decoder: bool) -> TransformerBlockConfig:
        """The declaration of one encoder or decoder block."""
        return TransformerBlockConfig(
            embed_dim=self.embed_dim,
            attention=AttentionConfig(
                num_heads=self.num_heads,
                function=self.attention,
                backend=self.attention_backend,
                dropout=self.attention_dropout,
            ),
            feedforward=FeedForwardConfig(
                ff_dim=self.ff_dim, activation=self.activation, dropout=self.activation_dropout
            ),
            residual=ResidualConfig(
                pre_layernorm=self.pre_layernorm, dropout=self.dropout, norm=NormConfig(eps=self.layer_norm_eps)
            ),
            is_decoder=is_decoder,
        )

    def to_folder(self) -> dict[str, Any]:
        """What the model folder keeps: all but where the training started from (no path of a machine belongs there)."""
        return self.model_dump(mode="json", exclude={"pretrained"})
