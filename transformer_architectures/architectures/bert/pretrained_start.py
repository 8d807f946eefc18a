"""Fine-tuning, or going on with pre-training: what a training starts from when `Model.pretrained` names a folder."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from torch import Tensor

from transformer_architectures.architectures.bert.published import is_bert_folder, read_bert_folder
from transformer_architectures.architectures.bert.transformer import (
    BertForMaskedLM,
    BertForSeqClassification,
    BertForTokenClassification,
    BertModelConfig,
)
from transformer_architectures.errors import ConfigError, ModelFolderError
from transformer_architectures.pretrained.loading import load_weights, part_of
from transformer_architectures.pretrained.merged_config import merged_config
from transformer_architectures.pretrained.model_folder import MANIFEST, ModelFolder, open_model_folder, run_folder_hint
from transformer_architectures.tokenization import WordPieceTokenizer, load_tokenizer

# What fine-tuning may choose anew; all else belongs to the weights. The number of labels is that of the data.
FREE = {
    "dropout", "attention_dropout", "activation_dropout", "classifier_dropout", "attention_backend", "pretrained",
    "pooling", "num_labels",
}  # fmt: skip

# Parts of the models whose rows are classes.
CLASSIFIERS = {"sequence_head", "token_head"}

Model = TypeVar("Model", BertForMaskedLM, BertForSeqClassification, BertForTokenClassification)


@dataclass(frozen=True)
class PretrainedStart:
    """A model's declaration, its tokenizer, and weights part by part: the encoder (``backbone``) and what stood on it.

    Attributes:
        model_config: with what fine-tuning chose.
        classes: of a classifier's outputs; empty where there is none, or nothing vouches for them.
    """

    model_config: BertModelConfig
    tokenizer: WordPieceTokenizer
    weights: Mapping[str, Tensor]
    classes: Sequence[str] = ()

    def build_model(self, kind: type[Model], classes: Sequence[str] = ()) -> Model:
        """A model of this kind for these classes. Parts of it that the folder has not are drawn anew, others are left out.

        A classifier is kept if it is one of the same classes, in any order. What was not kept is said on standard error.
        """
        model = kind(self.model_config.model_copy(update={"num_labels": len(classes)}))
        weights = self.weights
        if classes and sorted(classes) == sorted(self.classes):
            weights = self._for_order_of(classes)
        else:
            weights = {name: tensor for name, tensor in weights.items() if part_of(name) not in CLASSIFIERS}
        own = {part_of(name) for name in model.state_dict()}
        given = {part_of(name) for name in weights}
        origin = self.model_config.pretrained
        used = {name: tensor for name, tensor in weights.items() if part_of(name) in own}
        load_weights(model, used, origin, new_parts=own - given - {"backbone"})
        _say(origin, "not used", {part_of(name) for name in self.weights} - (own & given))
        _say(origin, "drawn anew", own - given)
        return model

    def _for_order_of(self, classes: Sequence[str]) -> Mapping[str, Tensor]:
        """The weights with the rows of the classifier in the order of these classes."""
        rows = [list(self.classes).index(name) for name in classes]
        return {name: tensor[rows] if part_of(name) in CLASSIFIERS else tensor for name, tensor in self.weights.items()}


def read_pretrained(config: BertModelConfig) -> PretrainedStart:
    """Reads the folder that `Model.pretrained` names: one of this library's, or a published one of `transformers`.

    Raises:
        ConfigError: the folder is of neither kind, or a key of the `Model:` section contradicts it.
        ModelFolderError: the folder is damaged, or incomplete, or cannot be a BERT of ours.
    """
    path = Path(config.pretrained)
    if (path / MANIFEST).is_file():
        return _from_our_folder(config, open_model_folder(path))
    if not is_bert_folder(path):
        raise ConfigError(
            f"Model: pretrained: {path} is neither a model folder nor a published BERT{run_folder_hint(path)}"
        )
    published = read_bert_folder(path)
    for part in published.left_out:
        print(f"{path}: not used: {part}", file=sys.stderr)
    merged = merged_config(config, published.config, FREE, {})
    return PretrainedStart(merged, published.tokenizer, published.weights, published.classes)


def _from_our_folder(config: BertModelConfig, folder: ModelFolder) -> PretrainedStart:
    if folder.config.get("architecture") != "bert":
        raise ConfigError(f"Model: pretrained: {folder.path} is a model for {folder.config.get('task')}, and no BERT")
    try:
        found = BertModelConfig.model_validate(folder.config["model"])
        classes = [str(name) for name in folder.config.get("classes", [])]
    except (KeyError, TypeError, ValidationError) as error:
        raise ModelFolderError(f"{folder.path}: config.json is damaged: {' '.join(str(error).split())}") from None
    tokenizer = load_tokenizer(folder.path, folder.manifest.files)
    if not isinstance(tokenizer, WordPieceTokenizer) or tokenizer.vocab_size > found.vocab_size:
        raise ModelFolderError(f"{folder.path}: the tokenizer is not that of a BERT of {found.vocab_size} tokens")
    return PretrainedStart(merged_config(config, found, FREE, {}), tokenizer, folder.weights(), classes)


def _say(origin: str, what: str, parts: set[str]) -> None:
    if parts:
        print(f"{origin}: {what}: {', '.join(sorted(parts))}", file=sys.stderr)
