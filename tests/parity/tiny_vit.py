"""Tiny random Vision Transformers by timm and by `transformers`, and folders of them as published ones look."""

import json
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from agreement import randomize
from timm.models._hub import save_for_hf
from torch import Tensor, nn
from transformers import ViTConfig

# The forms of timm's model that ours takes; sizes are added by chance.
TIMM_FORMS: dict[str, dict[str, Any]] = {
    "cls": {},
    "mean": {"global_pool": "avg"},
    "mean of normed states, without class token": {"global_pool": "avg", "class_token": False, "fc_norm": False},
    "registers": {"reg_tokens": 3},
    "registers without positions": {"reg_tokens": 2, "no_embed_class": True},
    "mean with registers, without class token": {"global_pool": "avg", "class_token": False, "reg_tokens": 1},
    "not square": {"img_size": (8, 20)},
    "no head": {"num_classes": 0},
    "tanh gelu": {"act_layer": "gelu_tanh"},
}


def timm_model(seed: int, **settings: Any) -> nn.Module:
    """By timm, with sizes by chance; every weight matters."""
    draw = random.Random(seed)
    heads = draw.randint(1, 4)
    sizes = {
        "img_size": 4 * draw.randint(1, 4),
        "patch_size": 4,
        "in_chans": draw.randint(1, 4),
        "num_classes": draw.randint(1, 9),
        "embed_dim": heads * draw.choice([4, 6, 8]),
        "depth": draw.randint(1, 3),
        "num_heads": heads,
        "mlp_ratio": draw.choice([1.5, 2.0, 4.0]),
    }
    model: nn.Module = timm.create_model("vit_base_patch16_224", **{**sizes, **settings}).eval()
    randomize(model)
    return model


def write_timm_folder(folder: Path, model: nn.Module) -> None:
    """As timm itself writes it for the hub."""
    save_for_hf(model, folder, safe_serialization=True)


def timm_config(folder: Path) -> dict[str, Any]:
    """The content of ``config.json``."""
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content


def transformers_config(seed: int, **settings: Any) -> ViTConfig:
    """With sizes by chance."""
    draw = random.Random(seed)
    heads = draw.randint(1, 4)
    return ViTConfig(
        **{
            "image_size": 4 * draw.randint(1, 4),
            "patch_size": 4,
            "num_channels": draw.randint(1, 4),
            "num_labels": draw.randint(1, 9),
            "hidden_size": heads * draw.choice([4, 6, 8]),
            "num_hidden_layers": draw.randint(1, 3),
            "num_attention_heads": heads,
            "intermediate_size": draw.randint(8, 48),
            **settings,
        }
    )


def transformers_model(config: ViTConfig, kind: type[nn.Module]) -> nn.Module:
    """A `ViTForImageClassification` or a `ViTModel`; every weight matters."""
    model = kind(config).eval()
    randomize(model)
    return model


def names_in_files(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names that version 5 of `transformers` gives to weights in memory, changed to those in files (version 4: equal)."""
    changes = {
        r"^(vit\.)?layers\.": r"\1encoder.layer.",
        r"\.attention\.q_proj\.": ".attention.attention.query.",
        r"\.attention\.k_proj\.": ".attention.attention.key.",
        r"\.attention\.v_proj\.": ".attention.attention.value.",
        r"\.attention\.o_proj\.": ".attention.output.dense.",
        r"\.mlp\.fc1\.": ".intermediate.dense.",
        r"\.mlp\.fc2\.": ".output.dense.",
    }
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in changes.items():
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed
