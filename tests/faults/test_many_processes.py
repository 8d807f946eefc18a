"""Several processes of one run: what a signal, a killed or a stopped one does to the others, and runs that change their number."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from faults.toy_ranks import CONFIG, GENEROUS, Job, write_pairs
from learning.toy_runs import MODULE

from transformer_architectures.pretrained.model_folder import load_model, open_model_folder
from transformer_architectures.training.checkpointing.checkpoints import load_checkpoint, read_checkpoint
from transformer_architectures.training.runs.run_folder import RunFolder

pytestmark = pytest.mark.faults


@pytest.fixture
def folder(tmp_path: Path, seed: int) -> Path:
    write_pairs(tmp_path / "pairs.tsv")
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No process outlives its job."""
    before = set(psutil.Process().children(recursive=True))
    yield
    deadline = time.monotonic() + 30  # workers of a killed process look for it every few seconds
    while (
        alive := {child for child in psutil.Process().children(recursive=True) if child.status() != "zombie"} - before
    ):
        assert time.monotonic() < deadline, alive
        time.sleep(0.2)


def ownerless_memory() -> set[str]:
    """Shared tensors of processes that are gone."""
    names = (path.name for path in Path("/dev/shm").glob("torch_*_*"))
    return {name for name in names if not psutil.pid_exists(int(name.split("_")[1]))}


def losses(run_folder: Path, said: str) -> dict[int, float]:
    """Step to loss, from the lines of one process."""
    found = {}
    for line in said.splitlines():
        if "grad_norm" in line:
            words = line.split()
            found[int(words[words.index("step") + 1].split("/")[0])] = float(words[words.index("loss") + 1])
    return found


CHAINS = {
    "ddp": [(2, "ddp", 20), (1, "ddp", 40), (4, "ddp", 60)],
    "fsdp": [(2, "fsdp", 15), (1, "fsdp", 30), (4, "fsdp", 45), (1, "ddp", 50), (2, "fsdp", 60)],
}


@pytest.mark.parametrize("chain", list(CHAINS))
def test_the_number_of_processes_may_change(folder: Path, chain: str) -> None:
    """From two to one to four, and to another form of sharing: the steps are those of one process alone, and so is the model."""
    alone = Job(folder, 1, "--set", "Training.max_steps=60", root="alone")
    alone.finish()
    found: dict[int, float] = {}
    for world_size, sharding, last in CHAINS[chain]:
        options = [f"--set=Training.max_steps={last}", f"--set=Training.sharding={sharding}"]
        job = Job(folder, world_size, *options, root="changing")
        job.finish()
        found |= losses(job.run_folder, job.said(0))
    expected = losses(alone.run_folder, alone.said(0))
    assert found.keys() == expected.keys() == set(range(1, 61))
    assert all(abs(found[step] - expected[step]) <= 2e-3 * expected[step] for step in expected), (found, expected)
    states = [read_checkpoint(job.checkpoints()[-1])["extra"]["state"] for job in (alone, job)]
    for name in ("epoch", "batch_in_epoch", "global_step", "num_tokens"):
        assert states[0][name] == states[1][name]
    expected_weights, found_weights = (last_weights(job) for job in (alone, job))
    assert float((found_weights - expected_weights).norm() / expected_weights.norm()) < 0.01
    folders = [open_model_folder(job.run_folder / "model").weights() for job in (alone, job)]
    assert len({tuple((name, tensor.shape) for name, tensor in folder.items()) for folder in folders}) == 1


def last_weights(job: Job) -> torch.Tensor:
    """Of the last checkpoint, whatever its form. Those of the model folder may be of another step: scores of so small a model hardly differ."""
    model = load_model(job.run_folder / "model", "cpu").model  # type: ignore[attr-defined]
    load_checkpoint(job.checkpoints()[-1], model)
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
@pytest.mark.parametrize("to_all", [False, True])
def test_a_polite_stop_is_one_of_all_ranks(folder: Path, number: signal.Signals, to_all: bool) -> None:
    memory_before = ownerless_memory()
    job = Job(folder, 2, f"--set=Training.sharding={random.choice(['ddp', 'fsdp'])}")
    job.wait_for_step(random.randint(3, 60))
    time.sleep(random.random())
    for rank in job.ranks if to_all else [random.choice(job.ranks)]:
        os.killpg(rank.pid, number)  # its loader's workers get it too
    assert job.codes(GENEROUS) == [{15: 143, 2: 130, 10: 138}[int(number)]] * 2, job.said(0) + job.said(1)
    newest = job.checkpoints()[-1]
    state = read_checkpoint(newest)["extra"]["state"]
    assert newest.stem in (f"step_{state['global_step']}", f"epoch_{state['epoch']}")
    assert len(list(job.run_folder.glob("*.shares"))) == len(list(job.run_folder.glob("*_*.json")))
    assert not list(job.run_folder.glob("*.tmp")) and not list(job.run_folder.glob(".*.tmp"))
    assert "Traceback" not in job.said(0) + job.said(1)
    assert not ownerless_memory() - memory_before
    left = [path for path in (folder / "temporary").iterdir() if not path.name.startswith("torchinductor_")]
    assert not left  # torch keeps compiled code there


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_rank_is_named(folder: Path, number: signal.Signals, lost: int) -> None:
    job = Job(folder, 2, f"--set=Training.sharding={random.choice(['ddp', 'fsdp'])}")
    job.wait_for_step(10)
    job.ranks[lost].send_signal(number)
    job.codes(GENEROUS)
    assert job.ranks[1 - lost].returncode == 1 and job.ranks[lost].returncode == -signal.SIGKILL
    said = job.said(1 - lost)
    assert f"lost rank {lost} (process {job.ranks[lost].pid} on " in said, said
    assert ("which was stopped" in said) == (number == signal.SIGSTOP)
    assert "Traceback" not in said


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_worker_is_named(folder: Path, number: signal.Signals) -> None:
    lines = [f"ba lo mi tu {n}" for n in range(5_000)]  # one long epoch: the worker has always something to do
    (folder / "pairs.tsv").write_text("".join(f"{line}\t{line}\n" for line in lines))
    job = Job(folder, 1, "--set", "Training.max_steps=4000", "--set", "Training.validation_interval=4000")
    job.wait_for_step(5)
    worker = None
    while worker is None:
        children = psutil.Process(job.ranks[0].pid).children(recursive=True)
        worker = next((child for child in children if "resource_tracker" not in " ".join(child.cmdline())), None)
        assert job.ranks[0].poll() is None, job.said(0)
    worker.send_signal(number)
    assert job.codes(GENEROUS) == [1]
    assert "a worker that loads batches is lost" in job.said(0) and str(worker.pid) in job.said(0)


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_torchrun_restarts_a_killed_worker(folder: Path, sharding: str) -> None:
    """And the run ends with the bytes of one that nobody disturbed."""
    options = ["--set", "Training.max_steps=60", "--set", f"Training.sharding={sharding}"]
    undisturbed = Job(folder, 2, *options, root="undisturbed")
    undisturbed.finish()
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "2"]
    command += ["--standalone", "-m", MODULE, "--config", "config.yaml", *options]
    environment = {**os.environ, "CHECKPOINT_ROOT": str(folder / "restarted")}
    refused = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert refused.returncode != 0 and "needs --resume auto" in refused.stderr
    command += ["--resume", "auto"]
    refused = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert refused.returncode != 0 and "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in refused.stderr
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    with (folder / "restarted.err").open("w") as errors:
        agent = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
    while "step 30/" not in (folder / "restarted.err").read_text():
        assert agent.poll() is None, (folder / "restarted.err").read_text()
        time.sleep(0.05)
    workers = [child for child in psutil.Process(agent.pid).children() if MODULE in " ".join(child.cmdline())]
    random.choice(workers).kill()
    assert agent.wait() == 0, (folder / "restarted.err").read_text()
    (restarted,) = (folder / "restarted" / "vanilla").iterdir()
    digests = {
        hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()
        for run in (restarted, undisturbed.run_folder)
    }
    assert len(digests) == 1
    assert json.loads((restarted / "model" / "results.json").read_text())["global_step"] == 60


def test_a_run_that_was_asked_to_stop_is_not_begun_again_by_torchrun(folder: Path) -> None:
    """A signal to one worker ends both; torchrun starts them anew, they find that a stop was asked for, and end. A user goes on later."""
    environment = {**os.environ, "CHECKPOINT_ROOT": str(folder / "outputs"), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    command += ["--standalone", "-m", MODULE, "--config", "config.yaml", "--resume", "auto"]
    with (folder / "stopped.err").open("w") as errors:
        agent = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
    while "step 30/" not in (said := (folder / "stopped.err").read_text()):
        assert agent.poll() is None, said
        time.sleep(0.05)
    workers = [child for child in psutil.Process(agent.pid).children() if MODULE in " ".join(child.cmdline())]
    random.choice(workers).terminate()
    assert agent.wait() == 1
    said = (folder / "stopped.err").read_text()
    assert "was asked to stop; that torchrun restarts it changes nothing" in said, said
    (run,) = (folder / "outputs" / "vanilla").iterdir()
    newest = RunFolder(run).checkpoints()[0]
    step = read_checkpoint(newest)["global_step"]
    assert f"step {step + 1}/" not in said and 30 <= step < 400
    gone_on = Job(folder, 1, f"--set=Training.max_steps={step + 5}")
    gone_on.finish()
    assert f"(step {step})" in gone_on.said(0)
