"""Damage is found and survived: whatever happens to a file of a run folder or a model folder.

The newest intact checkpoint is taken, with a message; one that was named is refused; so is a model folder. The quick form
damages a few places of each file, the long form every 64 bytes of every file.
"""

import hashlib
import json
import logging
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from transformer_architectures.config import fingerprint
from transformer_architectures.errors import CheckpointError, ModelFolderError, TrackingError
from transformer_architectures.pretrained.model_folder import open_model_folder, seal
from transformer_architectures.training.checkpointing.checked_files import digest_path
from transformer_architectures.training.checkpointing.checkpoints import random_state, write_checked
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.distributed.ranks import Ranks
from transformer_architectures.training.loop import Trainer
from transformer_architectures.training.runs.finish import candidate_weights
from transformer_architectures.training.runs.run_folder import RunFolder, Start, find_start
from transformer_architectures.training.state import RunState
from transformer_architectures.training.tracking.delivery import sync
from transformer_architectures.training.tracking.destination import Destination, LocalStore
from transformer_architectures.training.tracking.spool import Spool
from transformer_architectures.training.tracking.tracker import Tracker, was_ended

GOLDEN = Path(__file__).parent.parent / "golden" / "0.1.0"
MODELS = ("translation", "image_classification", "masked_language_model", "text_classification", "token_classification")
REGION = 64  # bytes
NEWEST, BEFORE = "step_3.pt", "step_2.pt"
CONFIG = {"Training": TrainingConfig(max_steps=10)}
JOURNAL: list[dict[str, Any]] = [
    {"params": {"Training.seed": "0"}},
    {"tags": {"mlflow.loggedArtifacts": '[{"path": "samples/step_1.json", "type": "table"}]'}},
    {"metrics": {"train/loss": 1.5}, "step": 1, "time": 17},
    {"artifact": "samples/step_1.json", "file": "files/1_1/step_1.json"},
    {"folder": "model", "target": "model"},
    {"status": "FINISHED", "time": 18},
]


# -------------------------------------------------------------------- folders to damage
def make_run(root: Path, name: str, run_id: str, age: float = 0.0) -> Path:
    """A run with three checkpoints, its best weights, its journal and a model folder."""
    folder = RunFolder(root / "vanilla" / f"{name}_{run_id[:6]}")
    folder.path.mkdir(parents=True)
    folder.write_config(CONFIG)
    for step in (1, 2, 3):
        state = RunState(global_step=step, best_step=1, scheduled={"step_2.pt": 1, "step_3.pt": 1})
        save(folder.path / f"step_{step}.pt", run_id, state, time.time() - age - 10 + step)
    save(folder.path / "best_1.pt", run_id, RunState(global_step=1), time.time() - age - 9)
    tracking = folder.path / "tracking"
    spool = Spool(tracking)
    spool.open()
    for entry in JOURNAL:
        spool.append(**entry)
    spool.close()
    record = f'{{"run_id": "{run_id}", "run_name": "{name}", "experiment": "vanilla", "start_time": 16}}\n'
    (tracking / "run.json").write_text(record)
    cursor = f'{{"uri": "local", "run_id": "{run_id}", "offset": {len(spool.path.read_bytes())}, "failed": {{}}}}\n'
    (tracking / "acknowledged_local.json").write_text(cursor)
    shutil.copytree(GOLDEN / "text_classification", folder.path / "model")
    return folder.path


def save(path: Path, run_id: str, state: RunState, written: float) -> None:
    extra = {"state": state.as_dict(), "random_states": [random_state()]}
    content = {"format": 1, "epoch": 0, "global_step": state.global_step, "run_id": run_id, "extra": extra}
    weights = {"weight": torch.full((2, 3), float(state.global_step)), "bias": torch.zeros(2)}
    write_checked(path, {**content, "model": weights, "optimizer": None, "scheduler": None})
    os.utime(path, (written, written))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_run(tmp_path, "mine", "a" * 32)
    return tmp_path


@pytest.fixture
def run(root: Path) -> Path:
    (path,) = (root / "vanilla").iterdir()
    return path


def auto(root: Path) -> Start:
    start = find_start("auto", root, "vanilla", fingerprint(CONFIG))
    if start.folder is not None:
        start.folder.release()
    return start


def named(path: Path) -> Start:
    start = find_start(str(path), path, "vanilla", "another configuration")
    assert start.folder is not None
    start.folder.release()
    return start


# -------------------------------------------------------------------- damage
Damage = Callable[[bytes, int], bytes]


def flipped(content: bytes, place: int) -> bytes:
    """One bit."""
    changed = bytearray(content)
    changed[place] ^= 1 << random.randrange(8)
    return bytes(changed)


def zeroed(content: bytes, place: int) -> bytes:
    """A region, as of a sector that was lost."""
    return content[:place] + bytes(len(content[place : place + REGION])) + content[place + REGION :]


def truncated(content: bytes, place: int) -> bytes:
    """The end is gone."""
    return content[:place]


def overwritten(content: bytes, place: int) -> bytes:
    """A region of other bytes."""
    return content[:place] + os.urandom(len(content[place : place + REGION])) + content[place + REGION :]


DAMAGES: list[Damage] = [flipped, zeroed, truncated, overwritten]


def damaged(path: Path, places: Callable[[int], list[int]]) -> Iterator[str]:
    """A file in every damaged form, one after the other; then removed; then whole again. Its times stay."""
    content, times = path.read_bytes(), (path.stat().st_atime, path.stat().st_mtime)
    for start in places(len(content)):
        place = min(start + random.randrange(REGION), len(content) - 1)
        for damage in DAMAGES:
            changed = damage(content, place)
            if changed.strip() != content.strip():  # a line feed at the end of a file says nothing
                path.write_bytes(changed)
                os.utime(path, times)
                yield f"{path.name} {damage.__name__} at {place}"
    path.unlink()
    yield f"{path.name} removed"
    path.write_bytes(content)
    os.utime(path, times)


def few_places(size: int) -> list[int]:
    return sorted({0, size // 2, *random.sample(range(size), min(size, 2)), max(0, size - REGION)})


def all_places(size: int) -> list[int]:
    return list(range(0, size, REGION))


# -------------------------------------------------------------------- what must be found
def check_newest_damaged(root: Path, run: Path, what: str, caplog: pytest.LogCaptureFixture) -> None:
    """The newest checkpoint, or its digest, is damaged."""
    caplog.clear()
    start = auto(root)
    if "sha256 " in what and is_vouched_for(run / NEWEST):  # behind the digest stands a name, for people
        assert start.path == run / NEWEST, what
        return
    assert start.path == run / BEFORE and start.checkpoint is not None and start.checkpoint["global_step"] == 2, what
    if (run / NEWEST).exists():
        assert f"{NEWEST}: " in caplog.text, what
    with pytest.raises(CheckpointError) as caught:
        named(run / NEWEST)
    assert NEWEST in str(caught.value) and "\n" not in str(caught.value), what
    assert named(run).path == run / BEFORE, what


def is_vouched_for(path: Path) -> bool:
    """Whether its digest is in the file beside it."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() in digest_path(path).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError):
        return False


def check_older_damaged(root: Path, run: Path, what: str, caplog: pytest.LogCaptureFixture) -> None:
    """An older checkpoint, or what no resume needs."""
    assert auto(root).path == run / NEWEST == named(run).path, what


def check_config_damaged(root: Path, run: Path, what: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing says any more which configuration the run has; but who names it can go on with it."""
    caplog.clear()
    start = auto(root)
    assert start.path == run / NEWEST or (start == Start() and f"--resume {run}" in caplog.text), what
    assert named(run).path == run / NEWEST, what


def check_model_damaged(root: Path, run: Path, what: str, caplog: pytest.LogCaptureFixture) -> None:
    """The model folder is refused, so the run is not finished."""
    with pytest.raises(ModelFolderError) as caught:
        open_model_folder(run / "model")
    assert "\n" not in str(caught.value), what
    assert not RunFolder(run).has_model_of(3)
    check_older_damaged(root, run, what, caplog)


def check_tracking_damaged(root: Path, run: Path, what: str, caplog: pytest.LogCaptureFixture) -> None:
    """A run goes on, whatever became of its journal; what is whole in it is read."""
    check_older_damaged(root, run, what, caplog)
    was_ended(run)
    tracker = object.__new__(Tracker)
    tracker.spool, tracker.params, tracker.tables, tracker.known_points = Spool(run / "tracking"), {}, [], set()
    tracker.recall(0)
    try:
        destination = Destination(run / "tracking", "sqlite:///none", LocalStore(root))
    except TrackingError as error:
        assert "run.json" in str(error) and "run.json" in what
        return
    assert destination.num_left <= len(JOURNAL) + 10
    destination.next_batch()


CHECKS = {
    NEWEST: check_newest_damaged,
    f"{NEWEST}.sha256": check_newest_damaged,
    BEFORE: check_older_damaged,
    f"{BEFORE}.sha256": check_older_damaged,
    "best_1.pt": check_older_damaged,
    "lock": check_older_damaged,
    "config.json": check_config_damaged,
    "model/manifest.json": check_model_damaged,
    "model/model.safetensors": check_model_damaged,
    "model/config.json": check_model_damaged,
    "model/results.json": check_model_damaged,
    "model/vocab.txt": check_model_damaged,
    "model/tokenizer_config.json": check_model_damaged,
    "tracking/spool.jsonl": check_tracking_damaged,
    "tracking/run.json": check_tracking_damaged,
    "tracking/acknowledged_local.json": check_tracking_damaged,
}


def check_file(
    root: Path, run: Path, name: str, places: Callable[[int], list[int]], caplog: pytest.LogCaptureFixture
) -> int:
    """All damages of one file; how many there were."""
    path, count = run / name, 0
    if name == "lock":
        path.write_bytes(b"x")
    whole = {file: digest_path(file).read_bytes() for file in run.glob("*.pt")}
    for what in damaged(path, places):
        CHECKS[name](root, run, what, caplog)
        for file, digest in whole.items():  # one that lost its checkpoint is removed as a left-over
            if name == file.name and not digest_path(file).exists():
                digest_path(file).write_bytes(digest)
        count += 1
    assert auto(root).path == run / NEWEST  # whole again: it was the damage that was found
    return count


@pytest.mark.parametrize("name", CHECKS)
def test_damage_in_a_few_places(seed: int, root: Path, run: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert check_file(root, run, name, few_places, caplog) >= 2


@pytest.mark.faults
@pytest.mark.parametrize("name", CHECKS)
def test_damage_everywhere(seed: int, root: Path, run: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    print(f"{name}: {check_file(root, run, name, all_places, caplog)} damages")


def check_model_folder(folder: Path, places: Callable[[int], list[int]]) -> int:
    count = 0
    for path in sorted(folder.iterdir()):
        for what in damaged(path, places):
            with pytest.raises(ModelFolderError) as caught:
                open_model_folder(folder)
            assert "\n" not in str(caught.value), what
            count += 1
    open_model_folder(folder)
    return count


@pytest.mark.parametrize("task", MODELS)
def test_a_damaged_model_folder_is_refused(seed: int, task: str, tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / task, tmp_path / "model")
    assert check_model_folder(tmp_path / "model", few_places) > 20


@pytest.mark.faults
@pytest.mark.parametrize("task", MODELS)
def test_a_model_folder_damaged_anywhere_is_refused(seed: int, task: str, tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / task, tmp_path / "model")
    print(f"{task}: {check_model_folder(tmp_path / 'model', all_places)} damages")


# -------------------------------------------------------------------- swapped
def bring(source: Path, target: Path, with_digest: bool) -> None:
    """Another checkpoint in the place of one, as new as that was."""
    times = (target.stat().st_atime, target.stat().st_mtime)
    shutil.copy(source, target)
    os.utime(target, times)
    if with_digest:
        digest_path(target).write_text(digest_path(source).read_text().replace(source.name, target.name))


@pytest.mark.parametrize("with_digest", [True, False])
def test_a_checkpoint_of_another_run_is_no_checkpoint_of_this_one(
    root: Path, run: Path, with_digest: bool, caplog: pytest.LogCaptureFixture
) -> None:
    other = make_run(root, "other", "b" * 32, age=100)
    bring(other / NEWEST, run / NEWEST, with_digest)
    check_newest_damaged(root, run, "swapped", caplog)
    with pytest.raises(CheckpointError, match="another run, b" if with_digest else "damaged"):
        named(run / NEWEST)


def test_the_digest_of_another_checkpoint_does_not_fit(root: Path, run: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = make_run(root, "other", "b" * 32, age=100)
    for source in (other / NEWEST, run / BEFORE):
        shutil.copy(digest_path(source), digest_path(run / NEWEST))
        check_newest_damaged(root, run, "swapped", caplog)


def test_where_all_are_damaged_the_run_before_is_taken(root: Path, run: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = make_run(root, "other", "b" * 32, age=100)
    for path in run.glob("step_*.pt"):
        path.write_bytes(flipped(path.read_bytes(), 100))
    assert auto(root).path == other / NEWEST
    assert all(f"step_{step}.pt" in caplog.text for step in (1, 2, 3))
    with pytest.raises(CheckpointError, match="no checkpoint in this folder is intact"):
        named(run)


def trainer_at_its_end() -> Trainer:
    """What `candidate_weights` asks of a run."""
    model = nn.Linear(3, 2)
    nn.init.constant_(model.weight, 7.0)
    state = RunState(global_step=3, best_step=1, scheduled={"step_2.pt": 1, "step_3.pt": 1})
    trainer = object.__new__(Trainer)
    trainer.model, trainer.ema, trainer.state, trainer.config = (
        model,
        None,
        state,
        TrainingConfig(max_steps=3, average_last=2),
    )
    trainer.ranks = Ranks()
    return trainer


def test_weights_of_another_run_are_never_exported(root: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither as the best ones nor in a mean; without them the run ends with what it has, and says so."""
    whole = candidate_weights(trainer := trainer_at_its_end(), trainer.model, run)
    assert {name: float(weights["weight"][0, 0]) for name, weights in whole.items()} == {"single": 1.0, "averaged": 2.5}
    other = make_run(root, "other", "b" * 32)
    bring(other / "best_1.pt", run / "best_1.pt", with_digest=True)
    bring(other / "step_2.pt", run / "step_2.pt", with_digest=True)
    found = candidate_weights(trainer := trainer_at_its_end(), trainer.model, run)
    assert {name: float(weights["weight"][0, 0]) for name, weights in found.items()} == {"single": 7.0}
    said = capsys.readouterr().err
    assert "best_1.pt" in said and "step_2.pt" in said


@pytest.mark.parametrize("task", MODELS)
def test_a_file_of_another_model_folder_is_refused(task: str, tmp_path: Path) -> None:
    for other in MODELS:
        for name in ("model.safetensors", "config.json", "results.json", "manifest.json", "vocab.txt"):
            if other == task or not (GOLDEN / other / name).exists() or not (GOLDEN / task / name).exists():
                continue
            if (GOLDEN / other / name).read_bytes() == (GOLDEN / task / name).read_bytes():
                continue
            folder = tmp_path / f"{other}_{name}"
            shutil.copytree(GOLDEN / task, folder)
            shutil.copy(GOLDEN / other / name, folder / name)
            with pytest.raises(ModelFolderError):
                open_model_folder(folder)
            if name in ("model.safetensors", "config.json"):  # and where somebody gives it a manifest that fits
                seal(folder)
                with pytest.raises(ModelFolderError):
                    open_model_folder(folder).load("cpu")


# -------------------------------------------------------------------- the journal of somebody else
@pytest.mark.parametrize(
    "entry",
    [
        {"artifact": "a", "file": "../../../precious/a"},
        {"artifact": "a", "file": "files/../../precious/a"},
        {"artifact": "a", "file": "files/../a"},
        {"artifact": "a", "file": "files"},
        {"artifact": "../a", "file": "files/1_1/a"},
        {"folder": "../../precious", "target": ""},
        {"folder": "/etc", "target": ""},
        3,
        [],
        {"metrics": 3, "step": 1, "time": 1},
        {"metrics": {"a": "b"}, "step": 1, "time": 1},
        {"metrics": {"a": 1}},
        {"status": 1, "time": 1},
        {"params": {"a": 1}},
    ],
)
def test_an_entry_that_nobody_wrote_is_passed_over(
    entry: Any, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(run / "tracking")
    spool.path.write_text(json.dumps(entry) + "\n" + json.dumps(JOURNAL[-1]) + "\n")
    assert [found.content for found in spool.read()] == [{}, JOURNAL[-1]]
    assert "damaged" in caplog.text
    assert was_ended(run)


def test_a_damaged_record_does_not_keep_other_runs_from_being_sent(root: Path, run: Path) -> None:
    for file in run.glob("tracking/*.json*"):
        file.write_text("{")
    report = sync(run)
    assert not report.is_complete and "run.json" in report.left[0]
