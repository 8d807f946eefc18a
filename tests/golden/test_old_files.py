"""Files of every earlier version load, say what they said, and go on from where they stood."""

import gzip
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from golden_models import MODELS, RESUMED_STEPS, RUN_ID, TRAINED, answers, training, where_it_stands

from transformer_architectures import load_model
from transformer_architectures.training.runs.run_folder import find_start

VERSIONS = sorted(path.parent for path in Path(__file__).parent.glob("*/expected.json"))
TOLERANCE = 1e-5
MAX_BYTES = 300_000  # of all files of a version


def differences(found: Any, expected: Any, place: str = "") -> list[str]:
    """Where two answers differ by more than rounding."""
    if isinstance(expected, dict) and isinstance(found, dict) and found.keys() == expected.keys():
        return [line for key in expected for line in differences(found[key], expected[key], f"{place}.{key}")]
    if isinstance(expected, list) and isinstance(found, list) and len(found) == len(expected):
        return [
            line
            for index, pair in enumerate(zip(found, expected, strict=True))
            for line in differences(*pair, f"{place}.{index}")
        ]
    if isinstance(expected, float) and isinstance(found, float | int):
        is_equal = math.isclose(found, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    else:
        is_equal = found == expected
    return [] if is_equal else [f"{place}: {found!r}, not {expected!r}"]


def expected(version: Path, part: str, name: str) -> Any:
    return json.loads((version / "expected.json").read_text(encoding="utf-8"))[part][name]


def by_name(version: Path) -> str:
    return version.name


def test_there_are_golden_files_of_this_version() -> None:
    assert "0.1.0" in [version.name for version in VERSIONS]
    for version in VERSIONS:
        assert sum(path.stat().st_size for path in version.rglob("*") if path.is_file()) < MAX_BYTES


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("version", VERSIONS, ids=by_name)
def test_a_model_folder_says_what_it_said(version: Path, name: str) -> None:
    loaded = load_model(version / name, "cpu")
    assert differences(answers(loaded), expected(version, "answers", name)) == []


def test_a_difference_is_seen() -> None:
    """The comparison above can fail."""
    answer = [{"a": 1.0, "b": ["x", 2]}]
    assert differences([{"a": 1.000001, "b": ["x", 2]}], answer) == []
    for other in ([{"a": 1.0001, "b": ["x", 2]}], [{"a": 1.0, "b": ["y", 2]}], [{"a": 1.0}], [], [{"a": 1.0, "b": []}]):
        assert len(differences(other, answer)) == 1


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("version", VERSIONS, ids=by_name)
def test_a_run_goes_on_from_a_checkpoint(
    version: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    run = SimpleNamespace(info=SimpleNamespace(run_id=RUN_ID, run_name=name))
    monkeypatch.setattr(mlflow, "active_run", lambda: run)
    shutil.copytree(version / "runs", tmp_path / "runs")
    (packed,) = (tmp_path / "runs" / TRAINED[name] / f"{name}_{RUN_ID[:6]}").glob("*.pt.gz")
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))

    start = find_start(str(packed.with_suffix("")), tmp_path / "runs", TRAINED[name], "")
    trainer = training(name, tmp_path / "runs", start, RESUMED_STEPS)
    assert trainer.state.global_step == 2
    trainer.run()
    assert differences(where_it_stands(trainer), expected(version, "training", name)) == []
    assert start.folder is not None
    start.folder.release()
