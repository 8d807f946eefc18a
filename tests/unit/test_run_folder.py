"""Run folders: which one `--resume` goes on with, from which checkpoint, and who holds it."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from transformer_architectures.config import fingerprint
from transformer_architectures.errors import CheckpointError, UsageError
from transformer_architectures.pretrained.model_folder import seal
from transformer_architectures.training.checkpointing.checked_files import digest_path
from transformer_architectures.training.checkpointing.checkpoints import write_checked
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.runs.run_folder import RunFolder, Start, find_start
from transformer_architectures.training.runs.starting import is_finished
from transformer_architectures.training.state import RunState

HOLD = """if True:
    import multiprocessing, sys, time
    from pathlib import Path
    from transformer_architectures.training.runs.run_folder import RunFolder
    folder = RunFolder(Path(sys.argv[1]))
    assert folder.lock()
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    worker.start()  # as a data loader's
    print(worker.pid, flush=True)
    time.sleep(60)
"""


def config(**changes: Any) -> dict[str, TrainingConfig]:
    return {"Training": TrainingConfig(max_steps=changes.pop("max_steps", 10), **changes)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


def run(root: Path, name: str, checkpoints: list[str], age: float = 0, **changes: Any) -> RunFolder:
    """A run with these checkpoints, each a second newer than the one before; the last one is ``age`` seconds old."""
    folder = RunFolder(root / "vanilla" / f"{name}_000000")  # as the run of `save` is called
    folder.path.mkdir(parents=True)
    folder.write_config(config(**changes))
    for index, checkpoint in enumerate(checkpoints):
        path = folder.path / checkpoint
        save(path, global_step=index + 1)
        written = time.time() - age - len(checkpoints) + 1 + index
        os.utime(path, (written, written))
    return folder


def save(path: Path, global_step: int) -> None:
    extra = {"state": RunState(global_step=global_step).as_dict()}
    content = {"format": 1, "epoch": 0, "global_step": global_step, "run_id": "0" * 32, "extra": extra}
    write_checked(path, {**content, "model": {"w": torch.ones(9)}, "optimizer": None, "scheduler": None})


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.randrange(len(content))] ^= 1
    times = (path.stat().st_atime, path.stat().st_mtime)
    path.write_bytes(content)
    os.utime(path, times)


def auto(root: Path, **changes: Any) -> Start:
    return find_start("auto", root, "vanilla", fingerprint(config(**changes)))


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Any]:
    """Processes that hold a folder, and have a child as a data loader has."""
    processes = []

    def hold(folder: RunFolder) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder.path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        processes.append((process, int(process.stdout.readline())))
        return process

    yield hold
    for process, worker in processes:
        process.kill()
        process.wait()
        os.kill(worker, signal.SIGKILL)


# -------------------------------------------------------------------- auto
def test_auto_takes_the_newest_checkpoint_of_the_newest_run(root: Path) -> None:
    run(root, "a", ["epoch_1.pt", "step_7.pt"], age=50)
    newest = run(root, "b", ["step_10.pt", "epoch_1.pt", "step_9.pt"])
    run(root, "c", ["epoch_8.pt"], age=100)
    start = auto(root)
    assert start.folder is not None and start.checkpoint is not None
    assert start.folder.path == newest.path and start.path == newest.path / "step_9.pt"
    assert start.checkpoint["global_step"] == 3
    assert start.folder.held is not None


def test_auto_starts_anew_where_there_is_nothing_to_go_on_from(root: Path) -> None:
    assert auto(root) == Start()
    folder = run(root, "killed_before_its_first_checkpoint", [])
    (folder.path / "best_3.pt").write_bytes(b"weights alone")
    (root / "vanilla" / "a_file").write_text("")
    assert auto(root) == Start() == find_start(None, root, "vanilla", "")


def test_auto_passes_over_another_configuration(root: Path) -> None:
    run(root, "other", ["epoch_1.pt"], learning_rate=0.5)
    (run(root, "unknown", ["epoch_1.pt"]).path / "config.json").write_text("[]")
    (run(root, "lost", ["epoch_1.pt"]).path / "config.json").unlink()
    assert auto(root) == Start()
    mine = run(root, "mine", ["epoch_1.pt"], age=100)
    assert auto(root).path == mine.path / "epoch_1.pt"


def test_what_does_not_change_the_learning_is_the_same_configuration(root: Path) -> None:
    mine = run(root, "mine", ["epoch_1.pt"])
    same = {"max_steps": 99, "max_epochs": 3, "log_interval": 7, "device": "cpu", "run_name": "x", "experiment": "y"}
    assert auto(root, **same, checkpoint_root="elsewhere", histogram_interval=5).path == mine.path / "epoch_1.pt"
    for change in (
        {"seed": 5},
        {"precision": "fp32"},
        {"accumulation_steps": 2},
        {"clip_norm": None},
        {"compile": True},
    ):
        assert auto(root, **change) == Start(), change


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    seed: int, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run(root, "mine", ["step_1.pt", "step_2.pt", "step_3.pt", "step_4.pt"])
    damage(folder.path / "step_4.pt")
    digest_path(folder.path / "step_3.pt").unlink()
    assert auto(root).path == folder.path / "step_2.pt"
    assert "step_4.pt" in caplog.text and "step_3.pt" in caplog.text
    for name in ("step_1.pt", "step_2.pt"):
        damage(folder.path / name)
    older = run(root, "older", ["step_1.pt"], age=100)
    assert auto(root).path == older.path / "step_1.pt"
    damage(older.path / "step_1.pt")
    assert auto(root) == Start()


def test_auto_passes_over_a_folder_that_a_living_process_holds(root: Path, holder: Any) -> None:
    newest, older = run(root, "newest", ["epoch_1.pt"]), run(root, "older", ["epoch_1.pt"], age=100)
    process = holder(newest)
    assert auto(root).path == older.path / "epoch_1.pt"
    process.kill()
    process.wait()
    assert auto(root).path == newest.path / "epoch_1.pt"


# -------------------------------------------------------------------- by name
def test_a_checkpoint_or_a_folder_can_be_named(root: Path) -> None:
    folder = run(root, "mine", ["step_1.pt", "step_2.pt"], learning_rate=0.5)
    for name, expected in (("step_1.pt", "step_1.pt"), ("", "step_2.pt")):
        start = find_start(str(folder.path / name), root, "vanilla", "another configuration")
        assert start.path == folder.path / expected and start.checkpoint is not None and start.folder is not None
        start.folder.release()


def test_a_named_checkpoint_that_cannot_be_used_is_an_error(seed: int, root: Path, holder: Any) -> None:
    folder = run(root, "mine", ["step_1.pt", "step_2.pt"])
    damage(folder.path / "step_2.pt")
    with pytest.raises(CheckpointError, match="step_2.pt: damaged"):
        find_start(str(folder.path / "step_2.pt"), root, "vanilla", "")
    start = find_start(str(folder.path), root, "vanilla", "")
    assert start.path == folder.path / "step_1.pt" and start.folder is not None
    start.folder.release()
    damage(folder.path / "step_1.pt")
    with pytest.raises(CheckpointError, match="no checkpoint in this folder is intact"):
        find_start(str(folder.path), root, "vanilla", "")
    with pytest.raises(CheckpointError, match="no such file"):
        find_start(str(root / "nothing"), root, "vanilla", "")
    with pytest.raises(CheckpointError, match="no checkpoint in this folder"):
        find_start(str(run(root, "empty", []).path), root, "vanilla", "")
    held = run(root, "held", ["step_1.pt"])
    holder(held)
    for name in ("step_1.pt", ""):
        with pytest.raises(CheckpointError, match="another process is training"):
            find_start(str(held.path / name), root, "vanilla", "")


def test_what_is_no_checkpoint_of_a_run_is_refused_by_name(root: Path) -> None:
    """`save_checkpoint` may be used without the loop: such a file is intact, but does not say where a run stands."""
    folder = run(root, "mine", ["step_1.pt"])
    content = {"format": 1, "epoch": 0, "global_step": 1, "run_id": "0" * 32, "model": {}}
    for extra in ({}, {"state": {"global_step": 1, "unknown": 2}}, {"state": 3}):
        write_checked(folder.path / "step_2.pt", {**content, "optimizer": None, "scheduler": None, "extra": extra})
        with pytest.raises(CheckpointError, match="step_2.pt") as caught:
            find_start(str(folder.path / "step_2.pt"), root, "vanilla", "")
        assert "\n" not in str(caught.value)
        start = find_start(str(folder.path), root, "vanilla", "")
        assert start.path == folder.path / "step_1.pt" and start.folder is not None
        start.folder.release()


# -------------------------------------------------------------------- the lock
def test_one_process_at_a_time_and_a_dead_one_holds_nothing(tmp_path: Path, holder: Any) -> None:
    """Not even by the workers that outlive it for some seconds."""
    folder = RunFolder(tmp_path / "run")
    process = holder(folder)
    assert not folder.lock() and folder.held is None
    process.kill()
    process.wait()
    assert folder.lock()
    folder.release()
    assert folder.lock()


def test_once_in_a_process_too(tmp_path: Path) -> None:
    folder, other = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    assert folder.lock() and not other.lock()
    folder.release()
    assert other.lock()


def test_a_lock_file_that_is_there_already_holds_nothing(tmp_path: Path) -> None:
    """Neither that of an earlier version, nor one with anything in it."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    (folder.path / "lock").write_text("1234")
    assert folder.lock()
    folder.release()
    assert folder.lock()


def test_a_folder_that_cannot_be_locked_is_named(tmp_path: Path) -> None:
    (tmp_path / "run" / "lock").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=f"{tmp_path / 'run'}: cannot be written or locked"):
        RunFolder(tmp_path / "run").lock()


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    for name in (".step_3.pt.123.tmp", ".step_3.pt.sha256.123.tmp", "config.json.123.tmp"):
        (folder.path / name).write_text("half")
    (folder.path / "step_2.pt").write_text("whole")
    assert folder.lock()
    assert {path.name for path in folder.path.iterdir()} == {"lock", "step_2.pt"}


def test_files_that_are_not_the_run_s_stay(root: Path) -> None:
    """A checkpoint that lies among other files is gone on from, and these are none of its leftovers."""
    folder = run(root, "mine", ["step_1.pt"])
    for name in (
        "draft.tmp",
        "thesis.pdf.sha256",
        "step_times.json",
        "epoch_notes.json",
        "step_1_copy.pt",
        "best_of.pt",
    ):
        (folder.path / name).write_text("{}")
    (folder.path / "old.shares").mkdir()
    before = {path.name for path in folder.path.iterdir()}
    (folder.path / "step_9.json.sha256").write_text("of a checkpoint that is gone")
    assert [path.name for path in folder.checkpoints()] == ["step_1.pt"] and not folder.best_weights()
    assert folder.lock()
    assert {path.name for path in folder.path.iterdir()} == before | {"lock"}


# -------------------------------------------------------------------- finished
def test_a_run_is_finished_when_its_model_folder_is_that_of_its_last_step(root: Path) -> None:
    folder = run(root, "mine", ["step_1.pt", "step_2.pt"])
    start, training = auto(root), config(max_steps=2)["Training"]
    assert not is_finished(start, training)  # killed before the model was written
    folder.model_dir.mkdir()
    results = folder.model_dir / "results.json"
    for name in ("config.json", "model.safetensors"):
        (folder.model_dir / name).write_text("{}")
    for content, expected in (('{"global_step": 1}', False), ("{", False), ("3", False), ('{"global_step": 2}', True)):
        results.write_text(content)
        seal(folder.model_dir)
        assert is_finished(start, training) == expected, content
    (folder.model_dir / "model.safetensors").unlink()
    assert not is_finished(start, training)
    assert not is_finished(start, config(max_steps=3)["Training"])
    assert not is_finished(Start(), training)


def test_an_empty_resume_is_no_new_run(root: Path) -> None:
    with pytest.raises(UsageError, match="--resume is empty"):
        find_start("", root, "vanilla", "")
