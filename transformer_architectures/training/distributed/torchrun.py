"""What `torchrun` tells its workers, and what it has to be told."""

import os
import subprocess
import sys

import torch

from transformer_architectures.errors import UsageError

AGENT_NOTICES_AFTER = 10  # seconds in which torchrun has seen that a worker of its is gone, unless it hangs


def number_of_restart() -> int:
    """How often torchrun has restarted the workers; 0 outside of it."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def is_first_process() -> bool:
    """Whether this is the one that tells the user and writes: rank 0, or the only process."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK") == "0"


def say_once(line: str) -> None:
    """On standard error, of all processes by the first."""
    if is_first_process():
        print(line, file=sys.stderr)


def may_be_restarted() -> bool:
    """Whether torchrun would start the workers anew after a failure."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def check_restarts(resume: str | None, device: torch.device) -> None:
    """Refuses ``torchrun --max-restarts`` where a restart would not go on with the run.

    Raises:
        UsageError: says what is missing.
    """
    if not may_be_restarted():
        return
    if resume != "auto":
        raise UsageError("torchrun --max-restarts needs --resume auto: a restarted worker would begin a new run")
    # In the agent's store the addresses of the workers before would be found (gloo, torch 2.15). Only a rendezvous by c10d that is told
    # so gives each round of workers a store of its own.
    if device.type == "cpu" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise UsageError(
            "torchrun --max-restarts needs TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment, and --standalone or "
            "--rdzv-backend c10d: otherwise restarted workers do not find each other"
        )


def end_agent_that_hangs() -> None:
    """For a worker that is about to end: kills torchrun if it does not notice that in time.

    Where the network is cut, the agent of another node than the first asks its rendezvous (c10d) for news and waits for the answer
    without a limit (torch 2.15, `TCPStore::doWait`): a quarter of an hour, until TCP gives up, deaf to signals. It never collects
    its worker then, which stays a zombie; an agent that does not hang has collected it at once.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or not hasattr(os, "fork"):  # Windows has no zombies, nor `sh`
        return
    worker, agent = os.getpid(), os.getppid()
    watch = f"sleep {AGENT_NOTICES_AFTER}; kill -0 {worker} && kill -9 {agent}"
    nowhere = subprocess.DEVNULL  # a reader of the worker's output must not wait for it
    subprocess.Popen(["sh", "-c", watch], stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)
