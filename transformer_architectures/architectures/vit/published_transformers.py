"""Vision Transformers as `transformers` publishes them: `ViTForImageClassification`, and `ViTModel` with its pooler.

* LayerNorm eps 1e-12 unless ``config.json`` says otherwise.
* The class token is pooled; `ViTModel` sends it through a dense layer with tanh (the paper's pre-training head), which
  `ViTForImageClassification` has not.

In files the weights have the names of `transformers` 4; version 5 renames them while it reads and writes.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from torch import Tensor

from transformer_architectures.architectures.vit.transformer import VitModelConfig
from transformer_architectures.errors import ModelFolderError
from transformer_architectures.pretrained.published_folder import ACTIVATIONS, named_labels, validated
from transformer_architectures.pretrained.weight_map import Entry, OnlyRow, Rename, WeightMap, for_each

# What all these models have in common, as a declaration of ours; the rest follows from `config.json`.
CHOICES: dict[str, Any] = {
    "pooling": "cls",
    "has_class_token": True,
    "num_registers": 0,
    "positions": "learned",
    "num_prefix_positions": 1,
    "norms_after_pooling": False,
    "activation_dropout": 0.0,
}


class TransformersVitConfig(BaseModel):
    """The keys of ``config.json`` that decide what a model computes, with the defaults of `transformers`."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    layer_norm_eps: float = 1e-12
    image_size: int | tuple[int, int] = 224
    patch_size: int | tuple[int, int] = 16
    num_channels: int = 3
    qkv_bias: bool = True
    pooler_output_size: int | None = None
    pooler_act: str = "tanh"

    def refusal(self) -> str | None:
        """Why our Vision Transformer cannot be this model; None where it can."""
        if self.hidden_act not in ACTIVATIONS:
            return f"hidden_act {self.hidden_act} is not one of {', '.join(ACTIVATIONS)}"
        if isinstance(self.patch_size, tuple) and self.patch_size[0] != self.patch_size[1]:
            return f"patch_size {list(self.patch_size)} is no square"
        if not self.qkv_bias:
            return "qkv_bias is false"
        if self.pooler_output_size not in (None, self.hidden_size):
            return f"pooler_output_size {self.pooler_output_size} is not hidden_size {self.hidden_size}"
        return None if self.pooler_act == "tanh" else f"pooler_act {self.pooler_act} is not tanh"


def is_transformers_config(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is that of a Vision Transformer of `transformers`."""
    return config.get("model_type") == "vit"


def config_from_transformers(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> VitModelConfig:
    """The declaration of a model of `transformers`, given the content of its ``config.json`` and its weights.

    Raises:
        ModelFolderError: a key is of a wrong type, or asks for what `VisionTransformer` cannot do.
    """
    theirs = validated(TransformersVitConfig, dict(config))
    if (reason := theirs.refusal()) is not None:
        raise ModelFolderError(f"this model cannot be a VisionTransformer: {reason}")
    found = {
        "image_size": theirs.image_size,
        "patch_size": theirs.patch_size[0] if isinstance(theirs.patch_size, tuple) else theirs.patch_size,
        "num_channels": theirs.num_channels,
        "num_labels": len(weights["classifier.weight"]) if "classifier.weight" in weights else 0,
        "embed_dim": theirs.hidden_size,
        "num_heads": theirs.num_attention_heads,
        "ff_dim": theirs.intermediate_size,
        "num_layers": theirs.num_hidden_layers,
        "pooler": "pooler.dense.weight" in weights,
        "dropout": theirs.hidden_dropout_prob,
        "attention_dropout": theirs.attention_probs_dropout_prob,
        "layer_norm_eps": theirs.layer_norm_eps,
        "activation": ACTIVATIONS[theirs.hidden_act],
    }
    return validated(VitModelConfig, found, "this model is impossible: ")


def config_to_transformers(config: VitModelConfig) -> dict[str, Any]:
    """The content of ``config.json`` for `transformers`: the inverse of `config_from_transformers`.

    A model without labels becomes a `ViTModel`.

    Raises:
        ModelFolderError: the model computes something that theirs does not.
    """
    for key, value in CHOICES.items():
        if getattr(config, key) != value:
            raise ModelFolderError(f"no ViT of transformers: {key} is {getattr(config, key)}, not {value}")
    if config.pooler and config.num_labels:
        raise ModelFolderError("no ViT of transformers: theirs has a pooler or a head, not both")
    labels = [f"LABEL_{index}" for index in range(config.num_labels)]
    return {
        "model_type": "vit",
        "architectures": ["ViTForImageClassification" if labels else "ViTModel"],
        "image_size": config.image_size if isinstance(config.image_size, int) else list(config.image_size),
        "patch_size": config.patch_size,
        "num_channels": config.num_channels,
        "hidden_size": config.embed_dim,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.ff_dim,
        "num_hidden_layers": config.num_layers,
        "hidden_act": next(name for name, ours in ACTIVATIONS.items() if ours == config.activation),
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "layer_norm_eps": config.layer_norm_eps,
        "qkv_bias": True,
        "pooler_act": "tanh",
        **named_labels(labels),
    }


# `{vit}` is "vit." in a ViTForImageClassification and empty in a ViTModel; `{kind}` is weight or bias.
BACKBONE: list[Entry] = [
    OnlyRow("backbone.class_token", "{vit}embeddings.cls_token"),
    OnlyRow("backbone.positions.weight", "{vit}embeddings.position_embeddings"),
    Rename("backbone.patch_embedding.{kind}", "{vit}embeddings.patch_embeddings.projection.{kind}"),
    Rename(
        "backbone.encoder.blocks.{i}.self_attention.residual.norm.{kind}",
        "{vit}encoder.layer.{i}.layernorm_before.{kind}",
    ),
    Rename(
        "backbone.encoder.blocks.{i}.self_attention.attention.query.{kind}",
        "{vit}encoder.layer.{i}.attention.attention.query.{kind}",
    ),
    Rename(
        "backbone.encoder.blocks.{i}.self_attention.attention.key.{kind}",
        "{vit}encoder.layer.{i}.attention.attention.key.{kind}",
    ),
    Rename(
        "backbone.encoder.blocks.{i}.self_attention.attention.value.{kind}",
        "{vit}encoder.layer.{i}.attention.attention.value.{kind}",
    ),
    Rename(
        "backbone.encoder.blocks.{i}.self_attention.attention.output.{kind}",
        "{vit}encoder.layer.{i}.attention.output.dense.{kind}",
    ),
    Rename(
        "backbone.encoder.blocks.{i}.feedforward.residual.norm.{kind}", "{vit}encoder.layer.{i}.layernorm_after.{kind}"
    ),
    Rename("backbone.encoder.blocks.{i}.feedforward.expand.{kind}", "{vit}encoder.layer.{i}.intermediate.dense.{kind}"),
    Rename("backbone.encoder.blocks.{i}.feedforward.output.{kind}", "{vit}encoder.layer.{i}.output.dense.{kind}"),
    Rename("backbone.encoder.final_norm.{kind}", "{vit}layernorm.{kind}"),
]
POOLER = Rename("pooler.{kind}", "pooler.dense.{kind}")
HEAD = Rename("head.{kind}", "classifier.{kind}")


def transformers_weight_map(config: VitModelConfig) -> WeightMap:
    """The names of our `VisionTransformerForImageClassification` and of those in ``model.safetensors``."""
    entries = [*BACKBONE]
    entries += [HEAD] if config.num_labels else []
    entries += [POOLER] if config.pooler else []
    prefix = "vit." if config.num_labels else ""
    return WeightMap(for_each(entries, vit=[prefix], i=range(config.num_layers), kind=("weight", "bias")))
