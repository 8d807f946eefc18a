"""Mutations that are led by which code of the library they reach (libFuzzer, by atheris, where it installs)::

    python tests/faults/coverage_fuzzing.py NUMBER SEED [LOADER ...]

An input is the number of one of a loader's files, and what the file holds instead. Each loader works in a process of its own, which ends at
the first input that is neither loaded nor refused, and shows it; the last line is JSON with what has become of each loader.
"""

import itertools
import json
import os
import shutil
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["transformer_architectures", "yaml", "tarfile", "zipfile"]):
    from fuzzing import MAX_GROWTH, MAX_SECONDS, TOKENS, outcome, shares, working_folder
    from loaders_under_test import LOADERS, write

MAX_LENGTH = 100_000  # bytes of an input


def fuzz(name: str, number: int, seed: int, folder: Path) -> None:
    """Ends this process: with 0, once so many inputs were loaded or refused."""
    places = [(files, target) for files in LOADERS[name].examples() for target in sorted(files)]
    corpus = folder.parent / "corpus"
    corpus.mkdir()
    for place, (files, target) in enumerate(places):
        (corpus / str(place)).write_bytes(bytes([place]) + files[target])
    words = folder.parent / "words"
    words.write_text("".join(f'"{escaped(token[:60])}"\n' for token in TOKENS))
    tried = itertools.count(1)

    def try_input(content: bytes) -> None:
        files, target = places[content[0] % len(places)] if content else places[0]
        write(folder, {**files, target: content[1:]})
        found = outcome(name, folder, True)
        if found not in ("loaded", "refused"):
            raise AssertionError(f"{name}: {target} of {content[1:]!r}: {found}")
        if next(tried) == number:
            os._exit(0)  # Arrow's threads would keep it from any other end

    megabytes = (int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") + MAX_GROWTH) >> 20
    options = {"seed": seed, "dict": words, "max_len": MAX_LENGTH, "rss_limit_mb": megabytes}
    options |= {"timeout": 6 * MAX_SECONDS, "artifact_prefix": f"{folder.parent}/", "verbosity": 0}
    atheris.Setup([sys.argv[0], *(f"-{key}={value}" for key, value in options.items()), str(corpus)], try_input)
    atheris.Fuzz()


def escaped(token: bytes) -> str:
    """As libFuzzer's dictionaries spell it."""
    return "".join(f"\\x{byte:02x}" for byte in token)


def fuzz_in_child(name: str, number: int, seed: int) -> str:
    """What is wrong, empty if nothing is."""
    folder = working_folder()
    said = folder.parent / "said"
    child = os.fork()
    if child == 0:
        with said.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        fuzz(name, number, seed, folder)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text = said.read_text(errors="replace")
    shutil.rmtree(folder.parent, ignore_errors=True)
    return "" if code == 0 else f"{name} {seed}: ended with {code}: {text[-3000:]}"


def main() -> None:
    """Shares out the mutations by weight."""
    total, seed, names = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or list(LOADERS)
    faults = []
    for name, number in shares(total, names):
        fault = fuzz_in_child(name, number, seed)
        print(f"{name:<40} {fault or 'no fault'}", file=sys.stderr)
        faults += [fault] if fault else []
    print(json.dumps({"faults": faults}))


if __name__ == "__main__":
    main()
