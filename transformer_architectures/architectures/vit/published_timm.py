"""Vision Transformers of timm (Wightman 2019; Steiner et al. 2022; DeiT, Touvron et al. 2021), as timm publishes them.

* Query, key and value are one matrix, the first above the second.
* LayerNorm eps 1e-6, exact GELU unless ``act_layer`` says otherwise.
* Mean pooling comes before the last norm, which is then called ``fc_norm``; older models (``fc_norm=False``) norm first.
* With ``no_embed_class``, class token and registers have no positions.

A model's ``config.json`` names one of timm's models and what differs from it. Sizes are read off the weights; only the
number of heads leaves no trace there.
"""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field
from torch import Tensor

from transformer_architectures.architectures.vit.transformer import VitModelConfig
from transformer_architectures.errors import UnknownModelError
from transformer_architectures.feedforward import ActivationName
from transformer_architectures.pretrained.config_map import validated
from transformer_architectures.pretrained.weight_map import Entry, OnlyRow, Rename, Stacked, WeightMap, for_each

ARCHITECTURE = re.compile(
    r"(?:vit|deit)_(?P<size>tiny|small|base|large|huge|giant|gigantic|so150m)_patch\d+(?:_reg\d+)?(?P<gap>_gap)?_\d+"
)
NUM_HEADS = {"tiny": 3, "small": 6, "base": 12, "large": 16, "huge": 16, "giant": 16, "gigantic": 16, "so150m": 14}
OTHER_NUM_HEADS = {"vit_base_patch16_gap_224": 16}
ACTIVATIONS: dict[str, ActivationName] = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
POOLING = {"token": "cls", "avg": "mean"}
LAYER_NORM_EPS = 1e-6

# Arguments of timm's models that the weights show, or that concern training only.
IGNORED_ARGUMENTS = {
    *("patch_size", "in_chans", "num_classes", "embed_dim", "depth", "mlp_ratio"),
    *("class_token", "no_embed_class", "reg_tokens", "fc_norm", "dynamic_img_size"),
    *("drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"),
    *("weight_init", "fix_init"),
}


class TimmArguments(BaseModel):
    """What decides over a model's outputs and leaves no trace in its weights."""

    img_size: int | tuple[int, int] | None = None
    num_heads: int | None = None
    act_layer: str = "gelu"
    global_pool: str | None = None


class TimmInput(BaseModel):
    """Channels, height and width of an image."""

    input_size: tuple[int, int, int]


class TimmConfig(BaseModel):
    """The keys of ``config.json`` that matter."""

    architecture: str
    global_pool: str | None = None
    model_args: dict[str, Any] = Field(default_factory=dict)
    pretrained_cfg: TimmInput | None = None


def is_timm_config(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is that of a Vision Transformer of timm."""
    return str(config.get("architecture")).startswith(("vit_", "deit_"))


def config_from_timm(
    config: Mapping[str, Any], weights: Mapping[str, Tensor], model: type[VitModelConfig] = VitModelConfig
) -> VitModelConfig:
    """The declaration of a model of timm, given the content of its ``config.json`` and its weights.

    Raises:
        UnknownModelError: a key or weight is missing, or asks for what `VisionTransformer` cannot do.
    """
    timm = validated(TimmConfig, dict(config))
    name = ARCHITECTURE.fullmatch(timm.architecture)
    if name is None:
        raise UnknownModelError(
            f"this library does not know whether {timm.architecture} can be a VisionTransformer of its own"
        )
    unknown = timm.model_args.keys() - IGNORED_ARGUMENTS - TimmArguments.model_fields.keys()
    if unknown:
        raise UnknownModelError(f"this model of timm cannot be a VisionTransformer: model_args has {min(unknown)}")
    arguments = validated(TimmArguments, timm.model_args, what="model_args: ")
    if arguments.act_layer not in ACTIVATIONS:
        raise UnknownModelError(f"model_args: act_layer {arguments.act_layer} is not one of {', '.join(ACTIVATIONS)}")
    pooling = arguments.global_pool or timm.global_pool or ("avg" if name["gap"] else "token")
    if pooling not in POOLING:
        raise UnknownModelError(f"global_pool {pooling} is not one of {', '.join(POOLING)}")

    embed_dim, num_channels, patch_size, _ = _shape("patch_embed.proj.weight", 4, weights)
    num_heads = OTHER_NUM_HEADS.get(timm.architecture, NUM_HEADS[name["size"]])
    found: dict[str, Any] = {
        "image_size": _image_size(arguments, timm),
        "patch_size": patch_size,
        "num_channels": num_channels,
        "num_labels": len(weights["head.weight"]) if "head.weight" in weights else 0,
        "embed_dim": embed_dim,
        "num_heads": arguments.num_heads or num_heads,
        "ff_dim": _shape("blocks.0.mlp.fc1.weight", 2, weights)[0],
        "num_layers": sum(bool(re.fullmatch(r"blocks\.\d+\.norm1\.weight", weight)) for weight in weights),
        "pooling": POOLING[pooling],
        "class_token": "cls_token" in weights,
        "num_registers": _shape("reg_token", 3, weights)[1] if "reg_token" in weights else 0,
        "norm_after_pooling": "fc_norm.weight" in weights,
        "layer_norm_eps": LAYER_NORM_EPS,
        "activation": ACTIVATIONS[arguments.act_layer],
    }
    ours = validated(model, found)
    num_patches, num_positions = ours.grid[0] * ours.grid[1], _shape("pos_embed", 3, weights)[1]
    if num_positions not in (num_patches, num_patches + ours.num_prefix):
        height, width = ours.height_and_width
        raise UnknownModelError(
            f"pos_embed has {num_positions} rows, which do not fit images of {height} × {width} pixels"
        )
    return validated(model, {**found, "prefix_positions": num_positions != num_patches})


def config_to_timm(config: VitModelConfig) -> dict[str, Any]:
    """The content of ``config.json`` for timm: the inverse of `config_from_timm` (but timm trains sinusoids, too).

    Raises:
        UnknownModelError: the model computes something that timm's does not.
    """
    if config.pooler:
        raise UnknownModelError("timm's VisionTransformer has no pooler")
    if config.layer_norm_eps != LAYER_NORM_EPS:
        raise UnknownModelError(f"layer_norm_eps is {config.layer_norm_eps}, but timm's is {LAYER_NORM_EPS}")
    height, width = config.height_and_width
    ratio = config.ff_dim / config.embed_dim
    arguments = {
        "img_size": [height, width],
        "patch_size": config.patch_size,
        "in_chans": config.num_channels,
        "num_classes": config.num_labels,
        "embed_dim": config.embed_dim,
        "depth": config.num_layers,
        "num_heads": config.num_heads,
        # timm multiplies and cuts off the fraction, which may have been rounded down.
        "mlp_ratio": (
            ratio if int(config.embed_dim * ratio) == config.ff_dim else (config.ff_dim + 0.5) / config.embed_dim
        ),
        "global_pool": next(name for name, ours in POOLING.items() if ours == config.pooling),
        "class_token": config.has_class_token,
        "reg_tokens": config.num_registers,
        "no_embed_class": config.num_prefix_positions == 0,
        "fc_norm": config.norms_after_pooling,
        "act_layer": next(name for name, ours in ACTIVATIONS.items() if ours == config.activation),
    }
    return {
        "architecture": "vit_base_patch16_224",  # the arguments replace all that this name means
        "num_classes": config.num_labels,
        "num_features": config.embed_dim,
        "global_pool": arguments["global_pool"],
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [config.num_channels, height, width],
            "fixed_input_size": True,
            "num_classes": config.num_labels,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


# `{kind}` is weight or bias.
PATCHES = [
    Rename("backbone.patch_embedding.{kind}", "patch_embed.proj.{kind}"),
    OnlyRow("backbone.positions.weight", "pos_embed"),
]
CLASS_TOKEN = OnlyRow("backbone.class_token", "cls_token")
REGISTERS = OnlyRow("backbone.registers", "reg_token")
BLOCK: list[Entry] = [
    Rename("backbone.encoder.blocks.{i}.self_attention.residual.norm.{kind}", "blocks.{i}.norm1.{kind}"),
    Stacked(
        (
            "backbone.encoder.blocks.{i}.self_attention.attention.query.{kind}",
            "backbone.encoder.blocks.{i}.self_attention.attention.key.{kind}",
            "backbone.encoder.blocks.{i}.self_attention.attention.value.{kind}",
        ),
        "blocks.{i}.attn.qkv.{kind}",
    ),
    Rename("backbone.encoder.blocks.{i}.self_attention.attention.output.{kind}", "blocks.{i}.attn.proj.{kind}"),
    Rename("backbone.encoder.blocks.{i}.feedforward.residual.norm.{kind}", "blocks.{i}.norm2.{kind}"),
    Rename("backbone.encoder.blocks.{i}.feedforward.expand.{kind}", "blocks.{i}.mlp.fc1.{kind}"),
    Rename("backbone.encoder.blocks.{i}.feedforward.output.{kind}", "blocks.{i}.mlp.fc2.{kind}"),
]
NORM_BEFORE_POOLING = Rename("backbone.encoder.final_norm.{kind}", "norm.{kind}")
NORM_AFTER_POOLING = Rename("norm.{kind}", "fc_norm.{kind}")
HEAD = Rename("head.{kind}", "head.{kind}")


def timm_weight_map(config: VitModelConfig) -> WeightMap:
    """The names of our `VisionTransformerForImageClassification` and of timm's `VisionTransformer`."""
    entries: list[Entry] = [*PATCHES, *BLOCK]
    entries += [CLASS_TOKEN] if config.has_class_token else []
    entries += [REGISTERS] if config.num_registers else []
    entries += [NORM_AFTER_POOLING if config.norms_after_pooling else NORM_BEFORE_POOLING]
    entries += [HEAD] if config.num_labels else []
    return WeightMap(for_each(entries, i=range(config.num_layers), kind=("weight", "bias")))


def _image_size(arguments: TimmArguments, config: TimmConfig) -> int | tuple[int, int]:
    if arguments.img_size is not None:
        return arguments.img_size
    if config.pretrained_cfg is None:
        raise UnknownModelError("neither model_args.img_size nor pretrained_cfg.input_size says how large images are")
    return config.pretrained_cfg.input_size[1:]


def _shape(name: str, num_dimensions: int, weights: Mapping[str, Tensor]) -> tuple[int, ...]:
    if name not in weights:
        raise UnknownModelError(f"the weight {name} is missing")
    shape = tuple(weights[name].shape)
    if len(shape) != num_dimensions:
        raise UnknownModelError(f"the weight {name} has shape {shape}, not one of {num_dimensions} dimensions")
    return shape
