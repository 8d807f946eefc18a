"""A suite by several processes: trainings follow one another in the same processes, some from the model of another, some with several seeds."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from faults.toy_ranks import write_pairs
from learning.toy_runs import MODULE, empty_store, stored_points

pytestmark = pytest.mark.faults

STEPS = 20
SUITE = """
Model: {architecture: vanilla}
Suite:
  runs:
    - {name: first, config: first.yaml}
    - {name: second, config: second.yaml, pretrained: first, overrides: [Training.seeds=2]}
"""
CONFIG = f"""
Model: SIZES
Training:
  seed: 5
  num_threads: 1
  precision: fp32
  max_steps: {STEPS}
  batch_tokens: 200
  accumulation_steps: 2
  learning_rate: 0.003
  warmup_steps: 10
  validation_interval: 10
  validation_sentences: 4
  num_beams: 2
  log_interval: 1
  hang_timeout: 60
  checkpoint_root: ${{CHECKPOINT_ROOT}}
Data: {{train: {{file: pairs.tsv}}, num_workers: 1, validation_fraction: 0.1, max_length: 31, cache_dir: cache}}
"""
SIZES = "{vocab_size: 200, embed_dim: 16, num_heads: 2, ff_dim: 32, num_layers: 1, dropout: 0.0, max_length: 32}"


def trained(folder: Path, root: str, launcher: Sequence[str] = ()) -> str:
    """Trains the suite, or goes on with it; what it wrote on standard output."""
    (folder / root).mkdir(exist_ok=True)
    if not (folder / root / "mlflow.db").exists():
        shutil.copy(empty_store(), folder / root)
    command = [sys.executable, *launcher, "-m", MODULE, "--config", "suite.yaml", "--resume", "auto"]
    environment = {**os.environ, "CHECKPOINT_ROOT": str(folder / root)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def left_in(root: Path) -> tuple[dict[tuple[str, int], list[float]], dict[tuple[str, int], dict[str, float]]]:
    """Of each run, by name and seed: the losses of all steps, and the scores."""
    losses, scores = {}, {}
    for run in (root / "vanilla").iterdir():
        results = json.loads((run / "model" / "results.json").read_text())
        of_run = run.name.rpartition("_")[0], results["seed"]
        run_id = json.loads((run / "tracking" / "run.json").read_text())["run_id"]
        points = stored_points(root / "mlflow.db", run_id)
        losses[of_run] = [value for name, _, value in points if name == "train/loss"]
        scores[of_run] = results["validation"]
    return losses, scores


def test_a_suite_is_the_one_of_a_single_process(tmp_path: Path, seed: int) -> None:
    write_pairs(tmp_path / "pairs.tsv")
    (tmp_path / "suite.yaml").write_text(SUITE)
    (tmp_path / "first.yaml").write_text(CONFIG.replace("SIZES", SIZES))
    (tmp_path / "second.yaml").write_text(CONFIG.replace("SIZES", "{dropout: 0.0}"))
    said_alone = trained(tmp_path, "alone")
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    said = trained(tmp_path, "ranks", two)
    (expected_losses, expected_scores), (losses, scores) = left_in(tmp_path / "alone"), left_in(tmp_path / "ranks")
    assert losses.keys() == expected_losses.keys() == {("first", 5), ("second", 5), ("second", 6)}
    for run, expected in expected_losses.items():
        assert len(expected) == STEPS and losses[run] == pytest.approx(expected, rel=1e-4), run
        assert scores[run] == pytest.approx(expected_scores[run], rel=1e-3, abs=0.1), run
    # Said once, and the second run goes on from what the first one has learned.
    assert [line.split("  ")[0] for line in said.splitlines()] == [
        line.split("  ")[0] for line in said_alone.splitlines()
    ]
    assert losses["second", 5][0] < losses["first", 5][0]
    assert len(list((tmp_path / "ranks").glob("vanilla/*/model/summary.json"))) == 1
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "ranks").glob("vanilla/*/model/results.json")}
    assert trained(tmp_path, "ranks", two).count("This run is finished") == 3
    assert before == {path: path.stat().st_mtime_ns for path in before}
