"""A real MLflow server, stopped in the middle of a run; and processes that start at the same time on a fresh store."""

import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from transformer_architectures.training.tracking import sender as tracking_sender
from transformer_architectures.training.tracking.tracker import Tracker, sync

pytestmark = pytest.mark.slow


class Server:
    """`mlflow server` on loopback, always at the same address and on the same store."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = [
            "--backend-store-uri",
            f"sqlite:///{self.folder}/server.db",
            "--artifacts-destination",
            self.folder / "files",
        ]
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            self.port,
            "--workers",
            1,
            *options,
        ]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command], stdout=log, stderr=log, start_new_session=True, cwd=self.folder
            )
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                    return
            except (urllib.error.URLError, OSError):
                assert self.process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.5)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self) -> None:
        """Kills the server and its workers, as a machine that fails would."""
        if self.process is not None:
            os.killpg(self.process.pid, 9)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server(tmp_path / "server")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setattr(tracking_sender, "SEND_INTERVAL", 0.2)
    monkeypatch.setattr(tracking_sender, "LONGEST_WAIT", 1.0)
    server.start()
    yield server
    server.stop()


def points(database: Path) -> Counter[tuple[str, int]]:
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT key, step FROM metrics").fetchall()
    return Counter((key, step) for key, step in rows if not key.startswith("system/"))


def wait_for(condition: "object", seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < limit
        time.sleep(0.1)


def log(tracker: Tracker, steps: range) -> None:
    for step in steps:
        tracker.log_metrics({"loss": 1 / step, "nan": float("nan")}, step)
        if step % 10 == 0:
            tracker.log_table([{"output": f"été {step}"}], f"samples/step_{step}.json")
            tracker.log_figure_png(b"\x89PNG" + bytes(1000), "histograms/h.png", step)


def check(server: Server, tracker: Tracker, last_step: int) -> None:
    """Every point once, every file, in both stores."""
    from mlflow import MlflowClient

    expected = Counter({(key, step): 1 for key in ("loss", "nan") for step in range(1, last_step + 1)})
    assert points(tracker.run_folder.parents[1] / "mlflow.db") == expected
    assert points(server.folder / "server.db") == expected
    client = MlflowClient(tracking_uri=server.uri)
    experiment = client.get_experiment_by_name("translation")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.tags["local_run_id"] == tracker.run_id and run.info.run_name == tracker.run_name
    assert run.info.status == "FINISHED" and run.data.params == {"Model.embed_dim": "8"}
    tens = range(10, last_step + 1, 10)
    for client_of, run_id in ((client, run.info.run_id), (MlflowClient(), tracker.run_id)):
        files = {
            file.path
            for folder in ("samples", "histograms", "model")
            for file in client_of.list_artifacts(run_id, folder)
        }
        tables, images = {f"samples/step_{s}.json" for s in tens}, {f"histograms/h_{s:08d}.png" for s in tens}
        assert files == tables | images | {"model/config.json"}
    text = Path(client.download_artifacts(run.info.run_id, f"samples/step_{tens[-1]}.json")).read_text()
    assert f"été {tens[-1]}" in text


def start(root: Path) -> Tracker:
    tracker = Tracker.start(root, "translation", "vanilla", None, {"Model.embed_dim": 8})
    (tracker.run_folder / "model").mkdir()
    (tracker.run_folder / "model" / "config.json").write_text("{}")
    return tracker


def test_a_server_that_dies_in_the_middle_of_a_run(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tracker = start(tmp_path / "outputs")
    log(tracker, range(1, 41))
    wait_for(lambda: tracker.senders[1].destination.num_left == 0)
    log(tracker, range(41, 61))
    server.stop()
    log(tracker, range(61, 101))
    tracker.log_artifacts(tracker.run_folder / "model", "model")
    capfd.readouterr()
    tracker.close()
    output = capfd.readouterr()
    assert output.out == "" and " sync " in output.err and "Traceback" not in output.err
    assert not sync(tmp_path / "outputs").is_complete  # still away
    server.start()
    report = sync(tmp_path / "outputs")
    assert report.is_complete, report
    check(server, tracker, 100)
    again = sync(tracker.run_folder)
    assert (again.num_points, again.num_artifacts, again.is_complete) == (0, 0, True)
    check(server, tracker, 100)


def test_a_server_that_comes_back_gets_all_while_the_run_goes_on(server: Server, tmp_path: Path) -> None:
    server.stop()
    tracker = start(tmp_path / "outputs")
    log(tracker, range(1, 31))
    wait_for(lambda: tracker.senders[1].destination.problem)
    server.start()
    log(tracker, range(31, 61))
    tracker.log_artifacts(tracker.run_folder / "model", "model")
    wait_for(lambda: tracker.senders[1].destination.num_left == 0)
    tracker.close()
    check(server, tracker, 60)
    assert sync(tmp_path / "outputs").num_points == 0


def test_four_processes_start_on_a_fresh_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    code = """if True:
        import sys
        from pathlib import Path
        from transformer_architectures.training.tracking.tracker import Tracker
        tracker = Tracker.start(Path(sys.argv[1]), "translation", "vanilla", sys.argv[2], {"a": 1})
        tracker.log_metrics({sys.argv[2]: 1.0}, 1)
        tracker.close()"""
    command = [sys.executable, "-c", code, str(tmp_path / "outputs")]
    processes = [subprocess.Popen([*command, f"run{index}"], stderr=subprocess.PIPE) for index in range(4)]
    for process in processes:
        _, errors = process.communicate()
        assert (process.returncode, errors) == (0, b"")
    assert points(tmp_path / "outputs" / "mlflow.db") == {(f"run{index}", 1): 1 for index in range(4)}
    assert len(list((tmp_path / "outputs" / "vanilla").glob("run?_??????"))) == 4
