"""Mutations of files, and what a loader makes of them: it loads, or refuses with an error of the library, and nothing else.

Also a program, so that a loader that takes the whole process with it is found too::

    python tests/faults/fuzzing.py NUMBER SEED [LOADER ...]

Each loader works in a process of its own, which may take a bounded time and memory; the last line is JSON with the counts.
"""

import faulthandler
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from loaders_under_test import LOADERS, Files, write

from transformer_architectures.errors import TransformerArchitecturesError

MAX_SECONDS = 10  # of processor time for one input of a few kilobytes
MAX_GROWTH = 2**30  # bytes of memory, over all inputs of a loader
# Addresses without memory behind them: stacks, and what Arrow's allocator reserves for each thread of a reader (1.5 MB a file).
MAX_RESERVED = 10 * 2**30
# What parsers have tripped over.
TOKENS = [b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\\ud800", b'"', b"'", b"[" * 50, b"{" * 50, b"}", b"\n", b"\r", b"\t", b",", b"-1", b"0",
          b"99999999999999999999", b"1e999", b"NaN", b"null", b"true", b"../", b"/", b"&a ", b"*a", b"<<: ", b"!!int ", b"!!bool x",
          b"!!python/object:os.system ", b"? ", b"%", b"\x7f" * 9, b"\xef\xbb\xbf", b"9" * 5000, b"a" * 3000]  # fmt: skip
NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1]
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    2,
    3,
    2**31,
    10**12,
    10**30,
    0.5,
    -1e308,
    "",
    "x",
    "x" * 500,
    "\ud800",
    "../a",
    [],
    [[]],
    {},
    {"a": 1},
]
JSON_NAMES = (".json", ".jsonl")


class TooSlow(BaseException):
    """An input took longer than any of its size may; nothing in the library catches this."""


# -------------------------------------------------------------------- mutations
def mutated(draw: random.Random, name: str, content: bytes) -> bytes:
    """Another content for a file."""
    if name.endswith(JSON_NAMES) and draw.random() < 0.6:
        return mutated_json(draw, content)
    for _ in range(draw.choice([1, 1, 1, 2, 3, 8])):
        content = draw.choice(MUTATIONS)(draw, content)
    return content


def flip(draw: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    if changed:
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def overwrite(draw: random.Random, content: bytes) -> bytes:
    place, size = draw.randrange(len(content) + 1), draw.choice([1, 2, 4, 16, 200])
    return content[:place] + draw.randbytes(min(size, len(content) - place)) + content[place + size :]


def delete(draw: random.Random, content: bytes) -> bytes:
    place = draw.randrange(len(content) + 1)
    return content[:place] + content[place + draw.choice([1, 2, 7, 64, 512]) :]


def repeat(draw: random.Random, content: bytes) -> bytes:
    place, size = draw.randrange(len(content) + 1), draw.choice([1, 5, 40, 300])
    return content[:place] + content[place : place + size] * draw.choice([2, 3, 50]) + content[place + size :]


def insert(draw: random.Random, content: bytes) -> bytes:
    place = draw.randrange(len(content) + 1)
    return content[:place] + draw.choice(TOKENS) + content[place:]


def truncate(draw: random.Random, content: bytes) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def set_number(draw: random.Random, content: bytes) -> bytes:
    """A field of a binary format, or a number in a text."""
    written = list(re.finditer(rb"\d+", content))
    if written and draw.random() < 0.5:
        found = draw.choice(written)
        return content[: found.start()] + str(draw.choice([-1, *NUMBERS])).encode() + content[found.end() :]
    size, order = draw.choice([1, 2, 4, 8]), draw.choice(["little", "big"])
    number = draw.choice(NUMBERS) & (256**size - 1)
    place = draw.randrange(max(1, len(content) - size))
    return content[:place] + number.to_bytes(size, order) + content[place + size :]  # type: ignore[arg-type]


def swap_lines(draw: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    draw.shuffle(lines)
    return b"\n".join(lines)


MUTATIONS = [flip, overwrite, delete, repeat, insert, truncate, set_number, swap_lines]


def mutated_json(draw: random.Random, content: bytes) -> bytes:
    """A value, somewhere, is another; or a key is gone, or there is one more."""
    try:
        document = json.loads(content)
    except ValueError:  # several lines
        return insert(draw, content)
    places = [(holder, key) for holder in containers(document) for key in keys_of(holder)]
    if not places:
        return json.dumps(draw.choice(VALUES)).encode()
    for _ in range(draw.choice([1, 1, 2, 4])):
        holder, key = draw.choice(places)
        kind = draw.random()
        if kind < 0.15 and isinstance(holder, dict):
            holder.pop(key, None)
        elif kind < 0.25 and isinstance(holder, dict):
            holder[draw.choice(["", "x", "../x", "size"])] = draw.choice(VALUES)
        elif kind < 0.4:
            other, from_key = draw.choice(places)
            value = other.get(from_key) if isinstance(other, dict) else other[from_key] if from_key < len(other) else 0
            holder[key] = json.loads(json.dumps(value))
        else:
            holder[key] = draw.choice(VALUES)
    return json.dumps(document).encode()


def containers(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        yield value
        for item in list(value.values()) if isinstance(value, dict) else value:
            yield from containers(item)


def keys_of(holder: Any) -> list[Any]:
    return list(holder) if isinstance(holder, dict) else list(range(len(holder)))


def case_of(name: str, seed: int, number: int, examples: list[Files]) -> tuple[Files, bool]:
    """Input number ``number`` of a loader, and whether it is made to pass every check."""
    draw = random.Random(f"{name} {seed} {number}")
    files = dict(draw.choice(examples))
    target = draw.choice(sorted(files))
    if len(files) > 1 and draw.random() < 0.05:
        del files[target]
    else:
        files[target] = mutated(draw, target.removesuffix(".gz"), files[target])
    return files, draw.random() < 0.9


# -------------------------------------------------------------------- trying
@contextmanager
def time_limit(seconds: float = MAX_SECONDS) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def outcome(name: str, folder: Path, is_resealed: bool) -> str:
    """``loaded``, ``refused``, or what went wrong."""
    loader = LOADERS[name]
    try:
        with time_limit(), warnings.catch_warnings(), open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            if is_resealed and loader.resealed is not None:
                loader.resealed(folder)
            loader.load(folder)
    except TransformerArchitecturesError as error:
        return "refused" if "\n" not in str(error) else f"a message of several lines: {error!r}"
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of native code is none of `Exception`
        return f"{type(error).__module__}.{type(error).__name__}: {str(error)[:300]}"
    return "loaded"


def fuzz(name: str, count: int, seed: int, folder: Path, first: int = 0) -> tuple[Counter[str], list[str]]:
    """Counts of what became of the inputs, and what must not have become of them."""
    examples = LOADERS[name].examples()
    counts: Counter[str] = Counter()
    faults = []
    for files in examples:
        write(folder, files)
        assert outcome(name, folder, False) == "loaded", (name, outcome(name, folder, False))
    for number in range(first, first + count):
        files, is_resealed = case_of(name, seed, number, examples)
        write(folder, files)
        found = outcome(name, folder, is_resealed)
        counts["mutations"] += 1
        counts[found if found in ("loaded", "refused") else "faults"] += 1
        if found not in ("loaded", "refused"):
            faults.append(f"{name} {seed} {number}: {found}")
    return counts, faults


def working_folder() -> Path:
    """In memory, where that can be: every input is written."""
    root = Path("/dev/shm")
    return Path(tempfile.mkdtemp(dir=root if os.access(root, os.W_OK) else None)) / "input"


def fuzz_in_child(name: str, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """The same in a process that may not take more than `MAX_GROWTH`, and whose death is a fault like others."""
    reading, writing = os.pipe()
    folder = working_folder()
    child = os.fork()
    if child == 0:
        os.close(reading)
        faulthandler.disable()
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + MAX_GROWTH + MAX_RESERVED
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        try:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            counts, faults = fuzz(name, count, seed, folder)
            growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
            if growth > MAX_GROWTH:
                faults.append(f"{name}: took {growth:,} bytes of memory")
            os.write(writing, json.dumps([counts, faults[:20]]).encode()[:60_000])
        except BaseException as error:
            os.write(writing, json.dumps([{}, [f"{name}: {error!r}"[:2000]]]).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    status = os.waitpid(child, 0)[1]
    shutil.rmtree(folder.parent, ignore_errors=True)
    if not answer:
        return Counter(), [f"{name} {seed}: the process died ({os.waitstatus_to_exitcode(status)})"]
    counts, faults = json.loads(answer)
    return Counter(counts), faults


def shares(total: int, names: Sequence[str]) -> Iterator[tuple[str, int]]:
    """How many of all inputs each loader gets, by its weight."""
    weights = sum(LOADERS[name].weight for name in names)
    for name in names:
        yield name, math.ceil(total * LOADERS[name].weight / weights)


def main() -> None:
    """Shares out the mutations by weight."""
    total, seed, names = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or list(LOADERS)
    report: dict[str, Any] = {"counts": {}, "faults": []}
    for name, count in shares(total, names):
        counts, faults = fuzz_in_child(name, count, seed)
        report["counts"][name] = counts
        report["faults"] += faults
        print(f"{name:<40} {dict(counts)} {len(faults)} faults", file=sys.stderr)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
