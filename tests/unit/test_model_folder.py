"""Model folders: whole or not at all, and no parser sees a byte that the manifest does not vouch for."""

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_translator import tiny_translator
from torch import nn

from transformer_architectures.architectures import bert, vanilla, vit
from transformer_architectures.errors import ConfigError, ModelFolderError
from transformer_architectures.pretrained.model_folder import load_model, open_model_folder, seal, write_model_folder
from transformer_architectures.pretrained.start import read_pretrained
from transformer_architectures.training.precision import resolve_precision

CONFIG = {"task": "translation", "architecture": "vanilla"}
CONFIGS = [vanilla.VanillaModelConfig, vit.VitModelConfig, bert.BertModelConfig]


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture
def folder(seed: int, tmp_path: Path) -> Path:
    tiny_translator(seed).export(tmp_path / "model", {"task": "translation", "seed": 3})
    return tmp_path / "model"


def test_the_manifest_covers_every_file(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    names = {"model.safetensors", "config.json", "results.json", "tokenizer.json"}
    assert set(manifest["files"]) == names
    assert {path.name for path in folder.iterdir()} == names | {"manifest.json"}
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # who may read one may read all
    for name, entry in manifest["files"].items():
        content = (folder / name).read_bytes()
        assert entry == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_equal_weights_give_equal_bytes_whatever_their_order(seed: int, tmp_path: Path) -> None:
    weights = {name: torch.randn(3, 4) for name in "zyxwvutsrq"}
    for number in range(3):
        write_model_folder(tmp_path / str(number), weights, CONFIG, {})
        weights = dict(reversed(weights.items()))
    assert digests(tmp_path / "0") == digests(tmp_path / "1") == digests(tmp_path / "2")


def test_tied_weights_are_saved_once_and_loaded_under_all_names(seed: int, tmp_path: Path) -> None:
    table = nn.Parameter(torch.randn(4, 3))
    fused = torch.randn(6, 3)
    weights = {
        "b": table,
        "a": table,
        "first": fused[:3],
        "second": fused[3:],
        "column": fused.T,
        "empty": torch.empty(0),
    }
    write_model_folder(tmp_path / "model", weights, CONFIG, {})
    assert set(load_file(tmp_path / "model" / "model.safetensors")) == {"a", "first", "second", "column", "empty"}
    loaded = open_model_folder(tmp_path / "model").weights()
    assert loaded["a"].data_ptr() == loaded["b"].data_ptr()
    assert set(loaded) == set(weights) and all(torch.equal(loaded[name], weights[name]) for name in weights)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "results.json", "tokenizer.json"])
def test_one_flipped_bit_is_found_before_anything_is_parsed(
    seed: int, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray((folder / name).read_bytes())
    content[seed % len(content)] ^= 1 << seed % 8
    (folder / name).write_bytes(content)
    parsers = ["safe_open", "_read_json"]
    for parser in parsers:
        monkeypatch.setattr(f"transformer_architectures.pretrained.model_folder.{parser}", None)
    with pytest.raises(ModelFolderError, match=f"{name}: differs from manifest.json.* seal "):
        load_model(folder)


def test_a_missing_or_unknown_file_is_refused(folder: Path) -> None:
    opened = open_model_folder(folder)
    with pytest.raises(ModelFolderError, match="labels.json is missing"):
        opened.file("labels.json")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelFolderError, match="tokenizer.json is missing"):
        load_model(folder)
    seal(folder)
    with pytest.raises(ModelFolderError, match="there is no tokenizer"):
        load_model(folder)


def test_an_intended_edit_is_sealed(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["generation"]["num_beams"] = 7
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "NOTES.md").write_text("ours")
    with pytest.raises(ModelFolderError):
        load_model(folder)
    assert seal(folder) == ["NOTES.md", "config.json", "model.safetensors", "results.json", "tokenizer.json"]
    assert load_model(folder, "cpu").generation.num_beams == 7  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "[]",
        '{"format": 2, "files": {}}',
        '{"format": 1, "files": {"../secret": {"size": 1, "sha256": ""}}}',
        '{"format": 1, "files": {"/etc/hostname": {"size": 1, "sha256": ""}}}',
        '{"format": 1, "files": {}}',
    ],
)
def test_a_strange_manifest_is_refused(folder: Path, manifest: str) -> None:
    (folder / "manifest.json").write_text(manifest)
    with pytest.raises(ModelFolderError):
        load_model(folder)


def test_a_folder_that_is_none_is_refused_with_advice(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="did you mean .*model"):
        load_model(tmp_path)
    with pytest.raises(ModelFolderError, match="no finished model folder"):
        load_model(tmp_path / "nothing")
    with pytest.raises(ModelFolderError, match="no model folder"):
        seal(tmp_path)


def test_a_task_of_another_library_version_is_named(seed: int, tmp_path: Path) -> None:
    write_model_folder(tmp_path / "model", {"a": torch.zeros(1)}, {"task": "weather", "architecture": "crystal"}, {})
    with pytest.raises(ModelFolderError, match="architecture crystal is not installed .*bert"):
        load_model(tmp_path / "model")


def test_a_config_that_does_not_fit_the_weights_is_one_line(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model"]["embed_dim"] = 32
    (folder / "config.json").write_text(json.dumps(config))
    seal(folder)
    with pytest.raises(ModelFolderError) as error:
        load_model(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_though_sealed(seed: int, folder: Path, value: float) -> None:
    weights = load_file(folder / "model.safetensors")
    name = random.choice([name for name, tensor in weights.items() if tensor.numel()])
    weights[name].view(-1)[random.randrange(weights[name].numel())] = value
    save_file(weights, folder / "model.safetensors", metadata={"tied": "{}"})
    seal(folder)
    with pytest.raises(ModelFolderError, match=f"{name} is not finite"):
        load_model(folder)


def test_an_unknown_precision_is_a_config_error() -> None:
    assert resolve_precision("bf16", torch.device("cpu")).name == "bf16"
    with pytest.raises(ConfigError, match="precision 'fp64': expected one of fp32, bf16, auto"):
        resolve_precision("fp64", torch.device("cpu"))


@pytest.mark.parametrize("config", CONFIGS, ids=["vanilla", "vit", "bert"])
def test_who_names_the_run_folder_is_told_of_the_model_in_it(folder: Path, config: Callable[..., Any]) -> None:
    (folder.parent / "config.json").write_text('{"fingerprint": "of a run"}')
    with pytest.raises(ConfigError, match=f"neither a model folder nor .*did you mean {folder}"):
        read_pretrained(config(pretrained=str(folder.parent)))


def test_writing_replaces_an_older_folder_and_the_remains_of_a_killed_one(seed: int, tmp_path: Path) -> None:
    for remains in (".model.unfinished", ".model.outdated"):
        (tmp_path / remains).mkdir()
        (tmp_path / remains / "junk").write_text("half")
    for number in (1, 2):
        write_model_folder(tmp_path / "model", {"a": torch.zeros(1)}, CONFIG, {"number": number})
    assert open_model_folder(tmp_path / "model").json("results.json") == {"number": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
