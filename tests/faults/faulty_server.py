"""MLflow's own server, in a process that can be killed, behind a door that can be slow or closed."""

import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from faults.warm_process import WarmProcess


class FaultyServer:
    """A server on loopback, always at the same address and on the same store.

    Args:
        database: an empty MLflow store.
    """

    def __init__(self, folder: Path, database: Path) -> None:
        self.folder, self.database, self.mood = folder, database, folder / "mood"
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = int(listener.getsockname()[1])
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: WarmProcess | None = None
        self.be("well")

    def be(self, mood: str) -> None:
        """From now on: ``well``, ``slow SECONDS`` before it does anything, ``failing`` (a 500 to every call), or ``failing PATH`` to
        calls of one kind."""
        self.mood.write_text(mood)

    def start(self) -> None:
        """Waits until it answers."""
        self.process = WarmProcess(serve, (self.folder, self.database, self.port))
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=10):
                    return
            except (urllib.error.URLError, OSError):
                assert self.process.poll() is None, self.process.communicate()
                time.sleep(0.1)
        raise AssertionError(self.process.output.read_text())

    def stop(self) -> None:
        """Kills it, as a machine that fails would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def serve(folder: Path, database: Path, port: int) -> None:
    """The process of the server."""
    os.environ["_MLFLOW_SERVER_FILE_STORE"] = f"sqlite:///{database}"
    os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = "mlflow-artifacts:/"
    os.environ["_MLFLOW_SERVER_ARTIFACT_DESTINATION"] = str(folder / "files")
    os.environ["_MLFLOW_SERVER_SERVE_ARTIFACTS"] = "true"
    from mlflow.server import app
    from werkzeug.serving import run_simple

    def with_moods(environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        mood, _, how = (folder / "mood").read_text().partition(" ")
        if environment["PATH_INFO"] != "/health":
            if mood == "slow":
                time.sleep(float(how))
            if mood == "failing" and how in environment["PATH_INFO"]:
                start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
                return [b"out of order"]
        answer: Iterable[bytes] = app(environment, start_response)
        return answer

    run_simple("127.0.0.1", port, with_moods, threaded=True)
