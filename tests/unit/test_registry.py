"""Architectures are found by declaration: those of this library, and those of any installed package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from transformer_architectures.architectures import registry
from transformer_architectures.architectures.architecture import Architecture
from transformer_architectures.architectures.vanilla.training import VANILLA
from transformer_architectures.architectures.vanilla.transformer import Transformer, VanillaModelConfig
from transformer_architectures.errors import UsageError
from transformer_architectures.tasks.masked_language_model import MaskedLanguageModelTask
from transformer_architectures.tasks.translation import TranslationTask

MODULE = """
from typing import Literal
from transformer_architectures.architectures.architecture import Architecture
from transformer_architectures.architectures.vanilla.published import MARIAN
from transformer_architectures.architectures.vanilla.transformer import Transformer, VanillaModelConfig
from transformer_architectures.tasks.translation import TranslationTask


class MineConfig(VanillaModelConfig):
    architecture: Literal["mine"] = "mine"


MINE = Architecture("mine", MineConfig, {TranslationTask: Transformer}, [MARIAN])
"""


def install(folder: Path, package: str, name: str = "mine", value: str = "mine_module:MINE") -> None:
    """What an installer leaves of a package that declares an architecture."""
    information = folder / f"{package}-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{name} = {value}\n")
    (folder / "mine_module.py").write_text(MODULE)


def tarch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a process that finds the packages of a folder."""
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "transformer_architectures.cli", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )


def config_file(folder: Path, architecture: str) -> str:
    words = ["a river", "the house", "old trees", "a long road", "the sea"]
    lines = [f"{left} and {right}\t{right} et {left}" for left in words for right in words] * 4
    (folder / "pairs.tsv").write_text("\n".join(lines) + "\n")
    config = {
        "Model": {
            "architecture": architecture,
            "vocab_size": 270,
            "embed_dim": 8,
            "num_heads": 2,
            "ff_dim": 8,
            "num_layers": 1,
        },
        "Training": {"max_steps": 2, "batch_tokens": 64, "precision": "fp32", "num_threads": 1, "num_beams": 1},
        "Data": {"train": {"file": "pairs.tsv"}, "validation_fraction": 0.2, "cache_dir": "cache"},
    }
    (folder / f"{architecture}.yaml").write_text(json.dumps(config))
    return f"{architecture}.yaml"


def test_an_installed_package_trains_and_predicts(tmp_path: Path) -> None:
    install(tmp_path, "her_package")
    trained = tarch(tmp_path, "train", config_file(tmp_path, "mine"))
    assert trained.returncode == 0, trained.stderr
    (model,) = (tmp_path / "outputs" / "mine").glob("*/model")
    assert json.loads((model / "config.json").read_text())["architecture"] == "mine"
    predicted = tarch(tmp_path, "predict", str(model), "the sea and a river")
    assert predicted.returncode == 0 and predicted.stdout.count("\n") == 1


def test_two_packages_with_one_name_are_both_named(tmp_path: Path) -> None:
    install(tmp_path, "her_package")
    install(tmp_path, "his_package", value="other_module:MINE")
    found = tarch(tmp_path, "train", config_file(tmp_path, "vanilla"))
    assert found.returncode == 2 and found.stderr.count("\n") == 1
    assert "her_package and his_package both declare this name" in found.stderr
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("value", ["no_such_module:MINE", "mine_module:NOTHING", "mine_module:MineConfig"])
def test_what_cannot_be_used_is_named_with_its_package(tmp_path: Path, value: str) -> None:
    install(tmp_path, "her_package", value=value)
    found = tarch(tmp_path, "train", config_file(tmp_path, "mine"))
    assert found.returncode == 2 and found.stderr.count("\n") == 1
    assert f"her_package declares {value}" in found.stderr


def test_an_unknown_architecture_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    found = tarch(tmp_path, "train", config_file(tmp_path, "crystal"))
    assert found.returncode == 2 and found.stderr.count("\n") == 1
    assert "'crystal', expected one of: bert, " in found.stderr and "vanilla" in found.stderr
    assert not (tmp_path / "outputs").exists()


def test_all_architectures_are_their_names() -> None:
    assert [architecture.name for architecture in registry.all_architectures()] == registry.architecture_names()
    assert {"bert", "vanilla", "vit"} <= set(registry.architecture_names())
    assert registry.find_architecture("vanilla") is VANILLA and registry.find_architecture("crystal") is None


def test_a_script_registers_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})

    class MineConfig(VanillaModelConfig):
        architecture: str = "mine"  # type: ignore[assignment]

    mine = Architecture("mine", MineConfig, {TranslationTask: Transformer})
    assert registry.register(mine) is mine is registry.find_architecture("mine") is registry.register(mine)
    assert "mine" in registry.architecture_names()
    with pytest.raises(UsageError, match="mine exists already"):
        registry.register(Architecture("mine", MineConfig, {TranslationTask: lambda config: Transformer(config)}))
    with pytest.raises(UsageError, match="vanilla exists already"):
        registry.register(VANILLA)


def test_a_declaration_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one task"):
        Architecture("vanilla", VanillaModelConfig, {})
    with pytest.raises(UsageError, match="architecture is 'vanilla'"):
        Architecture("other", VanillaModelConfig, {TranslationTask: Transformer})
    with pytest.raises(UsageError, match="must share their training_config"):
        Architecture(
            "vanilla", VanillaModelConfig, {TranslationTask: Transformer, MaskedLanguageModelTask: nn.Identity}
        )
