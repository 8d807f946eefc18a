"""Promise 4: whatever happens to the stores, training goes on, ends in time, and all that was logged arrives in the end.

A store is real: MLflow's SQLite store beside the run, and MLflow's server. The guard is in every run: the training thread calls
none of them. The quick form has two outages at once, and shorter waits; the long form has each on its own, in real time.
"""

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from faults.faulty_server import FaultyServer
from faults.planted import FullDisk, Hurry, NoCallsWhileTraining, Plant, TimeTheEnd, WaitAtSteps
from faults.test_exact_continuation import OPTIONS, SIZES, TASKS
from faults.warm_process import WarmProcess, launcher, run_command
from learning.toy_runs import Process, Runs, empty_store, sha256, stored_points

EARLY, LATE = 4, 8  # steps at which something breaks


@dataclass
class Outages:
    """A task's runs, beside a server that can be broken."""

    runs: Runs
    server: FaultyServer
    factor: float
    ended_after: dict[str, float] = field(default_factory=dict)

    def start(self, name: str, *faults: Plant) -> Process:
        """A run that waits at the two steps."""
        self.marks(name).mkdir()
        end, steps = TimeTheEnd(self.marks(name) / "end"), WaitAtSteps(self.marks(name), (EARLY, LATE))
        plants = (NoCallsWhileTraining(), Hurry(self.factor), end, steps, *faults)

        def launch(arguments: object, environment: dict[str, str], folder: Path) -> WarmProcess:
            address = {"MLFLOW_TRACKING_URI": self.server.uri}
            return WarmProcess(run_command, (arguments, environment | address, folder), plants)

        self.runs.launch = launch  # type: ignore[assignment]
        return self.runs.start(name)

    def marks(self, name: str) -> Path:
        return self.runs.folder / f"{name}.marks"

    def wait_for(self, name: str, step: int, process: Process) -> None:
        while not (self.marks(name) / f"at_{step}").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)

    def pass_by(self, name: str, step: int) -> None:
        (self.marks(name) / f"go_{step}").touch()

    def finish(self, name: str, process: Process) -> str:
        """To the run's end; notes how long its exit took."""
        _, said = process.communicate()
        assert process.returncode == 0, said
        self.ended_after[name] = time.time() - float((self.marks(name) / "end").read_text())
        return said

    def run(self, name: str, early: Callable[[], None], late: Callable[[], None], *faults: Plant) -> str:
        """A run with something that happens at either step."""
        process = self.start(name, *faults)
        for step, happen in ((EARLY, early), (LATE, late)):
            self.wait_for(name, step, process)
            happen()
            self.pass_by(name, step)
        return self.finish(name, process)

    def sync(self, name: str) -> str:
        """What `tarch sync` says."""
        arguments = ["-m", "transformer_architectures.cli", "sync", str(self.runs.root(name))]
        environment = {**os.environ, "MLFLOW_TRACKING_URI": self.server.uri}
        process = WarmProcess(run_command, (arguments, environment, self.runs.folder))
        _, said = process.communicate()
        assert process.returncode == 0, said
        return said

    def lock(self, name: str) -> sqlite3.Connection:
        """The local store, held by another program until the connection is closed."""
        connection = sqlite3.connect(self.runs.root(name) / "mlflow.db", timeout=60, check_same_thread=False)
        connection.execute("BEGIN EXCLUSIVE")
        return connection

    def server_run(self, name: str) -> str:
        """The only one that the server has of a run."""
        with closing(sqlite3.connect(self.server.database)) as connection:
            query = "SELECT run_uuid FROM tags WHERE key = 'local_run_id' AND value = ?"
            ((run_id,),) = connection.execute(query, (self.runs.run_id(name),)).fetchall()
        return str(run_id)

    def server_files(self, name: str) -> set[str]:
        """The artifacts that the server has of a run."""
        (folder,) = (self.server.folder / "files").glob(f"*/{self.server_run(name)}/artifacts")
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    def check(self, name: str) -> None:
        """As an undisturbed run: the model, and all that was tracked, in both stores, once."""
        runs = self.runs
        assert self.ended_after[name] <= self.ended_after["undisturbed"] + 10
        weights = [runs.run_folder(run) / "model" / "model.safetensors" for run in ("undisturbed", name)]
        assert sha256(weights[0]) == sha256(weights[1])
        expected = runs.points("undisturbed")
        assert expected and runs.points(name) == expected
        assert stored_points(self.server.database, self.server_run(name)) == expected
        assert runs.status(name) == "FINISHED"
        assert self.server_files(name) == self.server_files("undisturbed")


@dataclass(frozen=True)
class CallAStore:
    """What the guard must find, also where somebody catches the error."""

    def __call__(self) -> None:
        from transformer_architectures.training.state import RunState

        count = RunState.count

        def count_and_call(state: RunState, *arguments: object) -> None:
            count(state, *arguments)
            with suppress(AssertionError):
                sqlite3.connect(":memory:")

        RunState.count = count_and_call  # type: ignore[method-assign]


def nothing() -> None:
    pass


def outages_of(architecture: str, folder: Path, factor: float) -> Outages:
    kind, config = TASKS[architecture]
    options = [f"--set=Training.{key}={value}" for key, value in OPTIONS.items()]
    runs = kind(folder, config, (*options, f"--set={SIZES[architecture]}"))
    (folder / "server").mkdir()
    shutil.copy(empty_store(), folder / "server" / "mlflow.db")
    outages = Outages(runs, FaultyServer(folder / "server", folder / "server" / "mlflow.db"), factor)
    outages.server.start()
    outages.run("undisturbed", nothing, nothing)
    outages.sync("undisturbed")
    return outages


@pytest.fixture
def quick_outages(tmp_path: Path) -> Iterator[Outages]:
    outages = outages_of("vanilla", tmp_path, 0.1)
    yield outages
    outages.server.stop()


def test_two_outages_at_once(quick_outages: Outages) -> None:
    outages, server = quick_outages, quick_outages.server
    locks = []

    def early() -> None:
        server.be("failing log-batch")
        locks.append(outages.lock("broken"))

    assert " sync " in outages.run("broken", early, server.stop, FullDisk(EARLY, LATE + 1))
    locks[0].close()
    server.be("well")
    server.start()
    assert "nothing is left" in outages.sync("broken")
    outages.check("broken")
    assert "0 points and 0 artifacts" in outages.sync("broken")

    process = outages.start("guarded", CallAStore())
    for step in (EARLY, LATE):
        outages.pass_by("guarded", step)
    _, said = process.communicate()
    assert process.returncode == 1 and "AssertionError: sqlite3.connect" in said


# -------------------------------------------------------------------- the long form
@pytest.fixture(scope="module", params=list(TASKS))
def outages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outages]:
    outages = outages_of(request.param, tmp_path_factory.mktemp(request.param), 1.0)
    yield outages
    outages.server.stop()


def after(outages: Outages, name: str) -> None:
    """The server is well again: everything comes to both stores."""
    outages.server.be("well")
    if outages.server.process is None:
        outages.server.start()
    assert "nothing is left" in outages.sync(name)
    outages.check(name)


@pytest.mark.faults
def test_the_server_is_down_at_the_start_or_all_the_time(outages: Outages) -> None:
    outages.server.stop()
    outages.run("late", nothing, outages.server.start)
    after(outages, "late")
    outages.server.stop()
    assert " sync " in outages.run("never", nothing, nothing)
    after(outages, "never")


@pytest.mark.faults
def test_the_server_is_down_in_the_middle_or_at_the_end(outages: Outages) -> None:
    outages.run("middle", outages.server.stop, outages.server.start)
    after(outages, "middle")
    assert " sync " in outages.run("end", nothing, outages.server.stop)
    after(outages, "end")


@pytest.mark.faults
def test_the_server_answers_after_30_seconds(outages: Outages) -> None:
    outages.server.be("slow 30")
    assert " sync " in outages.run("slow", nothing, nothing)
    after(outages, "slow")
    outages.run("slow_at_end", nothing, lambda: outages.server.be("slow 30"))
    after(outages, "slow_at_end")


@pytest.mark.faults
@pytest.mark.parametrize("calls", ["", "log-batch", "artifacts"])
def test_the_server_fails(outages: Outages, calls: str) -> None:
    name = f"failing_{calls}"
    outages.run(name, lambda: outages.server.be(f"failing {calls}"), nothing)
    after(outages, name)


@pytest.mark.faults
def test_the_local_store_is_locked(outages: Outages) -> None:
    """At the start for longer than MLflow waits; from the middle to after the end."""
    lock = outages.lock("locked_start")
    process = outages.start("locked_start")
    time.sleep(8)
    assert process.poll() is None, process.communicate()
    lock.close()
    for step in (EARLY, LATE):
        outages.pass_by("locked_start", step)
    outages.finish("locked_start", process)
    after(outages, "locked_start")
    locks: list[sqlite3.Connection] = []
    said = outages.run("locked", lambda: locks.append(outages.lock("locked")), nothing)
    assert " sync " in said and "Traceback" not in said
    locks[0].close()
    after(outages, "locked")


@pytest.mark.faults
def test_the_disk_of_the_journal_is_full(outages: Outages) -> None:
    said = outages.run("full", nothing, nothing, FullDisk(EARLY, LATE + 1))
    assert "No space left" in said and "Traceback" not in said
    after(outages, "full")


@pytest.mark.faults
def test_four_runs_start_at_once_on_a_fresh_store(outages: Outages, tmp_path: Path) -> None:
    root = outages.runs.root("four")
    (root / "mlflow.db").unlink()
    processes = []
    for number in range(4):
        (tmp_path / str(number)).mkdir()
        outages.runs.launch = launcher(NoCallsWhileTraining(), WaitAtSteps(tmp_path / str(number), (1,)))
        processes.append(outages.runs.start("four"))
    for number, process in enumerate(processes):
        while not (tmp_path / str(number) / "at_1").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
    for number in range(4):
        (tmp_path / str(number) / "go_1").touch()
    for process in processes:
        _, said = process.communicate()
        assert process.returncode == 0, said
    with closing(sqlite3.connect(root / "mlflow.db")) as connection:
        runs = connection.execute("SELECT run_uuid, status FROM runs").fetchall()
    assert [status for _, status in runs] == ["FINISHED"] * 4
    for run_id, _ in runs:
        assert stored_points(root / "mlflow.db", run_id) == outages.runs.points("undisturbed")
