"""Tables of speeds, and the ratios that matter, made from lines of JSON: one for each size and precision.

A line: ``{SECTION: name of the table, "size", "precision", "environment", "systems": {name: {SPEED: number, ...}}}``.
"""

import json
from pathlib import Path
from typing import Any

RESULTS = Path("benchmarks/results")
OURS = "transformer_architectures"
Row = dict[str, Any]


def rows_of(name: str) -> list[Row]:
    path = RESULTS / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def add_row(name: str, row: Row) -> None:
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / name).open("a") as file:
        file.write(json.dumps(row) + "\n")


def speed_tables(rows: list[Row], section: str, speed: str) -> list[str]:
    """One table for each section, of the last measurement of each cell; then where they were measured.

    Systems are compared within a section only.
    """
    cells = {(row[section], row["size"], row["precision"]): row for row in rows}
    lines = []
    for title in dict.fromkeys(key[0] for key in cells):
        systems = {
            key[1:]: {name: found[speed] for name, found in row["systems"].items()}
            for key, row in cells.items()
            if key[0] == title
        }
        names = list(dict.fromkeys(name for speeds in systems.values() for name in speeds))
        lines += [f"### {title}", "", "| size | precision | " + " | ".join(names) + " |"]
        lines.append("|---|---|" + "---:|" * len(names))
        for (size, precision), speeds in systems.items():
            shown = [f"{speeds[name]:,.0f}" if name in speeds else "failed" for name in names]
            lines.append(f"| {size} | {precision} | " + " | ".join(shown) + " |")
        lines += ["", *ratios(systems), ""]
    measured = dict.fromkeys(f"{row['environment']}, {row['rounds']} rounds" for row in cells.values())
    return lines + [f"- {place}" for place in measured]


def ratios(systems: dict[tuple[str, str], dict[str, float]]) -> list[str]:
    """Ours against the best peer: at equal precision, and our best against what peers' users run (fp32, not compiled)."""
    lines = []
    for size in dict.fromkeys(size for size, _ in systems):
        ours_best = 0.0
        for precision in (precision for other, precision in systems if other == size):
            speeds = systems[size, precision]
            ours = max((name for name in speeds if name.startswith(OURS)), key=speeds.__getitem__)
            peer = max((name for name in speeds if not name.startswith(OURS)), key=speeds.__getitem__)
            ours_best = max(ours_best, speeds[ours])
            lines.append(f"- {size}, both {precision}: {speeds[ours] / speeds[peer]:.2f} x ({ours} against {peer})")
        plain = systems[size, "fp32"]
        as_run = max(speed for name, speed in plain.items() if not name.startswith(OURS) and "compiled" not in name)
        lines.append(
            f"- {size}: our best is {ours_best / as_run:.2f} x the best peer as its users run it (fp32, not compiled)"
        )
    return lines
