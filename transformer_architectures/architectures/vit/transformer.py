"""The Vision Transformer of Dosovitskiy et al. 2021, as timm and `transformers` publish it.

* Patches of 16 × 16 pixels, projected by one matrix: a convolution whose stride is its width.
* A class token, or the mean over the patches; registers where asked for (Darcet et al. 2024).
* Learned positions, also for class token and registers; or fixed 2-D sinusoids, for patches only.
* Pre-norm blocks (layer norm, eps 1e-6; 1e-12 in `transformers`), exact GELU, biases everywhere.
* The final norm is at the encoder's end; with mean pooling, as in timm, after the mean.
* A linear head. No dropout unless asked for; stochastic depth grows from the first block to the last.
"""

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import AliasChoices, Field, field_validator, model_validator
from torch import Tensor, nn

from transformer_architectures.architectures.model_config import TransformerModelConfig
from transformer_architectures.encoder import Encoder
from transformer_architectures.errors import UsageError
from transformer_architectures.kernels.dropout import Dropout
from transformer_architectures.kernels.linear import Linear, count_product_weights, linear
from transformer_architectures.positions import Grid, GridPositions, LearnedGridPositions, SinusoidalGridPositions
from transformer_architectures.transformer_blocks import TransformerBlockConfig
from transformer_architectures.utils.initialization import InitializationTable, initialize, normal, ones, zeros

Images = Float[Tensor, "batch channels height width"]


Pixels = Annotated[int, Field(ge=1)]


class VitModelConfig(TransformerModelConfig):
    """Sizes and choices. The defaults are ViT-Ti/16 of timm; blocks are pre-norm.

    A choice that is None follows from another one: there is a class token where ``pooling`` is ``cls``; learned positions
    count class token and registers, sinusoids do not; the norm is after the mean of ``pooling: mean``, otherwise at the
    encoder's end. ``pretrained`` names a folder whose weights and sizes a training starts from.
    """

    chosen_anew = TransformerModelConfig.chosen_anew | {"stochastic_depth", "image_size", "num_labels"}
    same_as = {
        "class_token": "has_class_token",
        "norm_after_pooling": "norms_after_pooling",
        "prefix_positions": "has_prefix_positions",
    }
    classifiers = frozenset({"head"})

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
    stochastic_depth: float = Field(
        0.0, ge=0, lt=1, description="share of branches dropped at the last block; 0 at the first"
    )
    layer_norm_eps: float = Field(1e-6, gt=0)

    @field_validator("image_size")
    @classmethod
    def squares_are_one_number(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        return value[0] if isinstance(value, tuple) and value[0] == value[1] else value

    @model_validator(mode="after")
    def parts_fit_together(self) -> "VitModelConfig":
        if self.pretrained:  # what is not given comes from there, not from the defaults
            return self
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
        """Of an image, in pixels."""
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
        """Tokens before the patches: class token, then registers."""
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

    def blocks(self) -> list[TransformerBlockConfig]:
        """The declaration of each block."""
        return self.block().with_stochastic_depth(self.stochastic_depth, self.num_layers)


class PatchEmbedding(nn.Module):
    """Images to one vector per patch, row by row.

    The weight has the shape of the convolution that this is. It is computed as a matrix product, always: on a CPU this is
    mostly faster (`benchmarks/results/patch_embedding.md`), and on a GPU cuDNN's convolutions would not be true fp32.
    """

    def __init__(self, num_channels: int, embed_dim: int, patch_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(embed_dim, num_channels, patch_size, patch_size))
        self.bias = nn.Parameter(torch.empty(embed_dim))

    def forward(self, images: Images) -> Float[Tensor, "batch patches embed_dim"]:
        batch, channels, height, width = images.shape
        size = self.weight.shape[-1]
        rows, columns = height // size, width // size
        pixels = images.view(batch, channels, rows, size, columns, size).permute(0, 2, 4, 1, 3, 5)
        patches = pixels.reshape(batch, rows * columns, channels * size * size)
        return linear(patches, self.weight.flatten(1), self.bias)


# What each class of module starts with, and why. As in timm, but for the patches. (timm truncates its normal distributions at ±2, a
# hundred standard deviations away.)
INITIALIZATION: InitializationTable = {
    # Keeps the variance of normalised pixels (LeCun 1998; the paper's code).
    PatchEmbedding: {"weight": normal(lambda patches: patches.weight[0].numel() ** -0.5), "bias": zeros},
    # Starts small beside the patches.
    LearnedGridPositions: {"weight": normal(0.02).without_decay()},
    # Class token and registers: all they start with are their positions.
    "VisionTransformer": {"class_token": normal(1e-6).without_decay(), "registers": normal(1e-6).without_decay()},
    # Branches start small: blocks begin near the identity.
    nn.Linear: {"weight": normal(0.02), "bias": zeros},
    # Starts as pure normalisation.
    nn.LayerNorm: {"weight": ones, "bias": zeros},
}


class VisionTransformer(nn.Module):
    """Images to hidden states of class token, registers and patches."""

    initialization = INITIALIZATION

    def __init__(self, config: VitModelConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = PatchEmbedding(config.num_channels, config.embed_dim, config.patch_size)
        self.class_token = nn.Parameter(torch.empty(1, config.embed_dim)) if config.has_class_token else None
        self.registers = (
            nn.Parameter(torch.empty(config.num_registers, config.embed_dim)) if config.num_registers else None
        )
        self.positions = build_positions(config)
        self.embedding_dropout = Dropout(config.dropout)
        self.encoder = Encoder(config.blocks(), has_final_norm=not config.norms_after_pooling)
        initialize(self, INITIALIZATION)

    def forward(self, images: Images, num_queries: int | None = None) -> Float[Tensor, "batch tokens embed_dim"]:
        """Hidden states after the final norm (without a norm where `norm_after_pooling` leaves that to the head).

        Args:
            num_queries: only the first so many tokens are wanted; the last block computes no others.

        Raises:
            UsageError: the images are not of the declared size.
        """
        self._check(images)
        patches, positions = self.patch_embedding(images), self.positions()
        num_prefix, num_prefix_positions = self.config.num_prefix, self.config.num_prefix_positions
        hidden_states = patches + positions[num_prefix_positions:]
        if num_prefix:
            prefix = torch.cat([tokens for tokens in (self.class_token, self.registers) if tokens is not None])
            if num_prefix_positions:
                prefix = prefix + positions[:num_prefix]
            hidden_states = torch.cat([prefix.expand(len(images), -1, -1), hidden_states], dim=1)
        hidden_states = self.embedding_dropout(hidden_states)
        return self.encoder(hidden_states, num_queries=num_queries)

    def convert_image_size(self, height: int, width: int) -> None:
        """Fits the model to images of another size or aspect, in place, by resizing its table of positions.

        A checkpoint of it then fits a model of the new `config` only.

        Raises:
            UsageError: the patches do not divide the size.
        """
        size = self.config.patch_size
        if height < size or width < size or height % size or width % size:
            raise UsageError(f"images of {height} × {width} pixels cannot be cut into patches of {size} × {size}")
        image_size = height if height == width else (height, width)
        self.config = self.config.model_copy(update={"image_size": image_size})
        self.positions.resize(self.config.grid)

    def parameter_groups(self) -> dict[str, int]:
        """Number of parameters by part."""
        encoder = sum(parameter.numel() for parameter in self.encoder.parameters())
        return {"embedding": sum(parameter.numel() for parameter in self.parameters()) - encoder, "encoder": encoder}

    def estimate_flops(self, num_queries: int | None = None) -> int:
        """Floating-point operations of all matrix products, forward and backward, for one image: 6 per weight and token, 12 per
        score and width.

        Images need no gradient, so patches cost 4 per weight. With ``num_queries`` the last block has fewer queries.
        """
        c = self.config
        num_patches = c.grid[0] * c.grid[1]
        num_tokens = c.num_prefix + num_patches
        encoder_weights = count_product_weights(self.encoder)
        patches = 4 * self.patch_embedding.weight.numel() * num_patches
        not_wanted = 0 if num_queries is None else num_tokens - num_queries
        saved = 6 * (c.embed_dim**2 + 2 * c.embed_dim * c.ff_dim) + 12 * num_tokens * c.embed_dim
        all_tokens = 6 * encoder_weights * num_tokens + 12 * c.num_layers * num_tokens**2 * c.embed_dim
        return patches + all_tokens - saved * not_wanted

    def _check(self, images: Tensor) -> None:
        c = self.config
        if tuple(images.shape[2:]) != c.height_and_width:
            (height, width), (own_height, own_width) = images.shape[2:], c.height_and_width
            raise UsageError(
                f"the images have {height} × {width} pixels (height × width), but the model is for {own_height} × {own_width}: "
                f"resize them, or fit the model to them with convert_image_size({height}, {width})"
            )
        if images.shape[1] != c.num_channels:
            raise UsageError(f"the images have {images.shape[1]} channels, but the model is for {c.num_channels}")


class VisionTransformerForImageClassification(nn.Module):
    """Images to one logit per label; whether labels exclude each other is the loss's business."""

    initialization = INITIALIZATION

    def __init__(self, config: VitModelConfig) -> None:
        super().__init__()
        self.backbone = VisionTransformer(config)
        self.norm = config.norm.build(config.embed_dim) if config.norms_after_pooling else nn.Identity()
        self.pooler = Linear(config.embed_dim, config.embed_dim) if config.pooler else None
        self.head = Linear(config.embed_dim, config.num_labels) if config.num_labels else nn.Identity()
        initialize(
            nn.ModuleList(part for part in (self.norm, self.pooler, self.head) if part is not None), INITIALIZATION
        )

    @property
    def config(self) -> VitModelConfig:
        """The declaration; `convert_image_size` changes it."""
        return self.backbone.config

    def forward(self, images: Images) -> Float[Tensor, "batch labels"]:
        """Logits, or the pooled features of a model without labels.

        Raises:
            UsageError: the images are not of the declared size.
        """
        return self.head(self.forward_features(images))

    def forward_features(self, images: Images) -> Float[Tensor, "batch embed_dim"]:
        """One vector per image: what the head sees."""
        if self.config.pooling == "cls":
            pooled: Tensor = self.backbone(images, num_queries=1)[:, 0]
        else:
            pooled = self.backbone(images)[:, self.config.num_prefix :].mean(dim=1)
        features: Tensor = self.norm(pooled)
        return features if self.pooler is None else torch.tanh(self.pooler(features))

    def convert_image_size(self, height: int, width: int) -> None:
        """Fits the model to images of another size or aspect: see `VisionTransformer.convert_image_size`."""
        self.backbone.convert_image_size(height, width)

    def parameter_groups(self) -> dict[str, int]:
        """Number of parameters by part."""
        groups = self.backbone.parameter_groups()
        total = sum(parameter.numel() for parameter in self.parameters())
        return groups | {"head": total - sum(groups.values())}

    def layers_above(self, parameter: str) -> int:
        """How many layers are above the one that a parameter belongs to: none above the head and the last norm, all blocks and
        the head above the embedding."""
        part, _, rest = parameter.removeprefix("backbone.").partition(".")
        if part in ("norm", "pooler", "head") or rest.startswith("final_norm."):
            return 0
        if part != "encoder":
            return self.config.num_layers + 1
        return self.config.num_layers - int(rest.split(".")[1])

    def estimate_flops(self) -> int:
        """Floating-point operations of forward and backward for one image: see `VisionTransformer.estimate_flops`."""
        num_queries = 1 if self.config.pooling == "cls" else None
        head = count_product_weights(self) - count_product_weights(self.backbone)
        return self.backbone.estimate_flops(num_queries) + 6 * head


def build_positions(config: VitModelConfig) -> GridPositions:
    """The position table that the config declares."""
    if config.positions == "learned":
        return LearnedGridPositions(config.embed_dim, config.grid, config.num_prefix_positions)
    return SinusoidalGridPositions(config.embed_dim, config.grid)
