"""The benchmark table of the translator: runs what is asked for and writes `benchmarks/results/translation.md` from all results.

make bench-env
.bench/bin/python -m benchmarks.translation train --rounds 5          # see training_speed
.bench/bin/python -m benchmarks.translation train --one-shape        # also compiled
.bench/bin/python -m benchmarks.translation decode                    # see decoding_speed
.bench/bin/python -m benchmarks.translation decode --model MODEL_DIR
.bench/bin/python -m benchmarks.translation all --model MODEL_DIR       # these four, one after the other
.bench/bin/python -m benchmarks.translation table
"""

import subprocess
import sys

from benchmarks import training_speed
from benchmarks.tables import OURS, RESULTS, rows_of, speed_tables


def training_tables() -> list[str]:
    """Systems are compared on the same batches only, each compiled or not as is best for it."""
    tables = speed_tables(rows_of("training_speed.jsonl"), section="batches", speed="tokens_per_second")
    return ["## Training, tokens per second that are not padding", "", *tables]


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
