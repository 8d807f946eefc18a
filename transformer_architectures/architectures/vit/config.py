"""What a Vision Transformer is made of: the `Model:` section of its configs and the `model` part of its model folder."""

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, field_validator, model_validator

from transformer_architectures.attention import AttentionConfig
from transformer_architectures.config import OptionalPath, StrictModel
from transformer_architectures.feedforward import ActivationName, FeedForwardConfig
from transformer_architectures.normalization import NormConfig
from transformer_architectures.positions import Grid
from transformer_architectures.sublayer import ResidualConfig
from transformer_architectures.transformer_blocks import TransformerBlockConfig

Pixels = Annotated[int, Field(ge=1)]


class VitModelConfig(StrictModel):
    """Sizes and choices. The defaults are ViT-Ti/16 of timm.

    A choice that is None follows from another one: there is a class token where ``pooling`` is ``cls``; learned positions
    count class token and registers, sinusoids do not; the norm stands behind the mean of ``pooling: mean``, otherwise at the
    encoder's end. ``pretrained`` names a folder whose weights and sizes a training starts from.
    """

    architecture: Literal["vit"] = "vit"
    image_size: Pixels | Annotated[tuple[Pixels, Pixels], Field(strict=False)] = Field(
        224, description="pixels of a side, or [height, width]"
    )
    patch_size: int = Field(16, ge=1, description="pixels of a side")
    num_channels: int = Field(3, ge=1)
    num_labels: int = Field(1000, ge=0, description="0: no head, the model gives the pooled features")
    embed_dim: int = Field(192, ge=2)
    num_heads: int = Field(3, ge=1)
    ff_dim: int = Field(768, ge=1)
    num_layers: int = Field(12, ge=1, le=1000, validation_alias=AliasChoices("num_layers", "num_stacks"))
    pooling: Literal["cls", "mean"] = "cls"
    class_token: bool | None = None
    num_registers: int = Field(0, ge=0, description="extra tokens without a meaning of their own")
    positions: Literal["learned", "sincos"] = "learned"
    prefix_positions: bool | None = Field(None, description="whether class token and registers have learned positions")
    norm_after_pooling: bool | None = None
    pooler: bool = Field(False, description="a dense layer with tanh between pooling and head")
    dropout: float = Field(0.0, ge=0, lt=1)
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    activation_dropout: float = Field(0.0, ge=0, lt=1)
    stochastic_depth: float = Field(
        0.0, ge=0, lt=1, description="share of branches dropped at the last block; 0 at the first"
    )
    layer_norm_eps: float = Field(1e-6, gt=0)
    activation: ActivationName = "gelu"
    attention_backend: Literal["auto", "math", "sdpa"] = "auto"
    pretrained: OptionalPath = ""

    @field_validator("image_size")
    @classmethod
    def squares_are_one_number(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        return value[0] if isinstance(value, tuple) and value[0] == value[1] else value

    @model_validator(mode="after")
    def parts_fit_together(self) -> "VitModelConfig":
        if self.pretrained:  # what is not given comes from there, not from the defaults
            return self
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} must be divisible by num_heads {self.num_heads}")
        if self.positions == "sincos" and (self.embed_dim % 4 or self.embed_dim < 8):
            raise ValueError(f"positions: sincos needs an embed_dim of 8, 12, 16, ..., not {self.embed_dim}")
        if self.positions == "sincos" and self.prefix_positions:
            raise ValueError("prefix_positions must be learned; positions: sincos has none")
        if self.pooling == "cls" and self.class_token is False:
            raise ValueError("pooling: cls needs the class token")
        for side, pixels in zip(("height", "width"), self.height_and_width, strict=True):
            if pixels % self.patch_size:
                raise ValueError(f"image_size: {side} {pixels} must be divisible by patch_size {self.patch_size}")
        return self

    @property
    def height_and_width(self) -> tuple[int, int]:
        """Of a picture, in pixels."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @property
    def grid(self) -> Grid:
        """Rows and columns of patches."""
        height, width = self.height_and_width
        return height // self.patch_size, width // self.patch_size

    @property
    def has_class_token(self) -> bool:
        """Whether the first token is a class token."""
        return self.pooling == "cls" if self.class_token is None else self.class_token

    @property
    def num_prefix(self) -> int:
        """Tokens that stand before the patches: class token, then registers."""
        return int(self.has_class_token) + self.num_registers

    @property
    def has_prefix_positions(self) -> bool:
        """Whether they have positions."""
        return self.positions == "learned" and self.prefix_positions is not False

    @property
    def num_prefix_positions(self) -> int:
        """How many of them have a position."""
        return self.num_prefix if self.has_prefix_positions else 0

    @property
    def norms_after_pooling(self) -> bool:
        """Whether the last norm is the head's (timm: ``fc_norm``), not the encoder's."""
        return self.pooling == "mean" if self.norm_after_pooling is None else self.norm_after_pooling

    @property
    def norm(self) -> NormConfig:
        """Of all norms."""
        return NormConfig(eps=self.layer_norm_eps)

    def blocks(self) -> list[TransformerBlockConfig]:
        """The declaration of each block."""
        block = TransformerBlockConfig(
            embed_dim=self.embed_dim,
            attention=AttentionConfig(
                num_heads=self.num_heads, backend=self.attention_backend, dropout=self.attention_dropout
            ),
            feedforward=FeedForwardConfig(
                ff_dim=self.ff_dim, activation=self.activation, dropout=self.activation_dropout
            ),
            residual=ResidualConfig(dropout=self.dropout, norm=self.norm),
        )
        return block.with_stochastic_depth(self.stochastic_depth, self.num_layers)

    def to_folder(self) -> dict[str, Any]:
        """What the model folder keeps: all but where the training started from (no path of a machine belongs there)."""
        return self.model_dump(mode="json", exclude={"pretrained"})
