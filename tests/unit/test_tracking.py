"""Runs in the local store, mirrored ones, killed ones: every point arrives, once, and training never notices."""

import errno
import json
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from transformer_architectures.errors import ConfigError, TrackingError
from transformer_architectures.training.tracking import destination as tracking_destination
from transformer_architectures.training.tracking import sender as tracking_sender
from transformer_architectures.training.tracking import tracker as tracking
from transformer_architectures.training.tracking.tracker import Tracker, sync, track_missed_end, was_ended


@pytest.fixture(scope="module")
def fresh_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: MLflow takes seconds to make one."""
    root = tmp_path_factory.mktemp("store")
    tracking.prepare_mlflow()
    tracking_destination.LocalStore(root).client()
    return root / "mlflow.db"


@pytest.fixture
def root(fresh_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking_sender, "SEND_INTERVAL", 0.05)
    (tmp_path / "outputs").mkdir()
    shutil.copy(fresh_store, tmp_path / "outputs" / "mlflow.db")
    yield tmp_path / "outputs"
    while mlflow.active_run() is not None:
        mlflow.end_run()


@pytest.fixture
def server(fresh_store: Path, tmp_path: Path) -> str:
    """Another store that takes the place of a server: the same calls, without a network."""
    (tmp_path / "server").mkdir()
    shutil.copy(fresh_store, tmp_path / "server" / "mlflow.db")
    return f"sqlite:///{tmp_path}/server/mlflow.db"


def start(root: Path, **options: Any) -> Tracker:
    params = options.pop("params", {"Model.embed_dim": 8})
    return Tracker.start(root, "translation", "vanilla", options.pop("run_name", None), params, **options)


def points(uri: str, run_id: str) -> Counter[tuple[str, int]]:
    """How often each point is in a store, by name and step; those of the machine left out."""
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as connection:
        rows = connection.execute("SELECT key, step FROM metrics WHERE run_uuid = ?", (run_id,)).fetchall()
    return Counter((key, step) for key, step in rows if not key.startswith("system/"))


def local_uri(root: Path) -> str:
    return f"sqlite:///{root}/mlflow.db"


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def artifacts(uri: str, run_id: str, folder: str | None = None) -> set[str]:
    return {file.path for file in client(uri).list_artifacts(run_id, folder)}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


# -------------------------------------------------------------------- the local store
def test_a_run_is_in_the_local_store_with_all_that_was_logged(root: Path) -> None:
    import mlflow

    tracker = start(root, run_name="first", params={"Model.embed_dim": 8, "Data.train[0]": None})
    active = mlflow.active_run()
    assert active is not None and active.info.run_id == tracker.run_id
    assert tracker.run_folder == root / "vanilla" / f"first_{tracker.run_id[:6]}" and tracker.run_folder.is_dir()
    for step in (1, 2, 3):
        tracker.log_metrics({"train/loss": 1 / step, "bad name!": step, "nan": float("nan"), "inf": float("inf")}, step)
    tracker.log_table([{"source": "a cat", "output": "un été"}, {"source": "b"}], "samples/step_3.json")
    tracker.log_text("hello", "notes.txt")
    tracker.log_figure_png(b"\x89PNG", "histograms/all.png", 3)
    (tracker.run_folder / "model").mkdir()
    (tracker.run_folder / "model" / "config.json").write_text("{}")
    tracker.log_artifacts(tracker.run_folder / "model", "model")
    tracker.close()

    assert mlflow.active_run() is None
    run = client(local_uri(root)).get_run(tracker.run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "first" and run.info.end_time is not None
    assert run.data.params == {"Model.embed_dim": "8", "Data.train_0_": "None"}
    history = client(local_uri(root)).get_metric_history(tracker.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    expected = {(key, step): 1 for key in ("train/loss", "bad name_", "nan", "inf") for step in (1, 2, 3)}
    assert points(local_uri(root), tracker.run_id) == expected
    assert {"notes.txt", "samples", "histograms", "model"} <= artifacts(local_uri(root), tracker.run_id)
    assert artifacts(local_uri(root), tracker.run_id, "histograms") == {"histograms/all_00000003.png"}
    assert artifacts(local_uri(root), tracker.run_id, "model") == {"model/config.json"}
    table = root / "mlflow-artifacts" / "translation" / tracker.run_id / "artifacts" / "samples" / "step_3.json"
    assert json.loads(table.read_text()) == {
        "columns": ["source", "output"],
        "data": [["a cat", "un été"], ["b", None]],
    }
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "samples/step_3.json", "type": "table"}]
    assert list((tracker.run_folder / "tracking" / "files").iterdir()) == []  # the local store has them
    assert any(key.startswith("system/") for key in run.data.metrics)
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert sync(root).is_complete


def test_more_values_than_one_call_takes(root: Path) -> None:
    tracker = start(root, params={f"p{index}": index for index in range(250)})
    tracker.log_metrics({f"m{index}": index for index in range(1900)}, 1)
    tracker.close()
    run = client(local_uri(root)).get_run(tracker.run_id)
    assert run.data.params == {f"p{index}": str(index) for index in range(250)}
    assert points(local_uri(root), tracker.run_id) == {(f"m{index}", 1): 1 for index in range(1900)}


def test_training_does_not_wait_for_a_store_that_is_busy(root: Path) -> None:
    tracker = start(root)
    blocker = sqlite3.connect(root / "mlflow.db")
    blocker.execute("BEGIN EXCLUSIVE")
    for step in range(200):
        tracker.log_metrics({"loss": step}, step)
        time.sleep(0.001)
    assert blocker.in_transaction  # all was logged while nobody could write to the store
    blocker.rollback()
    tracker.close()
    assert points(local_uri(root), tracker.run_id) == {("loss", step): 1 for step in range(200)}


def test_the_end_does_not_wait_long_for_a_store_that_is_locked(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    monkeypatch.setattr(tracking_sender, "LONGEST_SILENCE", 0.3)
    tracker = start(root)
    while tracker.senders[0].destination.num_left:
        time.sleep(0.01)
    blocker = sqlite3.connect(root / "mlflow.db")
    blocker.execute("BEGIN EXCLUSIVE")
    tracker.log_metrics({"loss": 1.0}, 1)
    started = time.monotonic()
    tracker.close()
    assert time.monotonic() - started < 10  # MLflow would wait for 20 seconds, twice
    assert mlflow.active_run() is None and tracker.senders[0].is_alive()
    assert "Traceback" not in capfd.readouterr().err
    blocker.rollback()
    tracker.senders[0].join()  # another process would have to sync
    assert sync(root).is_complete and points(local_uri(root), tracker.run_id) == {("loss", 1): 1}
    assert client(local_uri(root)).get_run(tracker.run_id).info.status == "FINISHED"


def test_a_full_disk_does_not_end_the_sending(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How far a store is cannot be kept meanwhile: after a kill some points would be sent once more, which the store keeps once."""
    replace_json, is_full, is_refused = tracking_destination.replace_json, True, threading.Event()

    def replace_if_not_full(path: Path, content: Any) -> None:
        if is_full:
            is_refused.set()
            raise OSError(errno.ENOSPC, "no space left")
        replace_json(path, content)

    monkeypatch.setattr(tracking_destination, "replace_json", replace_if_not_full)
    tracker = start(root)
    tracker.log_metrics({"loss": 1.0}, 1)
    assert is_refused.wait(60)
    is_full = False
    tracker.log_metrics({"loss": 2.0}, 2)
    tracker.close()
    assert points(local_uri(root), tracker.run_id) == {("loss", 1): 1, ("loss", 2): 1}
    assert sync(root).num_points == 0


def test_a_value_that_is_no_number_does_not_stop_training(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = start(root)
    assert tracking.numbers({"good": 1, "bad": "high", "none": None}) == [("good", 1.0)]
    tracker.log_metrics({"good": 1.0}, 1)
    tracker.log_table([{"path": Path("a")}], "table.json")
    tracker.close("FAILED")
    assert points(local_uri(root), tracker.run_id) == {("good", 1): 1} and "bad" in caplog.text
    assert client(local_uri(root)).get_run(tracker.run_id).info.status == "FAILED"


def test_an_entry_that_the_store_refuses_holds_up_no_other(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracker = start(root)
    for step in range(6):
        tracker.log_metrics({"loss": step}, step)
        if step == 2:
            tracker.spool.append(metrics={"no name\t": 1.0}, step=step, time=1)
            tracker.spool.append(artifact="gone.txt", file="files/gone/gone.txt")
    tracker.close()
    assert points(local_uri(root), tracker.run_id) == {("loss", step): 1 for step in range(6)}
    assert "2 entries are not at local yet" in capsys.readouterr().err
    report = sync(tracker.run_folder)
    assert not report.is_complete and "2 entries" in str(report)
    (tracker.run_folder / "tracking" / "files" / "gone").mkdir()
    (tracker.run_folder / "tracking" / "files" / "gone" / "gone.txt").write_text("found again")
    assert "1 entries" in str(sync(tracker.run_folder))
    assert "gone.txt" in artifacts(local_uri(root), tracker.run_id)


def test_what_start_refuses(root: Path, tmp_path: Path) -> None:
    import mlflow

    for name in ("", "a/b", ".."):
        with pytest.raises(ConfigError, match="run_name"):
            start(root, run_name=name)
    with pytest.raises(TrackingError, match="mlflow.db"):
        start(root, resume_run_id="0" * 32)
    tracker = start(root)
    with pytest.raises(TrackingError, match="end it first"):
        start(root)
    tracker.close()
    (root / "vanilla" / "taken").touch()
    with pytest.raises(TrackingError, match="mlflow.db"):
        Tracker.start(root, "translation", "vanilla/taken", None, {})
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "mlflow.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(TrackingError, match="not a database"):
        start(tmp_path / "broken")
    assert mlflow.active_run() is None


# -------------------------------------------------------------------- killed and resumed
def die_at(root: Path, last_step: int, connection: Any) -> None:
    tracker = start(root)
    for step in range(1, last_step + 1):
        tracker.log_metrics({"loss": 1 / step}, step)
        if step == last_step // 2:
            while tracker.senders[0].destination.num_points < step:  # half of it is in the store, half is not
                time.sleep(0.01)
            tracker.senders[0].destination.attempt = lambda call: time.sleep(60) or False  # type: ignore[method-assign,func-returns-value]
    tracker.log_table([{"output": "before"}], "samples/step_4.json")
    connection.send(tracker.run_id)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_run_goes_on_with_each_point_once(root: Path) -> None:
    receiver, sender = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=die_at, args=(root, 20, sender))
    process.start()
    run_id = receiver.recv()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert 10 <= len(points(local_uri(root), run_id)) < 20

    tracker = start(root, resume_run_id=run_id, global_step=12, params={"Model.embed_dim": 8, "Training.max_steps": 40})
    assert tracker.run_id == run_id
    for step in range(13, 31):
        tracker.log_metrics({"loss": 1 / step}, step)
    tracker.log_table([{"output": "after"}], "samples/step_5.json")
    tracker.close()
    assert points(local_uri(root), run_id) == {("loss", step): 1 for step in range(1, 31)}
    run = client(local_uri(root)).get_run(run_id)
    assert run.info.status == "FINISHED" and run.data.tags["resumed_from_step"] == "12"
    assert run.data.params == {"Model.embed_dim": "8", "Training.max_steps": "40"}
    tables = [table["path"] for table in json.loads(run.data.tags["mlflow.loggedArtifacts"])]
    assert tables == ["samples/step_4.json", "samples/step_5.json"]
    assert artifacts(local_uri(root), run_id, "samples") == set(tables)


def test_the_end_that_a_killed_run_missed(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    receiver, sender = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=die_at, args=(root, 4, sender))
    process.start()
    run_id = receiver.recv()
    process.join()
    (run_folder,) = (root / "vanilla").iterdir()
    (run_folder / "model").mkdir()
    (run_folder / "model" / "results.json").write_text("{}")
    assert not was_ended(run_folder)
    track_missed_end(run_folder, run_folder / "model")
    assert was_ended(run_folder) and capfd.readouterr().err == ""
    run = client(local_uri(root)).get_run(run_id)
    assert run.info.status == "FINISHED" and not any(key.startswith("resumed") for key in run.data.tags)
    assert points(local_uri(root), run_id) == {("loss", step): 1 for step in range(1, 5)}
    assert artifacts(local_uri(root), run_id, "model") == {"model/results.json"}


def test_one_sender_at_a_time_whatever_workers_are_forked(root: Path) -> None:
    """They live on for an epoch after the lock is given back, and for some seconds when its holder is killed."""
    tracker = start(root)
    tracker.close()
    store = tracking_destination.LocalStore(root)
    first, second = (
        tracking_destination.Destination(tracker.run_folder / "tracking", store.uri, store) for _ in range(2)
    )
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    with first.exclusive() as alone:
        assert alone
        worker.start()
        with second.exclusive() as both:
            assert not both
    try:
        with second.exclusive() as alone:
            assert alone
        with pytest.raises(ValueError), first.exclusive():
            raise ValueError
        with second.exclusive() as alone:
            assert alone
    finally:
        worker.kill()
        worker.join()


@pytest.mark.parametrize("lost", ["vanilla/RUN/tracking", "vanilla/RUN/tracking/run.json", "mlflow.db"])
def test_an_end_that_cannot_be_tracked_is_a_warning(
    root: Path, fresh_store: Path, capfd: pytest.CaptureFixture[str], lost: str
) -> None:
    tracker = start(root)
    tracker.close("KILLED")
    path = root / lost.replace("RUN", tracker.run_folder.name)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    if lost == "mlflow.db":
        shutil.copy(fresh_store, path)  # what MLflow would make, in seconds
    capfd.readouterr()
    (tracker.run_folder / "model").mkdir()
    track_missed_end(tracker.run_folder, tracker.run_folder / "model")
    assert "Tracking: not every store knows that this run is finished: " in capfd.readouterr().err


def test_a_parameter_that_a_resumed_run_changes_becomes_a_tag(root: Path) -> None:
    first = start(root, params={"Training.max_steps": 10, "Training.seed": 1})
    first.close("KILLED")
    second = start(
        root, resume_run_id=first.run_id, global_step=5, params={"Training.max_steps": 20, "Training.seed": 1}
    )
    second.close()
    data = client(local_uri(root)).get_run(first.run_id).data
    assert data.params["Training.max_steps"] == "10" and data.tags["resumed.Training.max_steps"] == "20"
    assert "resumed.Training.seed" not in data.tags
    assert sync(root).is_complete


def test_an_acknowledgement_that_was_lost_makes_nothing_appear_twice(root: Path) -> None:
    tracker = start(root)
    for step in range(10):
        tracker.log_metrics({"loss": step, "nan": float("nan"), "inf": float("inf")}, step)
    tracker.log_table([{"output": "x"}], "table.json")
    tracker.close()
    path = tracker.run_folder / "tracking" / "acknowledged_local.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"offset": 0}))
    before = points(local_uri(root), tracker.run_id)
    assert sync(root).num_points > 0
    assert points(local_uri(root), tracker.run_id) == before and set(before.values()) == {1}


# -------------------------------------------------------------------- a server besides
def mirrored(server: str, tracker: Tracker) -> Any:
    (run,) = client(server).search_runs(
        [client(server).get_experiment_by_name("translation").experiment_id],
        filter_string=f"tags.local_run_id = '{tracker.run_id}'",
    )
    return run


def test_a_run_is_mirrored_to_the_server(root: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    tracker = start(root, run_name="both")
    active = mlflow.active_run()
    assert active is not None and active.info.run_id == tracker.run_id and mlflow.get_tracking_uri() == local_uri(root)
    assert os.environ["MLFLOW_TRACKING_URI"] == server  # for processes that are started from here
    for step in range(5):
        tracker.log_metrics({"loss": step}, step)
        tracker.log_figure_png(b"\x89PNG", "images/p.png", step)
    tracker.close()
    run = mirrored(server, tracker)
    assert run.info.run_id != tracker.run_id and run.info.run_name == "both" and run.info.status == "FINISHED"
    assert run.data.params == {"Model.embed_dim": "8"}
    for uri, run_id in ((server, run.info.run_id), (local_uri(root), tracker.run_id)):
        assert points(uri, run_id) == {("loss", step): 1 for step in range(5)}
        assert artifacts(uri, run_id, "images") == {f"images/p_{step:08d}.png" for step in range(5)}


def test_sync_brings_a_run_to_a_server_that_is_named_later(
    root: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = start(root)
    tracker.log_metrics({"loss": 1.0}, 1)
    tracker.log_table([{"output": "x"}], "samples/t.json")
    (tracker.run_folder / "model").mkdir()
    (tracker.run_folder / "model" / "config.json").write_text("{}")
    tracker.log_artifacts(tracker.run_folder / "model", "model")
    tracker.close()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    report = sync(root)
    assert report.is_complete and report.num_points >= 1 and report.num_artifacts == 2
    run = mirrored(server, tracker)
    assert points(server, run.info.run_id) == {("loss", 1): 1} and run.info.status == "FINISHED"
    assert artifacts(server, run.info.run_id, "samples") == {"samples/t.json"}
    assert artifacts(server, run.info.run_id, "model") == {"model/config.json"}
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    again = sync(tracker.run_folder)
    assert (again.num_points, again.num_artifacts, again.is_complete) == (0, 0, True)


@pytest.mark.parametrize("uri", ["sqlite:///outputs/mlflow.db", "sqlite:///{}/outputs/mlflow.db"])
def test_the_local_store_is_no_server(root: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(Path.cwd()))
    tracker = start(root)
    tracker.close()
    assert sync(root).is_complete and len(tracker.senders) == 1
    assert len(client(local_uri(root)).search_runs(["1"])) == 1


def test_the_servers_run_is_found_again_when_its_id_was_not_kept(
    root: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    tracker = start(root)
    tracker.log_metrics({"loss": 1.0}, 1)
    tracker.close()
    for path in (tracker.run_folder / "tracking").glob("acknowledged_*.json"):
        path.unlink()
    assert sync(root).is_complete
    assert points(server, mirrored(server, tracker).info.run_id) == {("loss", 1): 1}


def test_a_server_that_is_away_costs_nothing_but_a_word(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:secret@127.0.0.1:{free_port()}")
    tracker = start(root)
    for step in range(3):
        tracker.log_metrics({"loss": step}, step)
    tracker.close()
    output = capsys.readouterr()
    assert output.out == "" and f" sync {tracker.run_folder}" in output.err
    assert points(local_uri(root), tracker.run_id) == {("loss", step): 1 for step in range(3)}
    report = sync(root)
    assert not report.is_complete
    kept = "".join(path.read_text() for path in (tracker.run_folder / "tracking").glob("*.json*"))
    assert "secret" not in kept + output.err + str(report) + caplog.text


def test_start_does_not_wait_for_a_server_that_hangs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as listener:  # takes connections and never answers
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{listener.getsockname()[1]}")
        tracker = start(root)
        tracker.log_metrics({"loss": 1.0}, 1)
        mirror = tracker.senders[1]
        assert mirror.is_alive() and mirror.destination.problem == ""  # it has not even given up once
        tracker.close()
    assert points(local_uri(root), tracker.run_id) == {("loss", 1): 1}


# -------------------------------------------------------------------- sync
def test_sync_leaves_a_living_run_to_itself(root: Path) -> None:
    tracker = start(root)
    while tracker.senders[0].destination.num_left:
        time.sleep(0.01)
    tracker.senders[0].destination.attempt = lambda call: False  # type: ignore[method-assign]
    tracker.log_metrics({"loss": 1.0}, 1)
    report = sync(root)
    assert "still going on" in str(report) and report.num_points == 0
    del tracker.senders[0].destination.attempt
    tracker.close()
    assert sync(root).is_complete and points(local_uri(root), tracker.run_id) == {("loss", 1): 1}


def test_sync_where_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="no run"):
        sync(tmp_path)


# -------------------------------------------------------------------- quiet
def test_importing_touches_no_store_and_no_file(tmp_path: Path) -> None:
    modules = "tracking, tracking_sender, tracking_destination, tracking_sync, spool, system_metrics, grad_logging"
    code = f"""if True:
        import os, sys
        before = dict(os.environ)
        from transformer_architectures.training import {modules}
        assert not {{"mlflow", "matplotlib", "sqlalchemy"}} & sys.modules.keys()
        assert dict(os.environ) == before"""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:1", "PYTHONPATH": str(Path.cwd())}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert list(tmp_path.iterdir()) == []


def test_a_quiet_run_says_nothing(
    root: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    start(root).close()
    assert capfd.readouterr() == ("", "") and not caplog.records
