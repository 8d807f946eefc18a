"""`Model.family`: a published family's choices, which single keys override, and what contradicts it."""

import json
from pathlib import Path
from typing import Any

import pytest

from transformer_architectures.architectures.architecture import Architecture
from transformer_architectures.architectures.bert.transformer import BertModelConfig
from transformer_architectures.architectures.family import Family
from transformer_architectures.architectures.registry import all_architectures
from transformer_architectures.architectures.train import architecture_of, open_config
from transformer_architectures.architectures.vit.transformer import VitModelConfig
from transformer_architectures.config.loader import fingerprint, load_sections
from transformer_architectures.errors import ConfigError

FAMILIES = [(architecture, family) for architecture in all_architectures() for family in architecture.families]
IDS = [family.name for _, family in FAMILIES]


def config_file(folder: Path, **model: Any) -> str:
    path = folder / "config.yaml"
    data = {"train": {"documents": {"bible": ["web"]}}}
    path.write_text(json.dumps({"Model": model, "Training": {"max_steps": 1}, "Data": data}))
    return str(path)


@pytest.mark.parametrize("architecture, family", FAMILIES, ids=IDS)
def test_a_family_fills_in_its_choices(tmp_path: Path, architecture: Architecture, family: Family) -> None:
    found = architecture.model_config.model_validate({"family": family.name})
    assert {key: getattr(found, key) for key in [*family.fixed, *family.defaults]} == {
        **family.fixed,
        **family.defaults,
    }
    # What a folder keeps says the same again.
    assert architecture.model_config.model_validate_json(json.dumps(found.to_folder())) == found
    for model in ({"family": family.name}, {"family": family.name, "architecture": architecture.name}):
        path = config_file(tmp_path, **model)
        assert architecture_of(path, []) is architecture
        assert open_config(architecture, path, []).model_config == found


@pytest.mark.parametrize("architecture, family", FAMILIES, ids=IDS)
def test_a_single_key_overrides_or_contradicts(tmp_path: Path, architecture: Architecture, family: Family) -> None:
    other = architecture.model_config.model_validate({"family": family.name, "layer_norm_eps": 1e-3, "embed_dim": 64})
    assert (other.layer_norm_eps, other.embed_dim) == (1e-3, 64)
    for key, value in (("pre_layernorm", True), ("positions", "sinusoidal")):
        with pytest.raises(ConfigError, match=f"Model: {key}: {value!r} contradicts family {family.name}") as error:
            load_sections(config_file(tmp_path, family=family.name, **{key: value}), architecture.sections)
        assert error.value.exit_code == 2 and "\n" not in str(error.value)
    # With a folder, what may differ between models of the family comes from there.
    start = architecture.model_config.model_validate({"family": family.name, "pretrained": "somewhere"})
    assert start.model_fields_set == {"family", "pretrained", *family.fixed}


@pytest.mark.parametrize("model", [{"family": "crystal"}, {"family": "crystal", "architecture": "bert"}])
def test_an_unknown_family_is_answered_with_the_known_ones(tmp_path: Path, model: dict[str, Any]) -> None:
    path = config_file(tmp_path, **model)
    with pytest.raises(ConfigError, match="family 'crystal' does not exist.* bert") as error:
        open_config(architecture_of(path, []), path, [])
    assert error.value.exit_code == 2 and "\n" not in str(error.value)
    with pytest.raises(ValueError, match="known: none"):
        VitModelConfig.model_validate({"family": "bert"})


def test_without_a_family_nothing_of_it_is_kept() -> None:
    config = BertModelConfig()
    assert not config.newer_keys & config.model_dump().keys() and "family" in config.newer_keys
    assert fingerprint({"Model": config}) == fingerprint({"Model": BertModelConfig(position_offset=0)})
    assert fingerprint({"Model": config}) != fingerprint({"Model": BertModelConfig(family="bert")})
    assert BertModelConfig(position_offset=2).model_dump()["position_offset"] == 2
