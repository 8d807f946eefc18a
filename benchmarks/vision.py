"""The benchmark of the Vision Transformer: runs what is asked for and writes `benchmarks/results/vision.md` from all results.

make bench-env
.bench/bin/python -m benchmarks.vision speed        # training and inference against timm, transformers, vit-pytorch
.bench/bin/python -m benchmarks.vision loading      # whether the loader keeps the model fed
.bench/bin/python -m benchmarks.vision table
"""

import sys

from benchmarks import image_loading, vision_speed
from benchmarks.tables import RESULTS, rows_of, speed_tables


def loading_table() -> list[str]:
    """The last measurement of each case."""
    last = {row["case"]: row for row in rows_of(image_loading.RESULT)}
    columns = "| images | model | workers | loader alone | step alone | training | step waits |"
    lines = ["## Loading, images per second", "", columns, "|---|---|" + "---:|" * 5]
    for case, row in last.items():
        for found in row["rows"]:
            speeds = " | ".join(f"{found[name]:,.0f}" for name in ("loader", "step", "training"))
            lines.append(f"| {case} | {row['size']} | {found['workers']} | {speeds} | {found['waits']:.1%} |")
    return lines + ["", *(f"- {place}" for place in dict.fromkeys(row["environment"] for row in last.values()))]


def table() -> None:
    """Writes the page."""
    header = [
        "# Vision Transformers: speed",
        "",
        "Made by `benchmarks/vision.py`, which says how; medians over rounds in which the systems take turns.",
        "",
    ]
    speeds = speed_tables(rows_of(vision_speed.RESULT), section="mode", speed="images_per_second")
    (RESULTS / "vision.md").write_text("\n".join([*header, *speeds, "", *loading_table()]) + "\n")


def main() -> None:
    what = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if what not in ("speed", "loading", "table"):
        raise SystemExit(__doc__)
    if what == "speed":
        vision_speed.main()
    elif what == "loading":
        image_loading.main()
    table()


if __name__ == "__main__":
    main()
