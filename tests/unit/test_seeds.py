"""Several seeds of one configuration: which fail, what is summed up, whose folder comes last."""

import json
import statistics
from pathlib import Path

import pytest
import torch

from transformer_architectures.errors import ConfigError, LostRankError, NonFiniteError, TransformerArchitecturesError
from transformer_architectures.pretrained.model_folder import open_model_folder, write_model_folder
from transformer_architectures.training.runs.finish import FinishedRun
from transformer_architectures.training.runs.seeds import train_seeds, write_summary

SCORES = {3: (0.5, 0.9), 4: (0.7, 0.2), 6: (0.6, 0.4)}  # validation and test; seed 5 fails


def finished(root: Path, seed: int, has_test: bool) -> FinishedRun:
    validation, test = ({"f1": score, "accuracy": score / 2} for score in SCORES[seed])
    results = {"task": "tags", "validation": validation, "test": test if has_test else None}
    folder = root / f"run_{seed}" / "model"
    write_model_folder(folder, {"weight": torch.ones(1)}, {"task": "tags", "architecture": "bert"}, results)
    return FinishedRun(folder, results)


@pytest.mark.parametrize("has_test", [True, False])
def test_summary_of_the_seeds_that_did_not_fail(tmp_path: Path, has_test: bool) -> None:
    def train(seed: int) -> FinishedRun:
        if seed == 5:
            raise NonFiniteError("the loss is nan")
        return finished(tmp_path, seed, has_test)

    lines = list(write_summary(train_seeds(range(3, 7), train)))
    best = open_model_folder(tmp_path / "run_4" / "model")  # by validation, though its test score is the lowest
    summary = best.json("summary.json")
    values = [SCORES[seed][1 if has_test else 0] for seed in (3, 4, 6)]
    assert summary["part"] == ("test" if has_test else "validation") and summary["task"] == "tags"
    assert summary["mean"] == pytest.approx({"f1": statistics.mean(values), "accuracy": statistics.mean(values) / 2})
    assert summary["deviation"]["f1"] == pytest.approx(statistics.stdev(values))
    assert (summary["best_seed"], summary["failed"]) == (4, 1)
    assert [run["seed"] for run in summary["runs"]] == [3, 4, 5, 6]
    assert summary["runs"][2] == {"seed": 5, "error": "the loss is nan"} and summary["runs"][0]["run"] == "run_3"
    assert str(tmp_path) not in json.dumps(summary)
    assert lines[-1].endswith(str(best.path)) and any("1 failed" in line for line in lines)
    assert not (tmp_path / "run_3" / "model" / "summary.json").exists()
    folders = [tmp_path / f"run_{seed}" / "model" for seed in (3, 4, 6)]
    assert max(folders, key=lambda folder: folder.stat().st_mtime_ns) == best.path


def test_nothing_is_summed_up_where_all_fail_or_the_config_is_wrong(tmp_path: Path) -> None:
    def fail(seed: int) -> FinishedRun:
        raise NonFiniteError(f"the loss of {seed} is nan")

    def refuse(seed: int) -> FinishedRun:
        calls.append(seed)
        raise ConfigError("Model: unknown key")

    with pytest.raises(TransformerArchitecturesError, match="all 2 seeds failed: the loss of 1 is nan"):
        train_seeds([0, 1], fail)
    calls: list[int] = []
    with pytest.raises(ConfigError):
        train_seeds([0, 1], refuse)
    assert calls == [0]


def test_a_lost_rank_ends_all() -> None:
    def lose(seed: int) -> FinishedRun:
        calls.append(seed)
        raise LostRankError("rank 0: lost rank 1")

    calls: list[int] = []
    with pytest.raises(LostRankError):
        train_seeds([0, 1], lose)
    assert calls == [0]
