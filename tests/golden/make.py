"""Writes the golden files of this version: model folders, checkpoints, and what the models said when they were made.

    uv run python tests/golden/make.py

They are made once, when a version is released, and never again: every later version has to read them.
"""

import gzip
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import torch
from golden_models import MODELS, RESUMED_STEPS, RUN_ID, TRAINED, answers, training, where_it_stands

from transformer_architectures import load_model
from transformer_architectures.training.checkpointing.checkpoints import read_checkpoint
from transformer_architectures.training.runs.run_folder import Start

HERE = Path(__file__).parent
VERSION = "0.1.0"


def main() -> None:
    """Makes all, in a folder that must not be there yet."""
    folder = HERE / VERSION
    folder.mkdir()
    torch.set_num_threads(1)
    expected: dict[str, Any] = {"answers": {}, "training": {}}
    for name, make in MODELS.items():
        make().export(folder / name, {"task": name, "seed": 0})
        expected["answers"][name] = answers(load_model(folder / name, "cpu"))
    for name in TRAINED:
        expected["training"][name] = train(name, folder)
    text = json.dumps(expected, indent=1, ensure_ascii=False)
    (folder / "expected.json").write_text(text + "\n", encoding="utf-8")


def train(name: str, folder: Path) -> dict[str, Any]:
    """Leaves a checkpoint, and says where the run goes from there."""
    mlflow.active_run = lambda: SimpleNamespace(info=SimpleNamespace(run_id=RUN_ID, run_name=name))
    root = folder / "runs"
    trainer = training(name, root)
    trainer.run()
    run_folder = root / TRAINED[name] / f"{name}_{RUN_ID[:6]}"
    for path in run_folder.glob("best_*"):  # what is not needed to go on
        path.unlink()
    elsewhere = folder / "not_kept"
    checkpoint = run_folder / f"step_{trainer.state.global_step}.pt"
    resumed = training(name, elsewhere, Start(None, checkpoint, read_checkpoint(checkpoint)), RESUMED_STEPS)
    resumed.run()
    shutil.rmtree(elsewhere)
    checkpoint.with_name(f"{checkpoint.name}.gz").write_bytes(gzip.compress(checkpoint.read_bytes(), mtime=0))
    checkpoint.unlink()
    return where_it_stands(resumed)


if __name__ == "__main__":
    main()
