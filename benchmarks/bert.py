"""The benchmark of BERT: runs what is asked for and writes `benchmarks/results/bert.md` from all results.

make bench-env
.bench/bin/python -m benchmarks.bert train      # pre-training against transformers and torch.nn.TransformerEncoder
.bench/bin/python -m benchmarks.bert infer      # MiniLM's weights against transformers and sentence-transformers
.bench/bin/python -m benchmarks.bert table
"""

import sys

from benchmarks import bert_inference, bert_training
from benchmarks.tables import RESULTS, rows_of, speed_tables


def table() -> None:
    """Writes the page."""
    header = [
        "# BERT: speed",
        "",
        "Made by `benchmarks/bert.py`, which says how; medians over rounds in which the systems take turns.",
        "",
    ]
    training = speed_tables(rows_of(bert_training.RESULT), section="batches", speed="tokens_per_second")
    inference = speed_tables(rows_of(bert_inference.RESULT), section="sentences", speed="sentences_per_second")
    page = [
        *header,
        "## Pre-training, tokens per second that are not padding",
        "",
        *training,
        "",
        "## Inference, sentences per second",
        "",
        *inference,
    ]
    (RESULTS / "bert.md").write_text("\n".join(page) + "\n")


def main() -> None:
    what = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if what not in ("train", "infer", "table"):
        raise SystemExit(__doc__)
    if what == "train":
        bert_training.main()
    elif what == "infer":
        bert_inference.main()
    table()


if __name__ == "__main__":
    main()
