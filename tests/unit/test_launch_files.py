"""The files in `launch/`: they parse, the fields exist, and what they start is a command that exists."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

from transformer_architectures.architectures.vanilla.training import VANILLA
from transformer_architectures.config import load_sections
from transformer_architectures.training.runs.command import run_command

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"

# Of the API's types (pkg/apis/trainer/v1alpha1/trainjob_types.go of kubeflow/trainer): what each level may hold.
TRAINER = {"image", "command", "args", "env", "numNodes", "resourcesPerNode", "numProcPerNode"}
SPEC = {"runtimeRef", "initializer", "trainer", "runtimePatches", "suspend", "activeDeadlineSeconds", "managedBy"}
POD_PATCH = {
    "serviceAccountName", "volumes", "initContainers", "containers", "imagePullSecrets", "securityContext", "nodeSelector",
    "affinity", "tolerations", "schedulingGates",
}  # fmt: skip
# Of SkyPilot's YAML reference.
SKYPILOT = {
    "name",
    "workdir",
    "num_nodes",
    "resources",
    "envs",
    "secrets",
    "volumes",
    "file_mounts",
    "setup",
    "run",
    "config",
}


def read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((LAUNCH / name).read_text(encoding="utf-8"))
    return document


def torchrun_of(script: str) -> list[str]:
    """The words after `torchrun` in a shell script, variables replaced by what they might be."""
    joined = script.replace("\\\n", " ")
    line = next(line for line in joined.splitlines() if "torchrun " in line and " -m " in line)
    command = line.split("torchrun ", 1)[1].removesuffix("&").replace('"$@"', "--set Training.seed=2")
    values = {
        "architecture": "vanilla",
        "ARCHITECTURE": "vanilla",
        "config": "configs/vanilla_default.yaml",
        "CONFIG": "configs/vanilla_default.yaml",
        "head_node": "node1",
    }
    command = re.sub(r'\$\(echo "[^"]*" \| head -n 1\)|\$\(\([^)]*\)\)|\$\{\w+:-\d+\}', "8", command)
    return shlex.split(re.sub(r"\$(\w+)", lambda found: values.get(found[1], "2"), command))


def kubeflow_arguments() -> list[str]:
    trainer = read("kubeflow.yaml")["spec"]["trainer"]
    assert trainer["command"] == ["torchrun"]
    arguments: list[str] = trainer["args"]
    return arguments


STARTS: dict[str, Callable[[], list[str]]] = {
    "slurm.sbatch": lambda: torchrun_of((LAUNCH / "slurm.sbatch").read_text(encoding="utf-8")),
    "skypilot.yaml": lambda: torchrun_of(read("skypilot.yaml")["run"]),
    "kubeflow.yaml": kubeflow_arguments,
}


@pytest.mark.parametrize("name", STARTS)
def test_what_is_started_exists(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun's parser knows its flags, the training module exists, and its command line knows the rest."""
    found = get_args_parser().parse_args(STARTS[name]())
    assert found.module and find_spec(found.training_script) is not None
    of_torchrun = get_args_parser().get_default("signals_to_handle").split(",")
    assert set(found.signals_to_handle.split(",")) == {
        *of_torchrun,
        "SIGUSR1",
    }  # what it does not handle leaves its processes behind
    trained: list[tuple[str, list[str], str | None]] = []
    monkeypatch.setattr(sys, "argv", ["training", *found.training_script_args])
    monkeypatch.setattr(
        "transformer_architectures.training.runs.command.train_config",
        lambda models, train, path, overrides, resume: trained.append((path, list(overrides), resume)),
    )
    with pytest.raises(SystemExit) as exit:
        run_command("vanilla", VANILLA.sections, lambda *_: None)
    assert not exit.value.code
    ((config, _, resume),) = trained
    assert config.endswith(".yaml") and resume == "auto"


def test_every_file_is_started() -> None:
    assert set(STARTS) == {path.name for path in LAUNCH.iterdir()}


def test_configs_that_are_named_exist() -> None:
    named = re.findall(r"configs/\w+\.yaml", "".join(path.read_text(encoding="utf-8") for path in LAUNCH.iterdir()))
    assert named and all((ROOT / path).is_file() for path in named)


def test_fields_of_the_trainjob() -> None:
    job = read("kubeflow.yaml")
    assert job["apiVersion"] == "trainer.kubeflow.org/v1alpha1" and job["kind"] == "TrainJob"
    assert set(job) == {"apiVersion", "kind", "metadata", "spec"} and re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", job["metadata"]["name"])  # fmt: skip
    spec = job["spec"]
    assert (
        set(spec) <= SPEC
        and set(spec["trainer"]) <= TRAINER
        and set(spec["runtimeRef"]) <= {"name", "apiGroup", "kind"}
    )
    (patch,) = spec["runtimePatches"]
    assert set(patch) <= {"manager", "time", "trainingRuntimeSpec"}
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert replicated["name"] == "node"  # of the runtime torch-distributed
    pod = replicated["template"]["spec"]["template"]["spec"]
    assert set(pod) <= POD_PATCH
    (container,) = pod["containers"]
    assert set(container) <= {"name", "env", "volumeMounts", "securityContext"} and container["name"] == "node"
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    root = next(entry["value"] for entry in spec["trainer"]["env"] if entry["name"] == "CHECKPOINT_ROOT")
    assert root.startswith(container["volumeMounts"][0]["mountPath"])
    assert all(isinstance(entry["value"], str) for entry in spec["trainer"]["env"])


def test_fields_of_the_skypilot_task() -> None:
    task = read("skypilot.yaml")
    assert set(task) <= SKYPILOT
    assert set(task["resources"]) <= {"infra", "accelerators", "use_spot", "job_recovery"}
    assert set(task["resources"]["job_recovery"]) <= {"strategy", "max_restarts_on_errors", "recover_on_exit_codes"}
    (mounted,) = task["volumes"]
    assert task["envs"]["CHECKPOINT_ROOT"].startswith(mounted)
    for script in (task["setup"], task["run"]):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    load_sections(ROOT / task["envs"]["CONFIG"], VANILLA.sections)  # a config of the architecture beside it
    assert task["envs"]["ARCHITECTURE"] == "vanilla"


def test_the_shell_reads_the_slurm_script() -> None:
    subprocess.run(["bash", "-n", str(LAUNCH / "slurm.sbatch")], check=True)


class FakeCluster:
    """`srun` and `scontrol` that write down what they are asked; the training ends by a signal or with an exit code."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        (folder / "bin").mkdir()
        self._write(
            "scontrol", 'if [ "$1" = show ]; then echo node7; echo node8; else echo "scontrol $*" >> "$LOG"; fi'
        )
        self._write(
            "srun",
            'echo "srun $*" >> "$LOG"; trap \'echo "srun got USR1" >> "$LOG"; sleep 0.3; echo "checkpoint" >> "$LOG"; exit 138\' USR1\n'
            'if [ -n "$ENDS_WITH" ]; then exit "$ENDS_WITH"; fi\n'
            'echo ready >> "$LOG"; while true; do sleep 0.1; done',
        )

    def _write(self, name: str, body: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        path.chmod(0o755)

    def start(self, *arguments: str, **changes: str) -> "subprocess.Popen[bytes]":
        environment = {
            **os.environ, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "LOG": str(self.log), "ENDS_WITH": "",
            "SLURM_JOB_ID": "12345", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[7-8]", "ARCHITECTURE": "vit",
            "CHECKPOINT_ROOT": "/shared", **changes,
        }  # fmt: skip
        return subprocess.Popen(
            ["bash", str(LAUNCH / "slurm.sbatch"), *arguments], env=environment, stderr=subprocess.PIPE
        )

    def lines(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []


def test_a_slurm_job_whose_time_is_over_leaves_a_checkpoint_and_is_queued_again(tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path)
    job = cluster.start("configs/vit_default.yaml", "--set", "Training.seed=2")
    deadline = time.monotonic() + 60
    while "ready" not in cluster.lines() and time.monotonic() < deadline:
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=60) == 0
    started, _, *rest = cluster.lines()
    assert rest == [
        "srun got USR1",
        "checkpoint",
        "scontrol requeue 12345",
    ]  # in this order: nobody starts before the checkpoint is there
    assert "--nnodes=2 --nproc-per-node=8 --rdzv-id=12345" in started and "--rdzv-endpoint=node7:22345" in started
    assert started.endswith("vit.training --config configs/vit_default.yaml --resume auto --set Training.seed=2")


@pytest.mark.parametrize("code", [0, 1])
def test_a_slurm_job_that_ends_by_itself_is_not(tmp_path: Path, code: int) -> None:
    cluster = FakeCluster(tmp_path)
    assert cluster.start("configs/vit_default.yaml", ENDS_WITH=str(code)).wait(timeout=60) == code
    assert len(cluster.lines()) == 1


def test_a_slurm_job_says_what_it_needs(tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path)
    for arguments, changes, name in (
        ((), {}, "usage"),
        (("configs/vanilla_default.yaml",), {"CHECKPOINT_ROOT": ""}, "all nodes see"),
    ):
        job = cluster.start(*arguments, **changes)
        assert job.wait(timeout=60) != 0 and job.stderr is not None and name in job.stderr.read().decode()
    assert cluster.lines() == []
