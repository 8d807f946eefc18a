"""The Vision Transformer of Dosovitskiy et al. 2021, as timm and `transformers` publish it.

* Patches of 16 × 16 pixels, projected by one matrix: a convolution whose stride is its width.
* A class token, or the mean over the patches; registers where asked for (Darcet et al. 2024).
* Learned positions, also for class token and registers; or fixed 2-D sinusoids, for patches only.
* Pre-norm blocks (layer norm, eps 1e-6; 1e-12 in `transformers`), exact GELU, biases everywhere.
* The final norm stands at the encoder's end; with mean pooling, as in timm, behind the mean.
* A linear head. No dropout unless asked for; stochastic depth grows from the first block to the last.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from transformer_architectures.architectures.vit.config import VitModelConfig
from transformer_architectures.dropout import Dropout
from transformer_architectures.encoder import Encoder
from transformer_architectures.errors import UsageError
from transformer_architectures.linear import Linear, count_product_weights, linear
from transformer_architectures.positions import GridPositions, LearnedGridPositions, SinusoidalGridPositions

Images = Float[Tensor, "batch channels height width"]


class PatchEmbedding(nn.Module):
    """Pictures to one vector per patch, row by row.

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


class VisionTransformer(nn.Module):
    """Pictures to hidden states of class token, registers and patches."""

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
        initialize(self)

    def forward(self, images: Images, num_queries: int | None = None) -> Float[Tensor, "batch tokens embed_dim"]:
        """Hidden states after the final norm (without a norm where `norm_after_pooling` leaves that to the head).

        Args:
            num_queries: only the first so many tokens are wanted; the last block computes no others.

        Raises:
            UsageError: the pictures are not of the declared size.
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
        return self.encoder(hidden_states, num_queries=num_queries)  # type: ignore[no-any-return]

    def convert_image_size(self, height: int, width: int) -> None:
        """Fits the model to pictures of another size or aspect, in place, by resizing its table of positions.

        A checkpoint of it then fits a model of the new `config` only.

        Raises:
            UsageError: the patches do not divide the size.
        """
        size = self.config.patch_size
        if height < size or width < size or height % size or width % size:
            raise UsageError(f"pictures of {height} × {width} pixels cannot be cut into patches of {size} × {size}")
        image_size = height if height == width else (height, width)
        self.config = self.config.model_copy(update={"image_size": image_size})
        self.positions.resize(self.config.grid)

    def parameter_groups(self) -> dict[str, int]:
        """Number of parameters by part."""
        encoder = sum(parameter.numel() for parameter in self.encoder.parameters())
        return {"embedding": sum(parameter.numel() for parameter in self.parameters()) - encoder, "encoder": encoder}

    def estimate_flops(self, num_queries: int | None = None) -> int:
        """Floating-point operations of all matrix products, forward and backward, for one picture: 6 per weight and token, 12 per
        score and width.

        Pictures need no gradient, so patches cost 4 per weight. With ``num_queries`` the last block has fewer queries.
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
                f"the pictures have {height} × {width} pixels (height × width), but the model is for {own_height} × {own_width}: "
                f"resize them, or fit the model to them with convert_image_size({height}, {width})"
            )
        if images.shape[1] != c.num_channels:
            raise UsageError(f"the pictures have {images.shape[1]} channels, but the model is for {c.num_channels}")


class VisionTransformerForImageClassification(nn.Module):
    """Pictures to one logit per label; whether labels exclude each other is the loss's business."""

    def __init__(self, config: VitModelConfig) -> None:
        super().__init__()
        self.backbone = VisionTransformer(config)
        self.norm = config.norm.build(config.embed_dim) if config.norms_after_pooling else nn.Identity()
        self.pooler = Linear(config.embed_dim, config.embed_dim) if config.pooler else None
        self.head = Linear(config.embed_dim, config.num_labels) if config.num_labels else nn.Identity()
        initialize(nn.ModuleList(part for part in (self.norm, self.pooler, self.head) if part is not None))

    @property
    def config(self) -> VitModelConfig:
        """The declaration; `convert_image_size` changes it."""
        return self.backbone.config

    def forward(self, images: Images) -> Float[Tensor, "batch labels"]:
        """Logits, or the pooled features of a model without labels.

        Raises:
            UsageError: the pictures are not of the declared size.
        """
        logits: Tensor = self.head(self.forward_features(images))
        return logits

    def forward_features(self, images: Images) -> Float[Tensor, "batch embed_dim"]:
        """One vector per picture: what the head sees."""
        if self.config.pooling == "cls":
            pooled: Tensor = self.backbone(images, num_queries=1)[:, 0]
        else:
            pooled = self.backbone(images)[:, self.config.num_prefix :].mean(dim=1)
        features: Tensor = self.norm(pooled)
        return features if self.pooler is None else torch.tanh(self.pooler(features))

    def convert_image_size(self, height: int, width: int) -> None:
        """Fits the model to pictures of another size or aspect: see `VisionTransformer.convert_image_size`."""
        self.backbone.convert_image_size(height, width)

    def parameter_groups(self) -> dict[str, int]:
        """Number of parameters by part."""
        groups = self.backbone.parameter_groups()
        total = sum(parameter.numel() for parameter in self.parameters())
        return groups | {"head": total - sum(groups.values())}

    def layers_above(self, parameter: str) -> int:
        """How many layers stand above the one that a parameter belongs to: none above the head and the last norm, all blocks and
        the head above the embedding."""
        part, _, rest = parameter.removeprefix("backbone.").partition(".")
        if part in ("norm", "pooler", "head") or rest.startswith("final_norm."):
            return 0
        if part != "encoder":
            return self.config.num_layers + 1
        return self.config.num_layers - int(rest.split(".")[1])

    def estimate_flops(self) -> int:
        """Floating-point operations of forward and backward for one picture: see `VisionTransformer.estimate_flops`."""
        num_queries = 1 if self.config.pooling == "cls" else None
        head = count_product_weights(self) - count_product_weights(self.backbone)
        return self.backbone.estimate_flops(num_queries) + 6 * head


def build_positions(config: VitModelConfig) -> GridPositions:
    """The position table that the config declares."""
    if config.positions == "learned":
        return LearnedGridPositions(config.embed_dim, config.grid, config.num_prefix_positions)
    return SinusoidalGridPositions(config.embed_dim, config.grid)


@torch.no_grad()
def initialize(model: nn.Module) -> None:
    """Draws all weights of a model, as timm does, but for the patches.

    | weight                  | distribution                    | why                                                          |
    |-------------------------|---------------------------------|--------------------------------------------------------------|
    | patches                 | normal, std ``fan_in**-0.5``    | keeps the variance of normalised pixels (LeCun 1998; the paper's code) |
    | learned positions       | normal, std 0.02                | starts small beside the patches                              |
    | class token, registers  | normal, std 1e-6                | all they start with are their positions                      |
    | projections, head       | normal, std 0.02                | branches start small: blocks begin near the identity         |
    | biases                  | zero                            |                                                              |
    | norms                   | weight one, bias zero           | starts as pure normalisation                                 |

    (timm truncates its normal distributions at ±2, which is a hundred standard deviations away.)
    """
    for module in model.modules():
        match module:
            case PatchEmbedding():
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
                nn.init.zeros_(module.bias)
            case LearnedGridPositions():
                nn.init.normal_(module.weight, std=0.02)
            case VisionTransformer():
                for tokens in (module.class_token, module.registers):
                    if tokens is not None:
                        nn.init.normal_(tokens, std=1e-6)
            case nn.Linear():
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            case nn.LayerNorm():
                module.reset_parameters()


__all__ = [
    "PatchEmbedding",
    "VisionTransformer",
    "VisionTransformerForImageClassification",
    "build_positions",
    "initialize",
]
