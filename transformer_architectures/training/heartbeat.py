"""Which rank is lost: each process tells the others once a second that it lives; the one that falls silent is named.

Communication that fails says that *some* rank is gone. With `torchrun` the beats lie in the store of its agent, which outlives its workers.
"""

import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psutil
import torch.distributed as dist

BEAT = 1.0  # seconds
PATIENCE = 3 * BEAT  # without a beat for so long a rank is silent
LONGEST_READ = 10.0  # seconds that the store may take to answer


@dataclass(frozen=True)
class Member:
    """A process of the run, as the others know it."""

    rank: int
    host: str
    pid: int

    def __str__(self) -> str:
        return f"rank {self.rank} (process {self.pid} on {self.host})"

    @property
    def is_stopped_here(self) -> bool:
        """Whether it is a process of this machine that a signal has stopped."""
        try:
            return self.host == socket.gethostname() and psutil.Process(self.pid).status() == psutil.STATUS_STOPPED
        except psutil.Error:
            return False


@dataclass
class Heartbeat:
    """The beats of this process, and those of the others."""

    me: Member
    members: list[Member]
    store: Any = field(repr=False)
    _end: threading.Event = field(default_factory=threading.Event, repr=False)
    _threads: list[threading.Thread] = field(default_factory=list, repr=False)

    @classmethod
    def start(cls, rank: int, gather: Callable[[Any], list[Any]]) -> "Heartbeat":
        """Starts to beat; ``gather`` exchanges a value with all ranks."""
        me = Member(rank, socket.gethostname(), os.getpid())
        heartbeat = cls(me, gather(me), _connect())
        heartbeat._run(heartbeat._beat)
        return heartbeat

    def stop(self) -> None:
        """No more beats. Waits for threads: one that the store's end wakes while the interpreter goes down would abort it."""
        self._end.set()
        deadline = time.monotonic() + PATIENCE
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def lost(self) -> str:
        """Names the ranks that have fallen silent, in a sentence; empty if there are none. Kills those that are only stopped, as they
        would stay for ever."""
        after, before = None, self._read()
        if before is not None:
            time.sleep(PATIENCE)
            after = self._read()
        if before is None or after is None:
            silent = self._with_the_store()
        else:
            others = (member for member in self.members if member != self.me)
            silent = [member for member in others if before[member.rank] == after[member.rank]]
        if not silent:
            return ""
        stopped = [member for member in silent if member.is_stopped_here]
        for member in stopped:
            os.kill(member.pid, 9)
        named = [f"{member}{', which was stopped' if member in stopped else ''}" for member in silent]
        return f"lost {', '.join(named)}"

    def _run(self, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=target, name="heartbeat", daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _with_the_store(self) -> list[Member]:
        """Who is gone when the store is: torchrun's agent keeps it on the first host; otherwise rank 0 does."""
        first = self.members[0]
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or first.host == self.me.host:
            return [first]
        return [member for member in self.members if member.host == first.host]

    def _beat(self) -> None:
        store, number = _connect(), 0  # a connection is one thread's
        try:
            while not self._end.wait(BEAT):
                number += 1
                store.set(str(self.me.rank), str(number))
        except RuntimeError:
            return  # without a store nobody hears it

    def _read(self) -> list[str] | None:
        """The last beat of each rank; None where the store does not answer."""
        beats: list[str] = []

        def read() -> None:
            try:
                found = [
                    self.store.get(str(member.rank)).decode() if self.store.check([str(member.rank)]) else ""
                    for member in self.members
                ]
            except RuntimeError:
                return
            beats.extend(found)

        self._run(read).join(LONGEST_READ)
        return beats if len(beats) == len(self.members) else None


def _connect() -> Any:
    """A connection of its own to the store that the ranks have found each other by."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=LONGEST_READ))  # type: ignore[attr-defined]
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"heartbeat/{attempt}", store)  # type: ignore[attr-defined]


__all__ = ["Heartbeat", "Member"]
