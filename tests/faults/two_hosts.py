"""Two hosts on one machine: network namespaces with names of their own, joined by a virtual cable that can be pulled out."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from secrets import token_hex
from tempfile import NamedTemporaryFile

INTERFACE = "cable"  # its name on both hosts
PREPARE = (
    'hostname "$0" && mount --bind "$1" /etc/hosts && shift && exec "$@"'  # seen by this process and its children only
)


def ip(*words: str) -> str:
    """The command of iproute2."""
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@cache
def why_there_are_none() -> str:
    """Why hosts cannot be made here; empty where they can."""
    if sys.platform != "linux" or not shutil.which("ip") or not shutil.which("unshare"):
        return "there is no Linux with iproute2 and util-linux"
    try:
        with two_hosts() as (host, _):
            host.run("true")
    except (OSError, subprocess.CalledProcessError) as error:
        return f"network namespaces cannot be made: {getattr(error, 'stderr', None) or error}".strip()
    return ""


@dataclass(frozen=True)
class Host:
    """One end of the cable.

    Args:
        name: of the host and of its namespace.
        known: a file of the form of ``/etc/hosts``.
    """

    name: str
    address: str
    known: str

    def command(self, command: Sequence[str]) -> list[str]:
        """The command that runs another there."""
        prepare = ["unshare", "--uts", "--mount", "sh", "-c", PREPARE, self.name, self.known]
        return ["ip", "netns", "exec", self.name, *prepare, *command]

    def run(self, *command: str) -> None:
        """To its end."""
        subprocess.run(self.command(command), check=True, capture_output=True, text=True)

    def start(
        self, command: Sequence[str], folder: Path, environment: dict[str, str], said: Path
    ) -> subprocess.Popen[bytes]:
        """Starts a command there; both streams go to a file."""
        with said.open("w") as output:
            return subprocess.Popen(self.command(command), cwd=folder, env=environment, stdout=output, stderr=output)

    def is_there(self) -> bool:
        """Whether its namespace is."""
        return self.name in (line.split()[0] for line in ip("netns", "list").splitlines())

    def processes(self) -> list[int]:
        """All that run there."""
        return [int(line) for line in ip("netns", "pids", self.name).split()]

    def pull_out(self) -> None:
        """Nothing comes or goes any more, and nobody is told."""
        ip("-n", self.name, "link", "set", INTERFACE, "down")

    def plug_in(self) -> None:
        """As it was."""
        ip("-n", self.name, "link", "set", INTERFACE, "up")


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Joined by a cable; when the block ends, gone with all that runs on them."""
    unique = token_hex(3)
    with NamedTemporaryFile("w", prefix="hosts_") as known:
        first, second = hosts = tuple(Host(f"host-{unique}-{n}", f"10.71.0.{n + 1}", known.name) for n in range(2))
        known.write("127.0.0.1 localhost\n" + "".join(f"{host.address} {host.name}\n" for host in hosts))
        known.flush()
        try:
            for host in hosts:
                ip("netns", "add", host.name)
                ip("-n", host.name, "link", "set", "lo", "up")
            ip(*f"-n {first.name} link add {INTERFACE} type veth peer name {INTERFACE} netns {second.name}".split())
            for host in hosts:
                ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", INTERFACE)
                host.plug_in()
            yield first, second
        finally:
            for host in hosts:
                if host.is_there():
                    for pid in host.processes():
                        os.kill(pid, signal.SIGKILL)
                    ip("netns", "delete", host.name)  # its end of the cable goes with it
