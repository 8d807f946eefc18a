"""Vision Transformers as `transformers` publishes them: `ViTForImageClassification`, and `ViTModel` with its pooler.

* LayerNorm eps 1e-12 unless ``config.json`` says otherwise.
* The class token is pooled; `ViTModel` sends it through a dense layer with tanh (the paper's pre-training head), which
  `ViTForImageClassification` has not.

In files the weights have the names of `transformers` 4; version 5 renames them while it reads and writes.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from transformer_architectures.architectures.vit.transformer import VitModelConfig
from transformer_architectures.errors import UnknownModelError
from transformer_architectures.pretrained.config_map import ACTIVATIONS, ConfigMap, Key, Ours, SameAs, Theirs
from transformer_architectures.pretrained.published_folder import named_labels, numbered_classes
from transformer_architectures.pretrained.weight_map import Entry, OnlyRow, Rename, WeightMap, for_each

CONFIG = ConfigMap(
    "VisionTransformer",
    [
        Ours("pooling", "cls"),
        Ours("has_class_token", True, is_derived=True),
        Ours("num_registers", 0),
        Ours("positions", "learned"),
        Ours("num_prefix_positions", 1, is_derived=True),
        Ours("norms_after_pooling", False, is_derived=True),
        Ours("activation_dropout", 0.0),
        Key("image_size", "image_size", 224),
        Key("patch_size", "patch_size", 16),
        Key("num_channels", "num_channels", 3),
        Key("embed_dim", "hidden_size", 768),
        Key("num_heads", "num_attention_heads", 12),
        Key("ff_dim", "intermediate_size", 3072),
        Key("num_layers", "num_hidden_layers", 12),
        Key("activation", "hidden_act", "gelu", values=ACTIVATIONS),
        Key("dropout", "hidden_dropout_prob", 0.0),
        Key("attention_dropout", "attention_probs_dropout_prob", 0.0),
        Key("layer_norm_eps", "layer_norm_eps", 1e-12),
        Theirs("qkv_bias", True),
        SameAs("pooler_output_size", "hidden_size", "embed_dim"),
        Theirs("pooler_act", "tanh"),
    ],
)


def is_transformers_config(config: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is that of a Vision Transformer of `transformers`."""
    return config.get("model_type") == "vit"


def config_from_transformers(
    config: Mapping[str, Any], weights: Mapping[str, Tensor], model: type[VitModelConfig] = VitModelConfig
) -> VitModelConfig:
    """The declaration of a model of `transformers`, given the content of its ``config.json`` and its weights.

    Raises:
        UnknownModelError: a key is of a wrong type, or asks for what `VisionTransformer` cannot do.
    """
    patch_size = config.get("patch_size")
    if isinstance(patch_size, list):
        if len(set(patch_size)) != 1:
            raise UnknownModelError(f"this model cannot be a VisionTransformer: patch_size {patch_size} is no square")
        config = {**config, "patch_size": patch_size[0]}
    num_labels = len(weights["classifier.weight"]) if "classifier.weight" in weights else 0
    return CONFIG.to_ours(model, config, num_labels=num_labels, pooler="pooler.dense.weight" in weights)


def config_to_transformers(config: VitModelConfig) -> dict[str, Any]:
    """The content of ``config.json`` for `transformers`: the inverse of `config_from_transformers`.

    A model without labels becomes a `ViTModel`.

    Raises:
        UnknownModelError: the model computes something that theirs does not.
    """
    theirs = CONFIG.to_theirs(config)
    if config.pooler and config.num_labels:
        raise UnknownModelError("no ViT of transformers: theirs has a pooler or a head, not both")
    kind = "ViTForImageClassification" if config.num_labels else "ViTModel"
    image_size = config.image_size if isinstance(config.image_size, int) else list(config.image_size)
    labels = named_labels(numbered_classes(config.num_labels))
    return {"model_type": "vit", "architectures": [kind], **theirs, "image_size": image_size, **labels}


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
