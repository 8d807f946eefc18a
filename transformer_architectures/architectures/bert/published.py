"""Published BERT checkpoints, as `transformers` saves them: a folder with ``config.json``, ``model.safetensors`` and a WordPiece tokenizer.

* Post-norm with a norm of the embeddings (eps 1e-12 unless ``config.json`` says otherwise), learned positions, token types.
* A checkpoint is an encoder (`BertModel`) and what stands on it: pooler, masked-language-model head, next-sentence head,
  classifier. Pre-trained ones often hold more than their class needs, so a folder is read part by part, under the names that
  the parts have in our models; the next-sentence head has no place there and is left out.
* Names of the encoder's weights begin with ``bert.`` where it stands under a head. Files made from TensorFlow's checkpoints call
  a norm's weight and bias gamma and beta.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from transformer_architectures.architectures.bert.transformer import BertModelConfig
from transformer_architectures.errors import ModelFolderError
from transformer_architectures.pretrained.published_folder import (
    ACTIVATIONS,
    PICKLED_WEIGHTS,
    WEIGHTS,
    named_labels,
    read_config,
    read_weights,
    validated,
)
from transformer_architectures.pretrained.weight_map import Computed, Entry, Rename, Tied, WeightMap, for_each
from transformer_architectures.tokenization import WordPieceTokenizer

# Part of ours that the class's classifier is.
CLASSIFIERS = {"BertForSequenceClassification": "sequence_head", "BertForTokenClassification": "token_head"}
ARCHITECTURES = ("BertModel", "BertForMaskedLM", "BertForPreTraining", *CLASSIFIERS)
HEADS = {"masked_lm_head": "BertForMaskedLM", **{part: name for name, part in CLASSIFIERS.items()}}

# What all these models have in common, as a declaration of ours; the rest follows from `config.json`.
CHOICES: dict[str, Any] = {"pre_layernorm": False, "positions": "learned", "activation_dropout": 0.0}


class TransformersBertConfig(BaseModel):
    """The keys of ``config.json`` that decide what a model computes, with the defaults of `transformers`."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    position_embedding_type: str = "absolute"
    is_decoder: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True
    pruned_heads: dict[str, list[int]] = {}
    architectures: list[str] | None = None

    def refusal(self, parts: Collection[str]) -> str | None:
        """Why our BERT cannot be this model; None where it can."""
        if self.hidden_act not in ACTIVATIONS:
            return f"hidden_act {self.hidden_act} is not one of {', '.join(ACTIVATIONS)}"
        if self.position_embedding_type != "absolute":
            return f"position_embedding_type {self.position_embedding_type} is not absolute"
        for key in ("is_decoder", "add_cross_attention"):
            if getattr(self, key):
                return f"{key} is true"
        if self.pruned_heads:
            return "pruned_heads is not empty"
        if "masked_lm_head" in parts and not self.tie_word_embeddings:
            return "tie_word_embeddings is false"
        return None


@dataclass(frozen=True)
class PublishedBert:
    """What a published folder holds.

    Attributes:
        weights: named as in our models: ``backbone`` and those of ``pooler``, ``masked_lm_head``, ``sequence_head``,
            ``token_head`` that are there.
        classes: of the classifier's outputs; empty where there is none, or nobody named them.
        left_out: parts that no model of ours has.
    """

    config: BertModelConfig
    weights: Mapping[str, Tensor]
    tokenizer: WordPieceTokenizer
    classes: tuple[str, ...]
    left_out: tuple[str, ...]


def config_from_bert(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> BertModelConfig:
    """The declaration of a model of `transformers`, given the content of its ``config.json`` and its weights.

    Raises:
        ModelFolderError: a key is of a wrong type, or asks for what `Bert` cannot do.
    """
    if config.get("model_type") != "bert":
        raise ModelFolderError(f"no BERT: its model_type is {config.get('model_type')}")
    theirs = validated(TransformersBertConfig, dict(config))
    if (reason := theirs.refusal(parts_of(theirs.architectures, weights))) is not None:
        raise ModelFolderError(f"this model cannot be a BERT of ours: {reason}")
    found = {
        **CHOICES,
        "vocab_size": theirs.vocab_size,
        "embed_dim": theirs.hidden_size,
        "num_heads": theirs.num_attention_heads,
        "ff_dim": theirs.intermediate_size,
        "num_layers": theirs.num_hidden_layers,
        "dropout": theirs.hidden_dropout_prob,
        "attention_dropout": theirs.attention_probs_dropout_prob,
        "classifier_dropout": theirs.classifier_dropout,
        "layer_norm_eps": theirs.layer_norm_eps,
        "activation": ACTIVATIONS[theirs.hidden_act],
        "max_positions": theirs.max_position_embeddings,
        "token_types": theirs.type_vocab_size,
        "num_labels": len(weights["classifier.weight"]) if "classifier.weight" in weights else 0,
    }
    return validated(BertModelConfig, found, "this model is impossible: ")


def config_to_bert(config: BertModelConfig, parts: Collection[str], classes: Sequence[str] = ()) -> dict[str, Any]:
    """The content of ``config.json`` for a model of ours with these parts: the inverse of `config_from_bert`.

    Args:
        parts: those of `PublishedBert` that the model has.
        classes: names of the classifier's outputs; numbered where there are none.

    Raises:
        ModelFolderError: the model computes something that theirs does not.
    """
    for key, value in CHOICES.items():
        if getattr(config, key) != value:
            raise ModelFolderError(f"no BERT of transformers: {key} is {getattr(config, key)}, not {value}")
    if not config.token_types:
        raise ModelFolderError("no BERT of transformers: token_types is 0")
    if "sequence_head" in parts and config.pooling != "cls":
        raise ModelFolderError(f"no BERT of transformers: pooling is {config.pooling}, not cls")
    names = list(classes) or [f"LABEL_{index}" for index in range(config.num_labels)]
    return {
        "model_type": "bert",
        "architectures": [next((name for part, name in HEADS.items() if part in parts), "BertModel")],
        "vocab_size": config.vocab_size,
        "hidden_size": config.embed_dim,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.ff_dim,
        "num_hidden_layers": config.num_layers,
        "hidden_act": next(name for name, ours in ACTIVATIONS.items() if ours == config.activation),
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "classifier_dropout": config.classifier_dropout,
        "max_position_embeddings": config.max_positions,
        "type_vocab_size": config.token_types,
        "layer_norm_eps": config.layer_norm_eps,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
        **named_labels(names),
    }


# `{bert}` is "bert." under a head and empty in a BertModel; `{kind}` is weight or bias.
BACKBONE: list[Entry] = [
    Rename("backbone.positions.weight", "{bert}embeddings.position_embeddings.weight"),
    Rename("backbone.token_types", "{bert}embeddings.token_type_embeddings.weight"),
    Rename("backbone.embedding_norm.{kind}", "{bert}embeddings.LayerNorm.{kind}"),
    Rename(
        "backbone.encoder.blocks.{i}.self_attention.attention.query.{kind}",
        "{bert}encoder.layer.{i}.attention.self.query.{kind}",
    ),
    Rename(
        "backbone.encoder.blocks.{i}.self_attention.attention.key.{kind}",
        "{bert}encoder.layer.{i}.attention.self.key.{kind}",
    ),
    Rename(
        "backbone.encoder.blocks.{i}.self_attention.attention.value.{kind}",
        "{bert}encoder.layer.{i}.attention.self.value.{kind}",
    ),
    Rename(
        "backbone.encoder.blocks.{i}.self_attention.attention.output.{kind}",
        "{bert}encoder.layer.{i}.attention.output.dense.{kind}",
    ),
    Rename(
        "backbone.encoder.blocks.{i}.self_attention.residual.norm.{kind}",
        "{bert}encoder.layer.{i}.attention.output.LayerNorm.{kind}",
    ),
    Rename(
        "backbone.encoder.blocks.{i}.feedforward.expand.{kind}", "{bert}encoder.layer.{i}.intermediate.dense.{kind}"
    ),
    Rename("backbone.encoder.blocks.{i}.feedforward.output.{kind}", "{bert}encoder.layer.{i}.output.dense.{kind}"),
    Rename(
        "backbone.encoder.blocks.{i}.feedforward.residual.norm.{kind}",
        "{bert}encoder.layer.{i}.output.LayerNorm.{kind}",
    ),
]
TOKENS: Entry = Rename("backbone.token_embedding.weight", "{bert}embeddings.word_embeddings.weight")
TIED_TOKENS: Entry = Tied(
    ("backbone.token_embedding.weight", "masked_lm_head.decoder.weight"),
    ("{bert}embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
)
PARTS: dict[str, list[Entry]] = {
    "pooler": [Rename("pooler.{kind}", "{bert}pooler.dense.{kind}")],
    "masked_lm_head": [
        Rename("masked_lm_head.transform.{kind}", "cls.predictions.transform.dense.{kind}"),
        Rename("masked_lm_head.norm.{kind}", "cls.predictions.transform.LayerNorm.{kind}"),
        Tied(("masked_lm_head.decoder.bias",), ("cls.predictions.bias", "cls.predictions.decoder.bias")),
    ],
    "sequence_head": [Rename("sequence_head.{kind}", "classifier.{kind}")],
    "token_head": [Rename("token_head.{kind}", "classifier.{kind}")],
}


def bert_weight_map(config: BertModelConfig, parts: Collection[str], has_prefix: bool | None = None) -> WeightMap:
    """The names of our weights and of those in ``model.safetensors``.

    Args:
        parts: which of `PARTS` there are beside the encoder.
        has_prefix: whether names begin with ``bert.``; unless given, they do where there is a head.
    """
    prefix = "bert." if (bool(HEADS.keys() & set(parts)) if has_prefix is None else has_prefix) else ""
    entries = [*BACKBONE, TIED_TOKENS if "masked_lm_head" in parts else TOKENS]
    entries += [entry for part in PARTS if part in parts for entry in PARTS[part]]
    filled = for_each(entries, bert=[prefix], i=range(config.num_layers), kind=("weight", "bias"))
    numbers = torch.arange(config.max_positions)[None].float()
    return WeightMap([*filled, Computed((), (f"{prefix}embeddings.position_ids",), numbers, is_written=False)])


def parts_of(architectures: Sequence[str] | None, weights: Mapping[str, Tensor]) -> list[str]:
    """Which of `PARTS` a checkpoint holds.

    Raises:
        ModelFolderError: its class is not known here, or does not say whether the classifier is for texts or for tokens.
    """
    for name in architectures or ():
        if name not in ARCHITECTURES:
            raise ModelFolderError(f"architectures: {name} is not one of {', '.join(ARCHITECTURES)}")
    parts = []
    if any(name.removeprefix("bert.").startswith("pooler.") for name in weights):
        parts.append("pooler")
    if any(name.startswith("cls.predictions.") for name in weights):
        parts.append("masked_lm_head")
    if "classifier.weight" in weights:
        heads = [CLASSIFIERS[name] for name in architectures or () if name in CLASSIFIERS]
        if not heads:
            raise ModelFolderError(f"architectures names none of {', '.join(CLASSIFIERS)}, but there is a classifier")
        parts.append(heads[0])
    return parts


def is_bert_folder(path: Path) -> bool:
    """Whether the folder's ``config.json`` is that of a BERT."""
    try:
        return read_config(path).get("model_type") == "bert"
    except ModelFolderError:
        return False


def read_bert_folder(path: Path) -> PublishedBert:
    """A published model: its declaration, its weights part by part, and its tokenizer.

    Raises:
        ModelFolderError: a file is missing or damaged, or the model is no BERT of ours.
    """
    pickled, safe = str(path / PICKLED_WEIGHTS), str(path / WEIGHTS)
    # Tied weights share memory in a pickle, which safetensors refuses to write.
    converter = (
        "import torch, safetensors.torch as s; "
        f"s.save_file({{k: v.clone() for k, v in torch.load({pickled!r}, weights_only=True).items()}}, {safe!r})"
    )
    try:
        published = read_config(path)
        weights = {_modern(name): tensor for name, tensor in read_weights(path, converter).items()}
        left_out = {name for name in weights if name.startswith("cls.seq_relationship.")}
        kept = {name: tensor for name, tensor in weights.items() if name not in left_out}
        config = config_from_bert(published, kept)
        parts = parts_of(published.get("architectures"), kept)
        has_prefix = any(name.startswith("bert.") for name in kept)
        ours = bert_weight_map(config, parts, has_prefix).to_ours(kept)
    except ModelFolderError as error:
        raise ModelFolderError(f"{path}: {error}") from None
    tokenizer = WordPieceTokenizer.read(path)
    if tokenizer.vocab_size > config.vocab_size:
        raise ModelFolderError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} tokens, but config.json has vocab_size {config.vocab_size}"
        )
    classes = _classes(published, config.num_labels)
    return PublishedBert(config, ours, tokenizer, classes, ("next-sentence head",) if left_out else ())


def _modern(name: str) -> str:
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _classes(config: Mapping[str, Any], num_labels: int) -> tuple[str, ...]:
    """Names of the classifier's outputs; empty where they are only numbered."""
    names = config.get("id2label")
    if not isinstance(names, dict) or not num_labels:
        return ()
    classes = tuple(str(names.get(str(index))) for index in range(num_labels))
    is_named = set(names) == {str(index) for index in range(num_labels)} and len(set(classes)) == num_labels
    return classes if is_named and classes != tuple(f"LABEL_{index}" for index in range(num_labels)) else ()
