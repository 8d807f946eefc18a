"""Fine-tuning: what a training starts from when `Model.pretrained` names a folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from transformer_architectures.architectures.vanilla.published import is_marian_folder, read_marian_folder
from transformer_architectures.architectures.vanilla.transformer import Transformer, VanillaModelConfig
from transformer_architectures.errors import ConfigError
from transformer_architectures.pretrained.loading import load_weights
from transformer_architectures.pretrained.merged_config import merged_config
from transformer_architectures.pretrained.model_folder import MANIFEST, open_model_folder, run_folder_hint
from transformer_architectures.tasks.translation import Translator
from transformer_architectures.tokenization import Tokenizer

# What fine-tuning may choose anew; all else belongs to the weights.
FREE = {"dropout", "attention_dropout", "activation_dropout", "attention_backend", "pretrained"}

# Keys that say the same in another way.
SAME_AS = {
    "num_encoder_layers": "encoder_layers",
    "num_decoder_layers": "decoder_layers",
    "decoder_start_id": "start_id",
}


@dataclass(frozen=True)
class PretrainedStart:
    """A model's declaration, its tokenizer, and how its weights are read."""

    model_config: VanillaModelConfig
    tokenizer: Tokenizer
    read_model: Callable[[VanillaModelConfig], Transformer]

    def build_model(self, config: VanillaModelConfig) -> Transformer:
        """The model with its weights."""
        return self.read_model(config)


def read_pretrained(config: VanillaModelConfig) -> PretrainedStart:
    """Reads the folder that `Model.pretrained` names: one of this library's, or a published Marian model.

    Raises:
        ConfigError: the folder is of neither kind, or a key of the `Model:` section contradicts it.
        ModelFolderError: the folder is damaged, or incomplete, or cannot be a vanilla Transformer.
        UsageError: a Marian model is to be read without the package `sentencepiece`.
    """
    path = Path(config.pretrained)
    if (path / MANIFEST).is_file():
        return _from_our_folder(config, path)
    if is_marian_folder(path):
        return _from_marian(config, path)
    raise ConfigError(
        f"Model: pretrained: {path} is neither a model folder nor a published Marian model{run_folder_hint(path)}"
    )


def _from_our_folder(config: VanillaModelConfig, path: Path) -> PretrainedStart:
    folder = open_model_folder(path)
    loaded = folder.load("cpu")
    if not isinstance(loaded, Translator):
        raise ConfigError(f"Model: pretrained: {path} is a model for {folder.config['task']}, not for translation")

    def read_model(config: VanillaModelConfig) -> Transformer:
        return _model(config, folder.weights(), path)

    return PretrainedStart(merged_config(config, loaded.model.config, FREE, SAME_AS), loaded.tokenizer, read_model)


def _from_marian(config: VanillaModelConfig, path: Path) -> PretrainedStart:
    found, _, tokenizer = read_marian_folder(path)

    def read_model(config: VanillaModelConfig) -> Transformer:
        _, weights, _ = read_marian_folder(path)  # again, instead of keeping them through the whole training
        return _model(config, weights, path)

    return PretrainedStart(merged_config(config, found, FREE, SAME_AS), tokenizer, read_model)


def _model(config: VanillaModelConfig, weights: Mapping[str, Tensor], path: Path) -> Transformer:
    model = Transformer(config)
    load_weights(model, weights, path)
    return model
