"""Published Vision Transformers, of timm or of `transformers`: a folder with ``config.json`` and ``model.safetensors``."""

from pathlib import Path

from torch import Tensor

from transformer_architectures.architectures.vit.published_timm import (
    config_from_timm,
    config_to_timm,
    is_timm_config,
    timm_weight_map,
)
from transformer_architectures.architectures.vit.published_transformers import (
    config_from_transformers,
    config_to_transformers,
    is_transformers_config,
    transformers_weight_map,
)
from transformer_architectures.architectures.vit.transformer import VitModelConfig
from transformer_architectures.errors import ModelFolderError
from transformer_architectures.pretrained.published_folder import PICKLED_WEIGHTS, WEIGHTS, read_config, read_weights


def is_vit_folder(path: Path) -> bool:
    """Whether the folder's ``config.json`` is that of a published Vision Transformer."""
    try:
        config = read_config(path)
    except ModelFolderError:
        return False
    return is_timm_config(config) or is_transformers_config(config)


def read_vit_folder(path: Path) -> tuple[VitModelConfig, dict[str, Tensor]]:
    """A published model as a declaration and a state dict of the `VisionTransformerForImageClassification` that fits it.

    Raises:
        ModelFolderError: a file is missing or damaged, or the model is no Vision Transformer of ours.
    """
    pickled, safe = str(path / PICKLED_WEIGHTS), str(path / WEIGHTS)
    converter = (
        f"import torch, safetensors.torch as s; s.save_file(torch.load({pickled!r}, weights_only=True), {safe!r})"
    )
    try:
        published = read_config(path)
        if is_timm_config(published):
            weights = read_weights(path, converter)
            config = config_from_timm(published, weights)
            return config, timm_weight_map(config).to_ours(weights)
        if is_transformers_config(published):
            weights = read_weights(path, converter)
            config = config_from_transformers(published, weights)
            return config, transformers_weight_map(config).to_ours(weights)
        kinds = ", ".join(f"{key} {published.get(key)}" for key in ("architecture", "model_type"))
        raise ModelFolderError(f"no Vision Transformer of timm or transformers ({kinds})")
    except ModelFolderError as error:
        raise ModelFolderError(f"{path}: {error}") from None
