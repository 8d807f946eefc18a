"""The benchmark table of the translator: runs what is asked for and writes `benchmarks/results/translation.md` from all results.

make bench-env
.bench/bin/python -m benchmarks.translation train --rounds 5          # see training_speed
.bench/bin/python -m benchmarks.translation train --compiled
.bench/bin/python -m benchmarks.translation decode                    # see decoding_speed
.bench/bin/python -m benchmarks.translation decode --model MODEL_DIR
.bench/bin/python -m benchmarks.translation table
"""

import json
import platform
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path("benchmarks/results")
OURS = "transformer_architectures"
PACKAGES = ("torch", "transformers", "x-transformers", "joeynmt", "ctranslate2")


def rows_of(name: str) -> list[dict[str, Any]]:
    path = RESULTS / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def versions() -> str:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)


def training_table() -> list[str]:
    """The last measurement of each cell; the compared peer is the best one of the same precision, compiled or not."""
    cells = {
        (row["size"], row["precision"], row["compiled"]): row["systems"] for row in rows_of("training_speed.jsonl")
    }
    names = list(dict.fromkeys(name for systems in cells.values() for name in systems))
    lines = ["## Training, tokens per second that are not padding", ""]
    lines += ["| size | precision | compiled | " + " | ".join(names) + " |", "|---|---|---|" + "---:|" * len(names)]
    for (size, precision, compiled), systems in cells.items():
        speeds = [f"{systems[name]['tokens_per_second']:,.0f}" if name in systems else "failed" for name in names]
        lines.append(f"| {size} | {precision} | {'yes' if compiled else 'no'} | " + " | ".join(speeds) + " |")
    lines.append("")
    for size in dict.fromkeys(key[0] for key in cells):
        best: dict[str, tuple[float, str]] = {}
        peers: dict[str, tuple[float, str]] = {}
        for (other, precision, compiled), systems in cells.items():
            for name, found in systems.items() if other == size else ():
                target = best if name == OURS else peers
                label = f"{name}{', compiled' if compiled else ''}"
                target[precision] = max(target.get(precision, (0.0, "")), (found["tokens_per_second"], label))
        as_run = max(
            found["tokens_per_second"] for name, found in cells.get((size, "fp32", False), {}).items() if name != OURS
        )
        overall = max(speed for speed, _ in best.values())
        lines.append(f"- {size}: {overall / as_run:.2f} x the best peer as its users run it (fp32, not compiled)")
        for precision in best:
            speed, peer = peers[precision]
            lines.append(
                f"- {size}, both {precision}: {best[precision][0] / speed:.2f} x ({best[precision][1]} against {peer})"
            )
    return lines


def decoding_table() -> list[str]:
    last = {(row["name"], row["sentences"]): row for row in rows_of("decoding_speed.jsonl")}
    lines = [
        "## Decoding, beam 5, fp32, seconds",
        "",
        "| model | sentences | batch | ours | generate | CTranslate2 | generate / ours | CTranslate2 / ours |",
    ]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|")
    for row in last.values():
        ours, hf, ct2 = (row[name]["seconds"] for name in (OURS, "transformers generate", "CTranslate2"))
        lines.append(
            f"| {row['name']} | {row['sentences']} | {row['batch_size']} | {ours:.1f} | {hf:.1f} | {ct2:.1f} | {hf / ours:.2f} | {ct2 / ours:.2f} |"
        )
    return lines


def table() -> None:
    """Writes the page."""
    header = [
        "# Translation: training and decoding speed",
        "",
        f"{date.today()}, {processor()}, 2 threads, Python {platform.python_version()}, {versions()}.",
        "Made by `benchmarks/translation.py`, which says how; medians over rounds in which the systems take turns.",
        "",
    ]
    (RESULTS / "translation.md").write_text("\n".join([*header, *training_table(), "", *decoding_table()]) + "\n")


def main() -> None:
    what = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if what == "train":
        from benchmarks.training_speed import main as run
    elif what == "decode":
        from benchmarks.decoding_speed import main as run
    elif what == "table":
        run = table
    else:
        raise SystemExit(__doc__)
    run()
    if what != "table":
        table()


if __name__ == "__main__":
    main()
