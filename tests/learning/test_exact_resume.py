"""A run that is killed, at whatever moment, and started again by the same command ends as if nothing had been.

The slow ones: `pytest -m slow tests/learning/test_exact_resume.py` (some minutes, most of it imports and compilation).
"""

import random
import signal
from pathlib import Path

import pytest
from faults.warm_process import launcher
from learning.toy_runs import CONFIG, IMAGES, MODULE, TEXTS, ImageRuns, Runs, TextRuns, check_equal

from transformer_architectures.training.checkpointing.checkpoints import read_checkpoint
from transformer_architectures.training.state import RunState

# Runs the module, and kills itself just before its n-th flush of a checkpoint: the temporary file is written, not yet renamed.
KILLED_IN_SAVE = f"""if True:
    import os, runpy, signal, sys
    left, fsync = int(sys.argv.pop(1)), os.fsync
    def counted(descriptor):
        global left
        if os.readlink(f"/proc/self/fd/{{descriptor}}").endswith(".tmp") and ".pt." in os.readlink(f"/proc/self/fd/{{descriptor}}"):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return fsync(descriptor)
    os.fsync = counted
    runpy.run_module("{MODULE}", run_name="__main__", alter_sys=True)
"""


# The program, with the plug pulled when the model folder is there and nothing after it is.
KILLED_AFTER_MODEL = f"""if True:
    import os, runpy, signal
    from transformer_architectures.tasks.translation import Translator
    export = Translator.export
    def export_and_die(*arguments):
        export(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)
    Translator.export = export_and_die
    runpy.run_module("{MODULE}", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def image_runs(tmp_path_factory: pytest.TempPathFactory) -> ImageRuns:
    pytest.importorskip("sklearn")
    runs = ImageRuns(tmp_path_factory.mktemp("images"), IMAGES, launch=launcher())
    runs.finish("undisturbed")
    return runs


def test_images_stopped_by_a_signal(seed: int, image_runs: ImageRuns) -> None:
    check_stopped(image_runs)


@pytest.mark.slow
def test_images_killed_at_random_moments(seed: int, image_runs: ImageRuns) -> None:
    check_killed(image_runs, times=3, longest_wait=0.3)


@pytest.fixture(scope="module")
def text_runs(tmp_path_factory: pytest.TempPathFactory) -> TextRuns:
    runs = TextRuns(tmp_path_factory.mktemp("texts"), TEXTS, launch=launcher())
    runs.finish("undisturbed")
    return runs


def test_texts_stopped_by_a_signal(seed: int, text_runs: TextRuns) -> None:
    check_stopped(text_runs)


@pytest.mark.slow
def test_texts_killed_at_random_moments(seed: int, text_runs: TextRuns) -> None:
    check_killed(text_runs, times=3, longest_wait=0.3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("resume"), CONFIG)
    runs.finish("undisturbed")
    return runs


def check_stopped(runs: Runs) -> None:
    """By the system, once."""
    process = runs.stop("stopped", signal.SIGTERM)
    assert process.wait() == 143
    runs.finish("stopped")
    check_equal(runs, "stopped")


def check_killed(runs: Runs, times: int, longest_wait: float) -> None:
    """At random moments; fewer times where the run was at its end before."""
    codes: list[int] = []
    while len(codes) < times and 0 not in codes:
        codes.append(runs.stop("killed", signal.SIGKILL, longest_wait).wait())
    assert codes[0] == -signal.SIGKILL and set(codes) <= {0, -signal.SIGKILL}
    runs.finish("killed")
    check_equal(runs, "killed")


def test_killed_inside_a_save(seed: int, runs: Runs) -> None:
    flush = random.randint(4, 12)
    process = runs.start("in_save", "-c", KILLED_IN_SAVE, str(flush))
    assert process.wait() == -signal.SIGKILL
    assert runs.newest_change("in_save") > 0 and list(runs.run_folder("in_save").glob(".*.tmp"))
    assert "going on from" in runs.finish("in_save")
    check_equal(runs, "in_save")
    assert not list(runs.run_folder("in_save").glob(".*.tmp"))


def test_killed_after_the_model_folder(seed: int, runs: Runs) -> None:
    process = runs.start("at_end", "-c", KILLED_AFTER_MODEL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and runs.status("at_end") == "RUNNING"
    assert "nothing left to train" in runs.finish("at_end")
    assert runs.status("at_end") == "FINISHED"
    check_equal(runs, "at_end")
    assert "nothing left to train" in runs.finish("at_end")
    assert runs.status("at_end") == "FINISHED"


def test_a_finished_run_trains_nothing(seed: int, runs: Runs) -> None:
    folder = runs.run_folder("undisturbed")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != "lock"}
    said = runs.finish("undisturbed")
    assert "nothing left to train" in said and str(folder / "model") in said
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != "lock"}
    assert before == after and runs.status("undisturbed") == "FINISHED"


@pytest.mark.slow
def test_killed_at_random_moments(seed: int, runs: Runs) -> None:
    check_killed(runs, times=5, longest_wait=0.5)


@pytest.mark.slow
def test_stopped_by_signals(seed: int, runs: Runs) -> None:
    for number, exit_code in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)):
        there = {path.name for path in runs.root("stopped").glob("vanilla/*/*.pt")}
        process = runs.stop("stopped", number)
        _, errors = process.communicate()
        assert process.returncode == exit_code, errors
        assert "Traceback" not in errors
        assert runs.status("stopped") == "KILLED"
        folder = runs.run_folder("stopped")
        newest = max(folder.glob("*.pt"), key=lambda path: path.stat().st_mtime_ns)
        state = read_checkpoint(newest)["extra"]["state"]
        due = RunState.from_dict(state).files_to_keep()
        assert newest.name == f"step_{state['global_step']}.pt"
        assert {path.name for path in folder.glob("*.pt")} - there - due == {newest.name}
    runs.finish("stopped")
    check_equal(runs, "stopped")


@pytest.mark.slow
def test_the_newest_checkpoint_is_damaged(seed: int, runs: Runs) -> None:
    process = runs.stop("damaged", signal.SIGTERM)
    assert process.wait() == 143
    newest = max(runs.run_folder("damaged").glob("*.pt"), key=lambda path: path.stat().st_mtime_ns)
    content = bytearray(newest.read_bytes())
    content[random.randrange(len(content))] ^= 1
    newest.write_bytes(content)
    said = runs.finish("damaged")
    assert f"{newest.name}: damaged" in said and "an older checkpoint is tried" in said
    check_equal(runs, "damaged")


@pytest.mark.slow
def test_compiled(seed: int, tmp_path: Path) -> None:
    """Killed twice. What has been compiled before, and for which shapes, must not matter."""
    shorter = CONFIG.replace("max_steps: 60", "max_steps: 14").replace("_interval: 7", "_interval: 4")
    compiled = shorter.replace("num_threads: 1", "num_threads: 1\n  compile: true")
    runs = Runs(tmp_path, compiled)
    runs.finish("undisturbed")
    for _ in range(2):
        assert runs.stop("killed", signal.SIGKILL).wait() == -signal.SIGKILL
    runs.finish("killed")
    check_equal(runs, "killed")
