"""Suites: what is trained in which order from which model, and what is refused."""

from pathlib import Path

import pytest

from transformer_architectures.errors import ConfigError
from transformer_architectures.training.runs.finish import FinishedRun
from transformer_architectures.training.runs.seeds import SeedRun
from transformer_architectures.training.runs.suite import compare, suite_of, train_suite

SUITE = """
Model:
  architecture: bert
Suite:
  runs:
    - {name: control, config: tag.yaml, overrides: [Model.num_layers=2]}
    - {name: encoder, config: pretrain.yaml}
    - {name: tags, config: tag.yaml, pretrained: encoder}
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def left_by(config: str, number: int, seed: int, score: float) -> SeedRun:
    task = Path(config).stem
    results = {"task": task, "validation": {"f1": score}, "test": {"f1": score / 2}, "baseline": {"f1": 0.125}}
    return SeedRun(seed, FinishedRun(Path(f"out/{number}-{seed}/model"), results))


def test_runs_go_from_top_to_bottom_and_start_from_the_best_seed(tmp_path: Path) -> None:
    calls: list[tuple[str, list[str]]] = []

    def train(config: str, overrides: list[str]) -> list[SeedRun]:
        calls.append((config, overrides))
        return [left_by(config, len(calls), seed, 0.25 + seed / 10) for seed in (1, 3, 2)]

    suite = suite_of(write(tmp_path / "suite.yaml", SUITE))
    assert suite is not None
    for name in ("tag.yaml", "pretrain.yaml"):
        write(tmp_path / name, "Model: {architecture: bert}\n")
    found = train_suite(suite, tmp_path, train)
    assert calls == [
        (str(tmp_path / "tag.yaml"), ["Model.num_layers=2", "Training.run_name=control", "Model.pretrained="]),
        (str(tmp_path / "pretrain.yaml"), ["Training.run_name=encoder", "Model.pretrained="]),
        (str(tmp_path / "tag.yaml"), ["Training.run_name=tags", "Model.pretrained=out/2-3/model"]),
    ]
    lines = list(compare(suite, found))
    assert [line.split() for line in lines if line.startswith("model folder")] == [
        ["model", "folder", f"out/{number}-3/model"] for number in (1, 2, 3)
    ]
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("  ")}
    assert rows["control"] == rows["tags"] == ["0.225", "±", "0.05"] and rows["baseline"] == ["0.125"]
    assert lines.index("\ntag (tag.yaml)") < lines.index("\npretrain (pretrain.yaml)")


def test_a_suite_of_suites_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    suite = suite_of(write(tmp_path / "tag.yaml", SUITE))
    assert suite is not None
    with pytest.raises(ConfigError, match="tag.yaml: a suite: name its configs here instead"):
        train_suite(suite, tmp_path, lambda config, overrides: pytest.fail("nothing must be trained"))


def test_a_config_without_a_suite_is_one_training(tmp_path: Path) -> None:
    for text in ("Model:\n  architecture: bert\n", "Model: {pretrained: '${UNSET_FOR_SURE}'}\n", ""):
        assert suite_of(write(tmp_path / "one.yaml", text)) is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: encoder", "name: control", "two runs are called control"),
        ("pretrained: encoder", "pretrained: tags", "no earlier run tags"),
        ("architecture: bert", "architecture: bert\n  dropout: 0.1", "Model.dropout belongs into the configs"),
        ("Suite:", "Training: {max_steps: 1}\nSuite:", "Training belongs into the configs"),
        ("pretrained: encoder", "pretraned: encoder", "unknown key"),
        (
            "Model.num_layers=2",
            "Model.pretrained=x",
            "a suite sets Model.pretrained itself, from the run's `pretrained`",
        ),
        ("Model.num_layers=2", "Training.run_name=x", "a suite sets Training.run_name itself, from the run's `name`"),
    ],
)
def test_errors_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        suite_of(write(tmp_path / "suite.yaml", SUITE.replace(old, new)))
