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
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import Tensor

from transformer_architectures.architectures.vanilla.transformer import VanillaModelConfig
from transformer_architectures.errors import ModelFolderError
from transformer_architectures.positions import sinusoids
from transformer_architectures.pretrained.published_folder import ACTIVATIONS, read_config, read_weights, validated
from transformer_architectures.pretrained.weight_map import (
    Computed,
    OnlyRow,
    Rename,
    Tied,
    WeightMap,
    for_each,
)
from transformer_architectures.tokenization import MarianTokenizer

# What all Marian models have in common, as a declaration of ours; the rest follows from `config.json`.
MARIAN_CHOICES: dict[str, Any] = {
    "attention": "dot_product",
    "pre_layernorm": False,
    "layer_norm_eps": 1e-5,
    "positions": "sinusoidal",
    "position_layout": "half",
    "tie_weights": True,
    "output_bias": True,
}


class MarianConfig(BaseModel):
    """The keys of ``config.json`` that decide what a model computes, with the defaults of `transformers`.

    Layer drop is not among them: like every way to train, it is chosen anew.
    """

    vocab_size: int
    decoder_vocab_size: int | None = None
    d_model: int
    encoder_layers: int
    decoder_layers: int
    encoder_attention_heads: int
    decoder_attention_heads: int
    encoder_ffn_dim: int
    decoder_ffn_dim: int
    activation_function: str = "gelu"
    max_position_embeddings: int = 1024
    scale_embedding: bool = False
    share_encoder_decoder_embeddings: bool = True
    tie_word_embeddings: bool = True
    normalize_before: bool = False
    normalize_embedding: bool = False
    add_final_layer_norm: bool = False
    static_position_embeddings: bool = True
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    pad_token_id: int
    eos_token_id: int
    decoder_start_token_id: int

    def refusal(self) -> str | None:
        """Why the vanilla Transformer cannot be this model; None where it can."""
        for encoder_key in ("encoder_attention_heads", "encoder_ffn_dim"):
            decoder_key = encoder_key.replace("encoder", "decoder")
            encoder_size, decoder_size = getattr(self, encoder_key), getattr(self, decoder_key)
            if encoder_size != decoder_size:
                return f"{encoder_key} {encoder_size} and {decoder_key} {decoder_size} differ"
        if self.decoder_vocab_size not in (None, self.vocab_size):
            return f"vocab_size {self.vocab_size} and decoder_vocab_size {self.decoder_vocab_size} differ"
        if self.activation_function not in ACTIVATIONS:
            return f"activation_function {self.activation_function} is not one of {', '.join(ACTIVATIONS)}"
        needed = {
            "share_encoder_decoder_embeddings": True,
            "tie_word_embeddings": True,
            "static_position_embeddings": True,
            "normalize_before": False,
            "normalize_embedding": False,
            "add_final_layer_norm": False,
        }
        for key, value in needed.items():
            if getattr(self, key) is not value:
                return f"{key} is {str(not value).lower()}"
        return None


def config_from_marian(config: Mapping[str, Any]) -> VanillaModelConfig:
    """The declaration of a Marian model, given the content of its ``config.json``.

    Raises:
        ModelFolderError: a key is missing, or asks for what the vanilla Transformer cannot do.
    """
    if config.get("model_type") != "marian":
        raise ModelFolderError(f"no Marian model: its model_type is {config.get('model_type')}")
    marian = validated(MarianConfig, dict(config))
    if (reason := marian.refusal()) is not None:
        raise ModelFolderError(f"this Marian model cannot be a vanilla Transformer: {reason}")
    return validated(
        VanillaModelConfig,
        {
            **MARIAN_CHOICES,
            "vocab_size": marian.vocab_size,
            "embed_dim": marian.d_model,
            "num_heads": marian.encoder_attention_heads,
            "ff_dim": marian.encoder_ffn_dim,
            "num_layers": marian.encoder_layers,
            "num_decoder_layers": None if marian.decoder_layers == marian.encoder_layers else marian.decoder_layers,
            "dropout": marian.dropout,
            "attention_dropout": marian.attention_dropout,
            "activation_dropout": marian.activation_dropout,
            "activation": ACTIVATIONS[marian.activation_function],
            "max_length": marian.max_position_embeddings,
            "scale_embedding": marian.scale_embedding,
            "pad_id": marian.pad_token_id,
            "bos_id": marian.decoder_start_token_id,
            "eos_id": marian.eos_token_id,
            "decoder_start_id": marian.decoder_start_token_id,
        },
        "this Marian model is impossible: ",
    )


def config_to_marian(config: VanillaModelConfig) -> dict[str, Any]:
    """The content of ``config.json`` for a model of ours that is a Marian model: the inverse of `config_from_marian`.

    Raises:
        ModelFolderError: the model computes something that Marian does not.
    """
    for key, value in MARIAN_CHOICES.items():
        if getattr(config, key) != value:
            raise ModelFolderError(f"no Marian model: {key} is {getattr(config, key)}, not {value}")
    return {
        "model_type": "marian",
        "architectures": ["MarianMTModel"],
        "is_encoder_decoder": True,
        "vocab_size": config.vocab_size,
        "decoder_vocab_size": config.vocab_size,
        "d_model": config.embed_dim,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "encoder_attention_heads": config.num_heads,
        "decoder_attention_heads": config.num_heads,
        "encoder_ffn_dim": config.ff_dim,
        "decoder_ffn_dim": config.ff_dim,
        "activation_function": next(name for name, ours in ACTIVATIONS.items() if ours == config.activation),
        "max_position_embeddings": config.max_length,
        "scale_embedding": config.scale_embedding,
        "share_encoder_decoder_embeddings": True,
        "tie_word_embeddings": True,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        "pad_token_id": config.pad_id,
        "eos_token_id": config.eos_id,
        "forced_eos_token_id": config.eos_id,
        "decoder_start_token_id": config.start_id,
    }


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


def is_marian_folder(path: Path) -> bool:
    """Whether the folder's ``config.json`` is that of a Marian model."""
    try:
        return read_config(path).get("model_type") == "marian"
    except ModelFolderError:
        return False


def read_marian_folder(path: Path) -> tuple[VanillaModelConfig, dict[str, Tensor], MarianTokenizer]:
    """A published model as a declaration, a state dict that fits it, and its tokenizer.

    Raises:
        ModelFolderError: a file is missing or damaged, or the model is no vanilla Transformer.
        UsageError: the package `sentencepiece` is not installed.
    """
    try:
        config = config_from_marian(read_config(path))
        convert = f"MarianMTModel.from_pretrained({str(path)!r}).save_pretrained({str(path)!r})"
        weights = read_weights(path, f"from transformers import MarianMTModel; {convert}")
        weights = marian_weight_map(config).to_ours(weights)
    except ModelFolderError as error:
        raise ModelFolderError(f"{path}: {error}") from None
    tokenizer = MarianTokenizer.load(path)
    special = (tokenizer.pad_id, tokenizer.eos_id)
    if special != (config.pad_id, config.eos_id) or tokenizer.vocab_size > config.vocab_size:
        raise ModelFolderError(
            f"{path}: vocab.json ({tokenizer.vocab_size} tokens, padding and end {special}) does not fit config.json "
            f"({config.vocab_size} tokens, {(config.pad_id, config.eos_id)})"
        )
    return config, weights, tokenizer
