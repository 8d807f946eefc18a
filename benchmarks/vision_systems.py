"""The image classifiers that are compared, each built as its users build it: ``build(size) -> model from images to logits``.

All are the Vision Transformer of Dosovitskiy et al. 2021 with a class token, learned positions and exact GELU, without dropout.
`vit-pytorch` has two norms around its patch projection and no biases on query, key and value: a tenth of a percent fewer parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from transformer_architectures.architectures.vit import VisionTransformerForImageClassification, VitModelConfig


@dataclass(frozen=True)
class Size:
    """Pixels of a side of image and patch, classes, widths and depth; ``batch``: images at once."""

    name: str
    pixels: int
    patch: int
    classes: int
    layers: int
    dim: int
    heads: int
    ff_dim: int
    batch: int


SIZES = (
    Size("ViT-Ti/16, 224 pixels", 224, 16, 1000, 12, 192, 3, 768, batch=32),
    Size("6 x 192 /4, 32 pixels", 32, 4, 10, 6, 192, 3, 768, batch=128),
)


def ours(size: Size) -> nn.Module:
    """This library."""
    return VisionTransformerForImageClassification(
        VitModelConfig(
            image_size=size.pixels,
            patch_size=size.patch,
            num_labels=size.classes,
            embed_dim=size.dim,
            num_heads=size.heads,
            ff_dim=size.ff_dim,
            num_layers=size.layers,
        )
    )


def timm(size: Size) -> nn.Module:
    """`timm`, with torch's fused attention, which is its default."""
    from timm.models import VisionTransformer

    return VisionTransformer(
        img_size=size.pixels,
        patch_size=size.patch,
        num_classes=size.classes,
        embed_dim=size.dim,
        depth=size.layers,
        num_heads=size.heads,
        mlp_ratio=size.ff_dim / size.dim,
    )


class HuggingFaceViT(nn.Module):
    """`transformers` ViT; only its logits."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        from transformers import ViTConfig, ViTForImageClassification

        self.model = ViTForImageClassification(
            ViTConfig(
                image_size=size.pixels,
                patch_size=size.patch,
                num_labels=size.classes,
                hidden_size=size.dim,
                num_hidden_layers=size.layers,
                num_attention_heads=size.heads,
                intermediate_size=size.ff_dim,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.model(pixel_values=images).logits  # type: ignore[no-any-return]


def vit_pytorch(size: Size) -> nn.Module:
    """`vit-pytorch`, whose attention is plain mathematics."""
    from vit_pytorch import ViT

    return ViT(  # type: ignore[no-any-return]
        image_size=size.pixels,
        patch_size=size.patch,
        num_classes=size.classes,
        dim=size.dim,
        depth=size.layers,
        heads=size.heads,
        dim_head=size.dim // size.heads,
        mlp_dim=size.ff_dim,
    )


SYSTEMS: dict[str, Callable[[Size], nn.Module]] = {
    "transformer_architectures": ours,
    "timm": timm,
    "transformers ViT": HuggingFaceViT,
    "vit-pytorch": vit_pytorch,
}
