"""Published encoders, as `transformers` saves them, and BERT's own form.

* A checkpoint is an encoder and its heads: pooler, masked-language-model head, classifier. Pre-trained ones often hold
  more than their class needs, so a folder is read part by part, under the names that the parts have in our models; what has no
  place there (the next-sentence head) is left out.
* Names of the encoder's weights have a prefix where it has a head. Files made from TensorFlow's checkpoints call a
  norm's weight and bias gamma and beta.
* BERT: post-norm with a norm of the embeddings (eps 1e-12 unless ``config.json`` says otherwise), learned positions, token types.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from transformer_architectures.architectures.bert.transformer import BertModelConfig
from transformer_architectures.architectures.family import Family
from transformer_architectures.errors import UnknownModelError
from transformer_architectures.pretrained.config_map import (
    ACTIVATIONS,
    ConfigEntry,
    ConfigMap,
    Key,
    Ours,
    Theirs,
)
from transformer_architectures.pretrained.published_folder import (
    PublishedFormat,
    PublishedModel,
    is_published,
    named_labels,
    numbered_classes,
    read_published_folder,
)
from transformer_architectures.pretrained.weight_map import Computed, Entry, Rename, Tied, WeightMap, for_each

# Parts that are ready to use, each with its task.
HEADS = {
    "masked_lm_head": "masked_language_model",
    "sequence_head": "text_classification",
    "token_head": "token_classification",
}


@dataclass(frozen=True, kw_only=True)
class PublishedEncoder(Family):
    """How a family of encoders is published. In names, `{prefix}` is that under a head, `{i}` a layer, `{kind}` weight or bias.

    Attributes:
        name: of the family, and its ``model_type`` in ``config.json``; title: for messages.
        prefix: of the encoder's weights under a head.
        classes: their classes, each with the head that it has in our models, or "".
        keys: of ``config.json``.
        backbone: the encoder's weights, but for the token embeddings.
        tokens, decoder: their names for the token embeddings, and for the same matrix at the output.
        parts: weights of the heads.
        left_out: what has no place in our models, by the beginning of its names.
    """

    title: str
    prefix: str
    classes: Mapping[str, str]
    keys: Sequence[ConfigEntry]
    backbone: Sequence[Entry]
    tokens: str
    decoder: str
    parts: Mapping[str, Sequence[Entry]]
    left_out: Mapping[str, str]

    # ---------------------------------------------------------------- config.json
    def config_map(self, parts: Collection[str]) -> ConfigMap:
        """Keys of a model with these parts. Only a masked language model has something to tie."""
        keys = [
            *(Ours(key, value) for key, value in self.fixed.items()),
            *self.keys,
            Theirs("is_decoder", False, False),
            Theirs("add_cross_attention", False, False),
        ]
        keys += [Theirs("pruned_heads", {}, False)]
        keys += [Theirs("tie_word_embeddings", True)] if "masked_lm_head" in parts else []
        return ConfigMap(self.title, keys, () if "masked_lm_head" in parts else ["tie_word_embeddings"])

    def config_to_ours(
        self, config: Mapping[str, Any], weights: Mapping[str, Tensor], model: type[BertModelConfig] = BertModelConfig
    ) -> BertModelConfig:
        """The declaration of a published model, given the content of its ``config.json`` and its weights.

        Raises:
            UnknownModelError: a key is of a wrong type, or asks for what `Bert` cannot do.
        """
        if config.get("model_type") != self.name:
            raise UnknownModelError(f"no {self.title}: its model_type is {config.get('model_type')}")
        parts = self.parts_of(config.get("architectures"), weights)
        heads = [self._first_name(part) for part in ("sequence_head", "token_head") if part in parts]
        more: dict[str, Any] = {"num_labels": len(weights[heads[0]]) if heads else 0}
        if self.name != model.model_fields["architecture"].default:
            more["family"] = self.name
        return self.config_map(parts).to_ours(model, config, **more)

    def config_to_theirs(
        self, config: BertModelConfig, parts: Collection[str], classes: Sequence[str] = ()
    ) -> dict[str, Any]:
        """The content of ``config.json`` for a model of ours with these parts: the inverse of `config_to_ours`.

        Args:
            classes: names of the classifier's outputs; numbered where there are none.

        Raises:
            UnknownModelError: the model computes something that theirs does not.
        """
        if "sequence_head" in parts and config.pooling != "cls":
            raise UnknownModelError(f"no {self.title}: pooling is {config.pooling}, not cls")
        theirs = self.config_map(parts).to_theirs(config)
        if not theirs.get("type_vocab_size", 1):
            raise UnknownModelError(f"no {self.title}: token_types is 0")
        kind = next((name for name, part in self.classes.items() if part in parts), next(iter(self.classes)))
        labels = named_labels(list(classes) or numbered_classes(config.num_labels))
        return {"model_type": self.name, "architectures": [kind], **theirs, **labels}

    # ---------------------------------------------------------------- weights
    def weight_map(self, config: BertModelConfig, parts: Collection[str], has_prefix: bool | None = None) -> WeightMap:
        """The names of our weights and of those in ``model.safetensors``.

        Args:
            parts: which of ``parts`` there are beside the encoder.
            has_prefix: whether the encoder's names have their prefix; unless given, they do where there is a head.
        """
        prefix = self.prefix if (bool(HEADS.keys() & set(parts)) if has_prefix is None else has_prefix) else ""
        ours = "backbone.token_embedding.weight"
        entries: list[Entry] = [*self.backbone, Rename(ours, self.tokens)]
        if "masked_lm_head" in parts:
            entries[-1] = Tied((ours, "masked_lm_head.decoder.weight"), (self.tokens, self.decoder))
        entries += [entry for part in self.parts if part in parts for entry in self.parts[part]]
        filled = for_each(entries, prefix=[prefix], i=range(config.num_layers), kind=("weight", "bias"))
        numbers = torch.arange(config.max_positions + config.position_offset)[None].float()
        return WeightMap([*filled, Computed((), (f"{prefix}embeddings.position_ids",), numbers, is_written=False)])

    def parts_of(self, architectures: Sequence[str] | None, weights: Mapping[str, Tensor]) -> list[str]:
        """Which parts a checkpoint holds beside the encoder.

        Raises:
            UnknownModelError: its class is not known here, or does not say whether the classifier is for texts or for tokens.
        """
        for name in architectures or ():
            if name not in self.classes:
                raise UnknownModelError(f"architectures: {name} is not one of {', '.join(self.classes)}")
        found = [part for part in self.parts if self._first_name(part) in weights]
        found += [part for part in self.parts if self.prefix + self._first_name(part) in weights and part not in found]
        if {"sequence_head", "token_head"} <= set(found):
            named = [self.classes[name] for name in architectures or ()]
            kinds = [name for name, part in self.classes.items() if part in ("sequence_head", "token_head")]
            if not {"sequence_head", "token_head"} & set(named):
                raise UnknownModelError(f"architectures names none of {', '.join(kinds)}, but there is a classifier")
            found.remove("token_head" if "sequence_head" in named else "sequence_head")
        return [part for part in self.parts if part in found]

    def read(
        self, content: Mapping[str, Any], weights: Mapping[str, Tensor], model: type[BertModelConfig] = BertModelConfig
    ) -> PublishedModel:
        """A published model, part by part."""
        weights = {_modern(name): tensor for name, tensor in weights.items()}
        dropped = {name: what for name in weights for start, what in self.left_out.items() if name.startswith(start)}
        kept = {name: tensor for name, tensor in weights.items() if name not in dropped}
        config = self.config_to_ours(content, kept, model)
        has_prefix = any(name.startswith(self.prefix) for name in kept)
        ours = self.weight_map(config, self.parts_of(content.get("architectures"), kept), has_prefix).to_ours(kept)
        return PublishedModel(config, ours, tuple(sorted(set(dropped.values()))))

    @property
    def published(self) -> PublishedFormat:
        """See `Family.published`."""
        return PublishedFormat(self.title, lambda content: content.get("model_type") == self.name, self.read, HEADS)

    def _first_name(self, part: str) -> str:
        name = self.parts[part][0].theirs
        return (name if isinstance(name, str) else name[0]).format(prefix="", kind="weight")


def _modern(name: str) -> str:
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


# What all these families have in common.
POST_NORM: dict[str, Any] = {"pre_layernorm": False, "positions": "learned"}

SIZES: list[ConfigEntry] = [
    Ours("activation_dropout", 0.0),
    Key("vocab_size", "vocab_size", 30522),
    Key("embed_dim", "hidden_size", 768),
    Key("num_layers", "num_hidden_layers", 12),
    Key("num_heads", "num_attention_heads", 12),
    Key("ff_dim", "intermediate_size", 3072),
    Key("dropout", "hidden_dropout_prob", 0.1),
    Key("attention_dropout", "attention_probs_dropout_prob", 0.1),
    Key("classifier_dropout", "classifier_dropout", None),
    Key("token_types", "type_vocab_size", 2),
    Key("layer_norm_eps", "layer_norm_eps", 1e-12),
    Theirs("position_embedding_type", "absolute"),
]

BACKBONE: list[Entry] = [
    Rename("backbone.positions.weight", "{prefix}embeddings.position_embeddings.weight"),
    Rename("backbone.token_types", "{prefix}embeddings.token_type_embeddings.weight"),
    Rename("backbone.embedding_norm.{kind}", "{prefix}embeddings.LayerNorm.{kind}"),
    Rename(
        "backbone.encoder.blocks.{i}.self_attention.attention.query.{kind}",
        "{prefix}encoder.layer.{i}.attention.self.query.{kind}",
    ),
    Rename(
        "backbone.encoder.blocks.{i}.self_attention.attention.key.{kind}",
        "{prefix}encoder.layer.{i}.attention.self.key.{kind}",
    ),
    Rename(
        "backbone.encoder.blocks.{i}.self_attention.attention.value.{kind}",
        "{prefix}encoder.layer.{i}.attention.self.value.{kind}",
    ),
    Rename(
        "backbone.encoder.blocks.{i}.self_attention.attention.output.{kind}",
        "{prefix}encoder.layer.{i}.attention.output.dense.{kind}",
    ),
    Rename(
        "backbone.encoder.blocks.{i}.self_attention.residual.norm.{kind}",
        "{prefix}encoder.layer.{i}.attention.output.LayerNorm.{kind}",
    ),
    Rename(
        "backbone.encoder.blocks.{i}.feedforward.expand.{kind}", "{prefix}encoder.layer.{i}.intermediate.dense.{kind}"
    ),
    Rename("backbone.encoder.blocks.{i}.feedforward.output.{kind}", "{prefix}encoder.layer.{i}.output.dense.{kind}"),
    Rename(
        "backbone.encoder.blocks.{i}.feedforward.residual.norm.{kind}",
        "{prefix}encoder.layer.{i}.output.LayerNorm.{kind}",
    ),
]

BERT = PublishedEncoder(
    name="bert",
    title="BERT",
    fixed={**POST_NORM, "position_offset": 0, "pooler_activation": "tanh", "dropout_before_pooler": False},
    defaults={"layer_norm_eps": 1e-12, "token_types": 2, "activation": "gelu"},
    prefix="bert.",
    classes={
        "BertModel": "",
        "BertForMaskedLM": "masked_lm_head",
        "BertForPreTraining": "masked_lm_head",
        "BertForSequenceClassification": "sequence_head",
        "BertForTokenClassification": "token_head",
    },
    keys=[
        *SIZES,
        Key("activation", "hidden_act", "gelu", values=ACTIVATIONS),
        Key("max_positions", "max_position_embeddings", 512),
    ],
    backbone=BACKBONE,
    tokens="{prefix}embeddings.word_embeddings.weight",
    decoder="cls.predictions.decoder.weight",
    parts={
        "pooler": [Rename("pooler.{kind}", "{prefix}pooler.dense.{kind}")],
        "masked_lm_head": [
            Rename("masked_lm_head.transform.{kind}", "cls.predictions.transform.dense.{kind}"),
            Rename("masked_lm_head.norm.{kind}", "cls.predictions.transform.LayerNorm.{kind}"),
            Tied(("masked_lm_head.decoder.bias",), ("cls.predictions.bias", "cls.predictions.decoder.bias")),
        ],
        "sequence_head": [Rename("sequence_head.{kind}", "classifier.{kind}")],
        "token_head": [Rename("token_head.{kind}", "classifier.{kind}")],
    },
    left_out={"cls.seq_relationship.": "next-sentence head"},
)

PublishedBert = PublishedModel
config_from_bert, config_to_bert, bert_weight_map, parts_of = (
    BERT.config_to_ours, BERT.config_to_theirs, BERT.weight_map, BERT.parts_of,
)  # fmt: skip
read_bert_folder = partial(read_published_folder, formats=[BERT.published], model_config=BertModelConfig)
is_bert_folder = partial(is_published, formats=[BERT.published])
