"""What cannot be used is listed, counted, and too much of it is an error."""

import io
import json

import pytest

from transformer_architectures.datasets.rejections import Rejection, RejectionLog
from transformer_architectures.errors import DataError


def test_the_list() -> None:
    file = io.StringIO()
    log = RejectionLog(file)
    log.add(Rejection("a.csv", 7, "not UTF-8"))
    log.add(Rejection("ü.jpg", None, "empty file"))
    entries = [json.loads(line) for line in file.getvalue().splitlines()]
    assert entries == [{"file": "a.csv", "line": 7, "reason": "not UTF-8"}, {"file": "ü.jpg", "reason": "empty file"}]
    assert len(log) == 2 and "ü.jpg" in file.getvalue()


def test_the_limit() -> None:
    log = RejectionLog(io.StringIO())
    log.check(0, 0.0, "images")  # nothing of nothing
    for line in range(2):
        log.add(Rejection("a.csv", line, "not UTF-8"))
    log.check(98, 0.02, "images")
    with pytest.raises(DataError, match=r"2\.02% of the images .* 2\.00% \(2 × not UTF-8; see rejected\.jsonl\)"):
        log.check(97, 0.02, "images")
    log.file = None  # a list that is nowhere must not be named
    assert log.summary() == " (2 × not UTF-8)"
