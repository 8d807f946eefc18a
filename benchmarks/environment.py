"""Where a figure was measured: what every row of a result carries."""

import platform
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


def processor() -> str:
    """Name, family and model: AMD calls processors of several generations by one name."""
    facts: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    name = facts.get("model name") or platform.processor()
    return f"{name} (family {facts.get('cpu family', '?')}, model {facts.get('model', '?')})"


def versions(packages: tuple[str, ...]) -> str:
    """Each package with its version."""
    found = []
    for name in packages:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)


def environment(*packages: str) -> str:
    """One line: date, processor, threads, versions."""
    threads = f"{torch.get_num_threads()} threads"
    python = f"Python {platform.python_version()}"
    return ", ".join([str(date.today()), processor(), threads, python, versions(("torch", *packages))])
