"""torchrun's agent where it hangs: a worker that ends takes it along; one that does not hang is left alone."""

import os
import signal
import time

import pytest

from transformer_architectures.training.distributed import torchrun


@pytest.mark.parametrize("hangs", [True, False])
def test_only_an_agent_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch, hangs: bool) -> None:
    monkeypatch.setattr(torchrun, "AGENT_NOTICES_AFTER", 1)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "toy")
    if not (agent := os.fork()):
        if not (worker := os.fork()):
            torchrun.end_agent_that_hangs()
            os._exit(1)
        if not hangs:
            os.waitpid(worker, 0)
        time.sleep(3)
        os._exit(7)
    _, status = os.waitpid(agent, 0)
    assert os.waitstatus_to_exitcode(status) == (-signal.SIGKILL if hangs else 7)


def test_outside_of_torchrun_nobody_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setattr(torchrun.subprocess, "Popen", lambda *args, **kwargs: pytest.fail("a process was started"))
    torchrun.end_agent_that_hangs()
