"""Two hosts and a cable: what a cut does to the two halves of a run, and that it goes on when the cable is back."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults.toy_ranks import CONFIG, GENEROUS, write_pairs
from faults.two_hosts import Host, two_hosts, why_there_are_none
from learning.toy_runs import MODULE, empty_store

pytestmark = pytest.mark.faults

STEPS = 120
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
PORT = "29400"

RENDEZVOUS: dict[str, Callable[[int, str], list[str]]] = {
    "c10d": lambda node, first: ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{first}:{PORT}", "--rdzv-id", "toy"],
    "static": lambda node, first: ["--node-rank", str(node), "--master-addr", first, "--master-port", PORT],
}


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    if reason := why_there_are_none():
        pytest.skip(reason)
    with two_hosts() as hosts:
        yield hosts


@pytest.fixture
def folder(tmp_path: Path, seed: int) -> Path:
    """What both hosts see: the data, the config and the checkpoints."""
    write_pairs(tmp_path / "pairs.tsv")
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path


def training(folder: Path, root: str) -> tuple[list[str], dict[str, str]]:
    """The command that torchrun gives its workers, and its environment."""
    (folder / root).mkdir(exist_ok=True)
    if not (folder / root / "mlflow.db").exists():
        shutil.copy(empty_store(), folder / root)
    command = ["-m", MODULE, "--config", "config.yaml", "--resume", "auto", "--set", f"Training.max_steps={STEPS}"]
    return command, {**os.environ, "CHECKPOINT_ROOT": str(folder / root)}


class Nodes:
    """A torchrun on each host, all of one run."""

    def __init__(self, folder: Path, hosts: tuple[Host, Host], rendezvous: str, name: str) -> None:
        command, environment = training(folder, "cut")
        self.files = [folder / f"{name}_{node}.log" for node in range(len(hosts))]
        self.agents = []
        for node, (host, file) in enumerate(zip(hosts, self.files, strict=True)):
            options = ["--nnodes", "2", "--nproc-per-node", "1", *RENDEZVOUS[rendezvous](node, hosts[0].name)]
            self.agents.append(host.start([*TORCHRUN, *options, *command], folder, environment, file))

    def said(self, node: int) -> str:
        return self.files[node].read_text()

    def wait_for_step(self, step: int) -> None:
        """Until the first rank has logged it."""
        while f"step {step}/" not in self.said(0):
            assert all(agent.poll() is None for agent in self.agents), self.said(0) + self.said(1)
            time.sleep(0.05)

    def codes(self, deadline: float | None = None) -> list[int]:
        """How they ended, at the latest at a time by ``time.monotonic``."""
        return [agent.wait(None if deadline is None else deadline - time.monotonic()) for agent in self.agents]


def digest(root: Path) -> str:
    """Of the only model that a run has left there."""
    (model,) = root.glob("vanilla/*/model/model.safetensors")
    return hashlib.sha256(model.read_bytes()).hexdigest()


@pytest.mark.parametrize("rendezvous", RENDEZVOUS)
def test_a_cut_between_two_hosts(folder: Path, hosts: tuple[Host, Host], rendezvous: str) -> None:
    """Each half names the rank that it has lost, and ends; then the same commands end the run as if nothing had been."""
    nodes = Nodes(folder, hosts, rendezvous, "first")
    nodes.wait_for_step(10)
    hosts[0].pull_out()
    time.sleep(2)  # TCP outlives that
    hosts[0].plug_in()
    nodes.wait_for_step(30)
    hosts[0].pull_out()
    deadline = time.monotonic() + GENEROUS
    assert 0 not in nodes.codes(deadline), nodes.said(0) + nodes.said(1)
    for node, lost in ((0, 1), (1, 0)):
        (line,) = (line for line in nodes.said(node).splitlines() if line.startswith("tarch: "))
        assert line.startswith(f"tarch: rank {node}: lost rank {lost} (process "), line
        assert f" on {hosts[lost].name})" in line
    while left := [pid for host in hosts for pid in host.processes()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)

    hosts[0].plug_in()
    nodes = Nodes(folder, hosts, rendezvous, "second")
    assert nodes.codes() == [0, 0], nodes.said(0) + nodes.said(1)
    assert "going on from " in nodes.said(0)
    # Two ranks are two ranks, wherever they run: each sum over them has two terms, in whatever order.
    command, environment = training(folder, "undisturbed")
    on_one_host = [*TORCHRUN, "--standalone", "--nproc-per-node", "2", *command]
    subprocess.run(on_one_host, cwd=folder, env=environment, capture_output=True, check=True)
    assert digest(folder / "cut") == digest(folder / "undisturbed")
