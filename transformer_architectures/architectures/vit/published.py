"""Published Vision Transformers, of timm or of `transformers`: a folder with ``config.json`` and ``model.safetensors``."""

from collections.abc import Mapping
from functools import partial
from typing import Any

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
from transformer_architectures.pretrained.published_folder import (
    PublishedFormat,
    PublishedModel,
    is_published,
    read_published_folder,
)


def read_timm(content: Mapping[str, Any], weights: Mapping[str, Tensor], model: type[VitModelConfig]) -> PublishedModel:
    """A model of timm."""
    config = config_from_timm(content, weights, model)
    return PublishedModel(config, timm_weight_map(config).to_ours(weights))


def read_transformers(
    content: Mapping[str, Any], weights: Mapping[str, Tensor], model: type[VitModelConfig]
) -> PublishedModel:
    """A model of `transformers`."""
    config = config_from_transformers(content, weights, model)
    return PublishedModel(config, transformers_weight_map(config).to_ours(weights))


HEADS = {"head": "image_classification"}
FORMATS = (
    PublishedFormat("Vision Transformer of timm", is_timm_config, read_timm, HEADS),
    PublishedFormat("Vision Transformer of transformers", is_transformers_config, read_transformers, HEADS),
)
read_vit_folder = partial(read_published_folder, formats=FORMATS, model_config=VitModelConfig)
is_vit_folder = partial(is_published, formats=FORMATS)
