"""What an MLflow server answers, from memory, in a process of its own: it can be stopped, and costs the machine next to nothing."""

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection

RUN = {"info": {"run_id": "1", "run_uuid": "1", "experiment_id": "1", "status": "RUNNING"}, "data": {}}
ANSWERS = {
    "experiments/get-by-name": {"experiment": {"experiment_id": "1", "name": "overhead"}},
    "runs/search": {"runs": [RUN]},
    "runs/get": {"run": RUN},
}


class Handler(BaseHTTPRequestHandler):
    """The same answer to a call whatever it says."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        call = self.path.partition("?")[0].partition("/mlflow/")[2]
        content = json.dumps(ANSWERS.get(call, {})).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, *arguments: object) -> None:
        pass


def serve(connection: Connection) -> None:
    """The process of the server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    connection.send(server.server_port)
    server.serve_forever()


@dataclass(frozen=True)
class StubServer:
    """Its address, and how to make it hang: connections are taken, and no call is answered."""

    uri: str
    pid: int

    def hang(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


@contextmanager
def stub_server() -> Iterator[StubServer]:
    """Runs inside the block."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    process.start()
    there.close()  # a server that dies is noticed
    try:
        yield StubServer(f"http://127.0.0.1:{here.recv()}", process.pid or 0)
    finally:
        process.kill()
