"""Promise 1: a run that is killed, at whatever moment and however often, ends with the same bytes as one that was left alone.

Each life of a run is a process that goes on where the one before was killed. The guard of promise 4 is in all of them: the
training thread calls no store and no network.
"""

import random
import re
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from faults.planted import KillAfterStep, KillAtNextFileOperation, NoCallsWhileTraining, Plant
from faults.warm_process import launcher
from learning.toy_runs import CONFIG, IMAGES, TEXTS, ImageRuns, Runs, TextRuns, check_equal, saved

LAST_STEP = 12
OPTIONS = {
    "max_steps": LAST_STEP,
    "warmup_steps": 4,
    "checkpoint_interval": 3,
    "validation_interval": 5,
    "log_interval": 2,
    "keep_checkpoints": 3,
    "histogram_interval": 6,
}
TASKS = {"vanilla": (Runs, CONFIG), "vit": (ImageRuns, IMAGES), "bert": (TextRuns, TEXTS)}
# So that an epoch ends between two steps that save, and the last group of its micro-batches is a small one.
SIZES = {"vanilla": "Data.num_samples=90", "vit": "Training.batch_size=7", "bert": "Training.batch_tokens=280"}
RUNS = [*((task, "ddp") for task in TASKS), ("vanilla", "fsdp")]


@pytest.fixture(scope="module", params=RUNS, ids=" ".join)
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A task, also one that shares its model (with nobody), and one run of it that was left alone."""
    name, sharding = request.param
    kind, config = TASKS[name]
    options = [f"--set=Training.{key}={value}" for key, value in {**OPTIONS, "sharding": sharding}.items()]
    runs = kind(tmp_path_factory.mktemp(name), config, (*options, f"--set={SIZES[name]}"))
    live(runs, "undisturbed")
    assert list(runs.run_folder("undisturbed").glob("epoch_*.json" if sharding == "fsdp" else "epoch_*.pt"))
    return runs


def live(runs: Runs, name: str, *faults: Plant) -> bool:
    """One life of a run: True if it came to the run's end, False if it was killed."""
    runs.launch = launcher(NoCallsWhileTraining(), *faults)
    process = runs.start(name)
    _, said = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), said
    return process.returncode == 0


def test_killed_once(seed: int, runs: Runs, tmp_path: Path) -> None:
    """After a step, or inside a save."""
    file = r"(step|epoch)_\d+\.(pt|json)"
    operation = random.choice([rf"fsync \.{file}\.tmp$", rf"replace {file}\.sha256$", rf"replace {file}$"])
    in_save = KillAtNextFileOperation(tmp_path / "met", f"{random.choice(['before', 'after'])} {operation}")
    fault = random.choice([KillAfterStep(random.randint(1, LAST_STEP)), in_save])
    assert not live(runs, "killed", fault), fault
    assert live(runs, "killed")
    check_equal(runs, "killed")


@pytest.mark.faults
def test_killed_at_every_step(seed: int, runs: Runs) -> None:
    for step in range(1, LAST_STEP + 1):
        assert not live(runs, "every_step", KillAfterStep(step)), step
    assert live(runs, "every_step")
    check_equal(runs, "every_step")


@pytest.mark.faults
def test_killed_at_every_file_operation(seed: int, runs: Runs, tmp_path: Path) -> None:
    """Before and after each flush and rename of the training thread: of checkpoints, digests, configuration and model folder.

    Of shares two checkpoints are enough: all else is as where a model is not shared.
    """
    met = tmp_path / "met"
    is_shared = "--set=Training.sharding=fsdp" in runs.options
    which = r" \.?(step_3|epoch_1)\." if is_shared else ""
    while not live(runs, "every_operation", KillAtNextFileOperation(met, which)):
        pass
    check_equal(runs, "every_operation")
    places = met.read_text().splitlines()
    assert max(Counter(places).values()) == 1
    kinds = {
        path.name.partition("_")[0] for path in saved(runs.run_folder("undisturbed"))
    }  # epochs may end where a save is due
    for moment in ("before", "after"):
        for kind in kinds - {"best"} if is_shared else kinds:
            file = rf"{kind}_[0-9]+[.]{'json' if is_shared else 'pt'}"
            operations = [rf"fsync \.{file}\.tmp", rf"replace {file}\.sha256", f"replace {file}"]
            if is_shared:
                operations += [rf"fsync {kind}_[0-9]+\.shares", rf"fsync {kind}_[0-9]+\.shares/.*\.safetensors"]
            for operation in operations:
                assert any(re.fullmatch(f"{moment} {operation}", place) for place in places), f"{moment} {operation}"
        assert is_shared or any(place.startswith(moment) and "manifest.json" in place for place in places)


@pytest.mark.faults
def test_killed_at_random_moments(seed: int, runs: Runs) -> None:
    runs.launch = launcher(NoCallsWhileTraining())
    started = time.monotonic()
    process = runs.start("timed")
    assert process.wait() == 0
    longest = time.monotonic() - started
    kills = 0
    while kills < 10:
        process = runs.start("random")
        time.sleep(random.uniform(0, longest))
        process.kill()
        if process.wait() == 0:  # it was at its end before
            check_equal(runs, "random")
            runs.forget("random")
        else:
            kills += 1
    assert live(runs, "random")
    check_equal(runs, "random")
