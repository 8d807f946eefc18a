"""Published Marian models (Junczys-Dowmunt et al. 2018; OPUS-MT, Tiedemann & Thottingal 2020), as `transformers` saves them.

They are vanilla Transformers:

* Post-norm (eps 1e-5), so no final norm; SiLU (called swish), ReLU or GELU.
* Sinusoidal positions, all sines before all cosines, added to embeddings scaled by √embed_dim.
* One matrix for both embeddings and the output projection, which has a bias (`final_logits_bias`). `transformers` never
  trains that bias; here it is a parameter like any other.
* No start token: the decoder begins with padding, which is never generated. `transformers` keeps what is
  looked up there as it is (in published models: zeros); here training moves it, like any other start token's.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from transformer_architectures.architectures.vanilla.transformer import VanillaModelConfig
from transformer_architectures.errors import UnknownModelError
from transformer_architectures.positions import sinusoids
from transformer_architectures.pretrained.config_map import (
    ACTIVATIONS,
    REQUIRED,
    ConfigMap,
    Key,
    Ours,
    SameAs,
    Theirs,
)
from transformer_architectures.pretrained.published_folder import PublishedFormat, PublishedModel, read_published_folder
from transformer_architectures.pretrained.weight_map import (
    Computed,
    OnlyRow,
    Rename,
    Tied,
    WeightMap,
    for_each,
)

MARIAN_CONFIG = ConfigMap(
    "Marian model",
    [
        Ours("attention", "dot_product"),
        Ours("pre_layernorm", False),
        Ours("layer_norm_eps", 1e-5),
        Ours("positions", "sinusoidal"),
        Ours("position_layout", "half"),
        Ours("tie_weights", True),
        Ours("output_bias", True),
        Key("vocab_size", "vocab_size"),
        SameAs("decoder_vocab_size", "vocab_size", "vocab_size"),
        Key("embed_dim", "d_model"),
        Key("num_layers", "encoder_layers", attribute="encoder_layers"),
        Key("num_decoder_layers", "decoder_layers", attribute="decoder_layers"),
        Key("num_heads", "encoder_attention_heads"),
        SameAs("decoder_attention_heads", "encoder_attention_heads", "num_heads", REQUIRED),
        Key("ff_dim", "encoder_ffn_dim"),
        SameAs("decoder_ffn_dim", "encoder_ffn_dim", "ff_dim", REQUIRED),
        Key("activation", "activation_function", "gelu", values=ACTIVATIONS),
        Key("dropout", "dropout", 0.1),
        Key("attention_dropout", "attention_dropout", 0.0),
        Key("activation_dropout", "activation_dropout", 0.0),
        Key("max_length", "max_position_embeddings", 1024),
        Key("scale_embedding", "scale_embedding", False),
        Key("pad_id", "pad_token_id"),
        Key("eos_id", "eos_token_id"),
        Key("bos_id", "decoder_start_token_id", is_written=False),
        Key("decoder_start_id", "decoder_start_token_id", attribute="start_id"),
        Theirs("share_encoder_decoder_embeddings", True),
        Theirs("tie_word_embeddings", True),
        Theirs("static_position_embeddings", True, is_written=False),
        Theirs("normalize_before", False, is_written=False),
        Theirs("normalize_embedding", False, is_written=False),
        Theirs("add_final_layer_norm", False, is_written=False),
        Theirs("add_bias_logits", False, is_written=False),
        Theirs("is_decoder", False, is_written=False),
    ],
    also_ignored=["num_hidden_layers", "extra_pos_embeddings", "classifier_dropout"],
)


def config_from_marian(
    config: Mapping[str, Any], model: type[VanillaModelConfig] = VanillaModelConfig
) -> VanillaModelConfig:
    """The declaration of a Marian model, given the content of its ``config.json``.

    Raises:
        UnknownModelError: a key is missing, or asks for what the vanilla Transformer cannot do.
    """
    if config.get("model_type") != "marian":
        raise UnknownModelError(f"no Marian model: its model_type is {config.get('model_type')}")
    return MARIAN_CONFIG.to_ours(model, config)


def config_to_marian(config: VanillaModelConfig) -> dict[str, Any]:
    """The content of ``config.json`` for a model of ours that is a Marian model: the inverse of `config_from_marian`.

    Raises:
        UnknownModelError: the model computes something that Marian does not.
    """
    kind = {"model_type": "marian", "architectures": ["MarianMTModel"], "is_encoder_decoder": True}
    return {**kind, **MARIAN_CONFIG.to_theirs(config), "forced_eos_token_id": config.eos_id}


# What encoder and decoder layers have in common; `{kind}` is weight or bias.
LAYER = [
    Rename(
        "{stack}.blocks.{i}.self_attention.attention.query.{kind}", "model.{stack}.layers.{i}.self_attn.q_proj.{kind}"
    ),
    Rename(
        "{stack}.blocks.{i}.self_attention.attention.key.{kind}", "model.{stack}.layers.{i}.self_attn.k_proj.{kind}"
    ),
    Rename(
        "{stack}.blocks.{i}.self_attention.attention.value.{kind}", "model.{stack}.layers.{i}.self_attn.v_proj.{kind}"
    ),
    Rename(
        "{stack}.blocks.{i}.self_attention.attention.output.{kind}",
        "model.{stack}.layers.{i}.self_attn.out_proj.{kind}",
    ),
    Rename(
        "{stack}.blocks.{i}.self_attention.residual.norm.{kind}", "model.{stack}.layers.{i}.self_attn_layer_norm.{kind}"
    ),
    Rename("{stack}.blocks.{i}.feedforward.expand.{kind}", "model.{stack}.layers.{i}.fc1.{kind}"),
    Rename("{stack}.blocks.{i}.feedforward.output.{kind}", "model.{stack}.layers.{i}.fc2.{kind}"),
    Rename("{stack}.blocks.{i}.feedforward.residual.norm.{kind}", "model.{stack}.layers.{i}.final_layer_norm.{kind}"),
]
CROSS_ATTENTION = [
    Rename(
        "{stack}.blocks.{i}.cross_attention.attention.query.{kind}",
        "model.{stack}.layers.{i}.encoder_attn.q_proj.{kind}",
    ),
    Rename(
        "{stack}.blocks.{i}.cross_attention.attention.key.{kind}", "model.{stack}.layers.{i}.encoder_attn.k_proj.{kind}"
    ),
    Rename(
        "{stack}.blocks.{i}.cross_attention.attention.value.{kind}",
        "model.{stack}.layers.{i}.encoder_attn.v_proj.{kind}",
    ),
    Rename(
        "{stack}.blocks.{i}.cross_attention.attention.output.{kind}",
        "model.{stack}.layers.{i}.encoder_attn.out_proj.{kind}",
    ),
    Rename(
        "{stack}.blocks.{i}.cross_attention.residual.norm.{kind}",
        "model.{stack}.layers.{i}.encoder_attn_layer_norm.{kind}",
    ),
]
EMBEDDING = Tied(
    ("source_embedding.weight", "target_embedding.weight", "output_projection.weight"),
    ("model.shared.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"),
)
OUTPUT_BIAS = OnlyRow("output_projection.bias", "final_logits_bias")
POSITIONS = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")


def marian_weight_map(config: VanillaModelConfig) -> WeightMap:
    """The names of our weights and of those in ``model.safetensors``."""
    kinds = ("weight", "bias")
    return WeightMap(
        [
            EMBEDDING,
            OUTPUT_BIAS,
            Computed((), POSITIONS, sinusoids(config.max_length, config.embed_dim, "half")),
            *for_each(LAYER, stack=["encoder"], i=range(config.encoder_layers), kind=kinds),
            *for_each(LAYER + CROSS_ATTENTION, stack=["decoder"], i=range(config.decoder_layers), kind=kinds),
        ]
    )


def read_marian(
    content: Mapping[str, Any], weights: Mapping[str, Tensor], model: type[VanillaModelConfig]
) -> PublishedModel:
    """A published model."""
    config = config_from_marian(content, model)
    return PublishedModel(config, marian_weight_map(config).to_ours(weights))


MARIAN = PublishedFormat(
    "Marian model",
    lambda content: content.get("model_type") == "marian",
    read_marian,
    {"output_projection": "translation"},
)

read_marian_folder = partial(read_published_folder, formats=[MARIAN], model_config=VanillaModelConfig)
