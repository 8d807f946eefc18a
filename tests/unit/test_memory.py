"""Freed memory is kept, unless the user has settings of their own."""

import ctypes
import os
import subprocess
import sys

import pytest

PAGE_FAULTS = """
import resource
import torch
from transformer_architectures.utils.memory import keep_freed_memory

def step():
    tensors = [torch.ones(2**22) for _ in range(20)]  # 16 MiB each

keep_freed_memory()
for _ in range(8):  # tensors are aligned: a few steps pass until all find room
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(**environment: str) -> int:
    """Of a step that takes and frees 320 MiB, in a process of its own."""
    command = [sys.executable, "-c", PAGE_FAULTS]
    found = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return int(found.stdout)


@pytest.mark.skipif(
    os.name != "posix" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="not a system with glibc"
)
def test_memory_is_kept_from_step_to_step() -> None:
    assert page_faults() < 500
    # What glibc does on its own depends on what was freed before; with its first thresholds fixed by the user it gives all back.
    assert page_faults(MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072") > 5000
