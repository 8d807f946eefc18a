"""The benchmark table of the translator: runs what is asked for and writes `benchmarks/results/translation.md` from all results.

make bench-env
.bench/bin/python -m benchmarks.translation train --rounds 5          # see training_speed
.bench/bin/python -m benchmarks.translation train --one-shape        # also compiled
.bench/bin/python -m benchmarks.translation decode                    # see decoding_speed
.bench/bin/python -m benchmarks.translation decode --model MODEL_DIR
.bench/bin/python -m benchmarks.translation all --model MODEL_DIR       # these four, one after the other
.bench/bin/python -m benchmarks.translation table
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import training_speed

RESULTS = Path("benchmarks/results")
OURS = "transformer_architectures"


def rows_of(name: str) -> list[dict[str, Any]]:
    path = RESULTS / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def training_tables() -> list[str]:
    """The last measurement of each cell; systems are compared on the same batches only, each compiled or not as is best for it."""
    cells = {(row["batches"], row["size"], row["precision"]): row for row in rows_of("training_speed.jsonl")}
    lines = ["## Training, tokens per second that are not padding", ""]
    for batches in dict.fromkeys(key[0] for key in cells):
        rows = {key[1:]: row["systems"] for key, row in cells.items() if key[0] == batches}
        names = list(dict.fromkeys(name for systems in rows.values() for name in systems))
        lines += [f"### {batches}", "", "| size | precision | " + " | ".join(names) + " |"]
        lines.append("|---|---|" + "---:|" * len(names))
        for (size, precision), systems in rows.items():
            speeds = [f"{systems[name]['tokens_per_second']:,.0f}" if name in systems else "failed" for name in names]
            lines.append(f"| {size} | {precision} | " + " | ".join(speeds) + " |")
        lines += ["", *ratios(rows), ""]
    lines += [f"- {place}" for place in dict.fromkeys(row["environment"] for row in cells.values())]
    return lines


def ratios(rows: dict[tuple[str, str], dict[str, Any]]) -> list[str]:
    """Ours against the best peer: at equal precision, and our best against what peers' users run (fp32, not compiled)."""
    lines = []
    for size in dict.fromkeys(size for size, _ in rows):
        ours_best = 0.0
        for precision in (precision for other, precision in rows if other == size):
            speeds = {name: found["tokens_per_second"] for name, found in rows[size, precision].items()}
            ours = max((name for name in speeds if name.startswith(OURS)), key=speeds.__getitem__)
            peer = max((name for name in speeds if not name.startswith(OURS)), key=speeds.__getitem__)
            ours_best = max(ours_best, speeds[ours])
            lines.append(f"- {size}, both {precision}: {speeds[ours] / speeds[peer]:.2f} x ({ours} against {peer})")
        plain = {name: found["tokens_per_second"] for name, found in rows[size, "fp32"].items()}
        as_run = max(speed for name, speed in plain.items() if not name.startswith(OURS) and "compiled" not in name)
        lines.append(
            f"- {size}: our best is {ours_best / as_run:.2f} x the best peer as its users run it (fp32, not compiled)"
        )
    return lines


def decoding_table() -> list[str]:
    """The last measurement of each model; equal: the share of sentences for which a peer found our very output."""
    last = {(row["name"], row["sentences"]): row for row in rows_of("decoding_speed.jsonl")}
    names = (OURS, "transformers generate", "CTranslate2")
    columns = "| model | sentences | batch | ours | generate | CTranslate2 | generate / ours | CTranslate2 / ours | equal | equal |"
    lines = ["## Decoding, beam 5, fp32, seconds", "", columns, "|---|" + "---:|" * 9]
    for row in last.values():
        ours, generate, ct2 = (row[name]["seconds"] for name in names)
        equal = [f"{row[name]['equal_to_ours']:.1%}" for name in names[1:]]
        figures = [
            f"{ours:.1f}",
            f"{generate:.1f}",
            f"{ct2:.1f}",
            f"{generate / ours:.2f}",
            f"{ct2 / ours:.2f}",
            *equal,
        ]
        lines.append("| " + " | ".join([row["name"], str(row["sentences"]), str(row["batch_size"]), *figures]) + " |")
    lines += ["", *(f"- {place}" for place in dict.fromkeys(row["environment"] for row in last.values()))]
    return lines


def table() -> None:
    """Writes the page."""
    header = [
        "# Translation: training and decoding speed",
        "",
        "Made by `benchmarks/translation.py`, which says how; medians over rounds in which the systems take turns.",
        "",
    ]
    page = "\n".join([*header, *training_tables(), "", *decoding_table()])
    (RESULTS / "translation.md").write_text(page + "\n")


def main() -> None:
    what = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if what not in ("train", "decode", "all", "table"):
        raise SystemExit(__doc__)
    if what == "all":
        options = sys.argv[1:]
        for part in (["train"], ["train", "--one-shape"], ["decode"], ["decode", *options]):
            subprocess.run([sys.executable, "-m", "benchmarks.translation", *part], check=True)
        return
    if what == "train":
        training_speed.main()
    elif what == "decode":
        from benchmarks import decoding_speed  # needs peers that training does without

        decoding_speed.main()
    table()


if __name__ == "__main__":
    main()
