"""Which rank is lost: each process tells the others once a second that it lives; the one that falls silent is named. A process that
ends with an error publishes it.

Communication that fails says that *some* rank is gone. With `torchrun` the beats lie in the store of its agent, which outlives its workers.
"""

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from secrets import token_hex
from typing import Any

import psutil
import torch.distributed as dist

STOPPED = "stopped"  # the word of who ends by a signal; the exit code follows
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
    connect: Callable[[], Any] = field(repr=False)
    store: Any = field(repr=False)
    _is_store_lost: bool = False
    _has_killed: bool = False
    _end: threading.Event = field(default_factory=threading.Event, repr=False)
    _threads: list[threading.Thread] = field(default_factory=list, repr=False)

    @classmethod
    def start(cls, rank: int, gather: Callable[[Any], list[Any]]) -> "Heartbeat":
        """Starts to beat; ``gather`` exchanges a value with all ranks."""
        me = Member(rank, socket.gethostname(), os.getpid())
        found = gather((me, token_hex(8)))
        connect = partial(_connect, found[0][1])
        heartbeat = cls(me, [member for member, _ in found], connect, connect())
        heartbeat._run(heartbeat._beat)
        return heartbeat

    def stop(self) -> None:
        """No more beats. Waits for threads: one that the store's end wakes while the interpreter goes down would abort it."""
        self._end.set()
        # One that was killed here may have kept the store: threads that wait for it wake now, and torch writes its traces before they end.
        deadline = time.monotonic() + (LONGEST_READ if self._has_killed else PATIENCE)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def publish_failure(self, reason: str) -> None:
        """Tells the others why this process is about to leave them."""
        with suppress(RuntimeError):  # without a store nobody hears it
            self.store.set(f"word/{self.me.rank}", " ".join(reason.split()))

    def stopped(self) -> int | None:
        """The exit code of another that has left word of being stopped by a signal."""
        codes = [word.split()[1] for word in self._read("word") or [] if word.startswith(f"{STOPPED} ")]
        return int(codes[0]) if codes else None

    def failed(self) -> str:
        """What the others have left word of, in a sentence; empty if there is none."""
        words = self._read("word") or []
        return "; ".join(
            f"{member} has failed: {word}" for member, word in zip(self.members, words, strict=False) if word
        )

    def lost(self) -> str:
        """Names the ranks that have fallen silent, in a sentence; empty if there are none. Kills those that are only stopped, as they
        would stay for ever."""
        after, before = None, self._read("beat")
        if before is not None:
            time.sleep(PATIENCE)
            after = self._read("beat")
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
            self._has_killed = True
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
        store, number = self.connect(), 0  # a connection is one thread's
        try:
            while not self._end.wait(BEAT):
                number += 1
                store.set(f"beat/{self.me.rank}", str(number))
        except RuntimeError:
            return  # without a store nobody hears it

    def _read(self, name: str) -> list[str] | None:
        """What each rank has left there, or nothing; None where the store does not answer."""
        of_ranks: list[str] = []

        def read() -> None:
            try:
                found = [
                    self.store.get(key).decode() if self.store.check([key]) else ""
                    for key in (f"{name}/{member.rank}" for member in self.members)
                ]
            except RuntimeError:
                return
            of_ranks.extend(found)

        if not self._is_store_lost:  # nobody waits for it twice
            self._run(read).join(LONGEST_READ)
            self._is_store_lost = len(of_ranks) != len(self.members)
        return None if self._is_store_lost else of_ranks


def _connect(name: str) -> Any:
    """A connection of its own to the store that the ranks have found each other by, and what lies under a name there."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=LONGEST_READ))  # type: ignore[attr-defined]
    return dist.PrefixStore(f"heartbeat/{name}", store)  # type: ignore[attr-defined]
