"""Fine-tuning: what a training starts from when `Model.pretrained` names a folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformer_architectures.architectures.vanilla.config import VanillaModelConfig
from transformer_architectures.architectures.vanilla.transformer import Transformer
from transformer_architectures.architectures.vanilla.translator import Tokenizer, Translator
from transformer_architectures.errors import ConfigError
from transformer_architectures.model_folder import MANIFEST, open_model_folder

# What fine-tuning may choose anew; all else belongs to the weights.
FREE = {"dropout", "attention_dropout", "activation_dropout", "attention_backend", "pretrained"}


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
    """Reads the folder that `Model.pretrained` names: one of this library's.

    Raises:
        ConfigError: a key of the `Model:` section contradicts the folder.
        ModelFolderError: the folder is no model folder, or damaged.
    """
    path = Path(config.pretrained)
    if not (path / MANIFEST).is_file():
        raise ConfigError(f"Model: pretrained: {path} is no model folder")
    folder = open_model_folder(path)
    loaded = folder.loader.from_folder(folder, "cpu")
    if not isinstance(loaded, Translator):
        raise ConfigError(f"Model: pretrained: {path} is a model for {folder.config['task']}, not for translation")

    def read_model(config: VanillaModelConfig) -> Transformer:
        model = Transformer(config)
        model.load_state_dict(folder.weights())
        return model

    return PretrainedStart(merged(config, loaded.model.config), loaded.tokenizer, read_model)


def merged(asked: VanillaModelConfig, found: VanillaModelConfig) -> VanillaModelConfig:
    """The folder's declaration with what fine-tuning may choose.

    Raises:
        ConfigError: the config sets another key, to another value than the folder's.
    """
    for key in sorted(asked.model_fields_set - FREE):
        if getattr(asked, key) != getattr(found, key):
            raise ConfigError(
                f"Model: {key}: {getattr(asked, key)!r} contradicts {getattr(found, key)!r} of {asked.pretrained}; leave it out"
            )
    return found.model_copy(update={key: getattr(asked, key) for key in FREE & asked.model_fields_set})


__all__ = ["PretrainedStart", "read_pretrained"]
