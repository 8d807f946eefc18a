"""The command `tarch`: what goes where, with which exit code."""

import gzip
import inspect
import io
import json
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from tiny_translator import tiny_translator

from transformer_architectures import cli
from transformer_architectures.architectures import model_commands, train
from transformer_architectures.datasets.items_in_order import items_in_order
from transformer_architectures.pretrained.model_folder import write_model_folder
from transformer_architectures.tasks.translation import Translator

LINES = ["ba lo mi", "", "tuka séro", "lo\u2028mi\x0bka", "x" * 300]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run") / "model"
    tiny_translator(seed=int.from_bytes(os.urandom(3))).export(folder, {"task": "translation"})
    return str(folder)


class Outcome:
    """What a command left."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def lines(self) -> list[str]:
        assert self.out == "" or self.out.endswith("\n")
        return self.out.split("\n")[:-1]


Tarch = Callable[..., Outcome]


@pytest.fixture
def tarch(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Tarch:
    def run(*arguments: str, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as exit:
            cli.main(arguments)
        out, err = capfdbinary.readouterr()
        return Outcome(int(exit.value.code or 0), out.decode(), err.decode())

    return run


def text_file(path: Path, lines: list[str]) -> str:
    path.write_bytes("".join(line + "\n" for line in lines).encode())
    return str(path)


def test_predict_writes_one_line_for_each_line(tarch: Tarch, model_dir: str, tmp_path: Path) -> None:
    piped = tarch("predict", model_dir, stdin="\n".join(LINES).encode())  # the last line without its line feed
    assert piped.code == 0 and len(piped.lines) == len(LINES) and piped.lines[1] == ""
    assert "line 5 has" in piped.err
    for path in (text_file(tmp_path / "in.txt", LINES), str(tmp_path / "in.gz")):
        (tmp_path / "in.gz").write_bytes(gzip.compress((tmp_path / "in.txt").read_bytes()))
        assert tarch("predict", model_dir, "--input", path, "--device", "cpu").lines == piped.lines
    crlf = tarch("predict", model_dir, stdin=b"\xef\xbb\xbf" + "\r\n".join(LINES).encode())
    assert crlf.lines == piped.lines
    assert tarch("predict", model_dir, stdin=b"").out == ""


def test_inputs_are_texts_or_files(tarch: Tarch, model_dir: str, tmp_path: Path) -> None:
    piped = tarch("predict", model_dir, stdin="\n".join(LINES).encode()).lines
    path = text_file(tmp_path / "in.txt", LINES[:2])
    given = tarch("predict", "--beam", "3", model_dir, path, *LINES[2:])
    assert given.code == 0 and given.lines == piped


def test_the_options_are_those_of_the_tasks(tarch: Tarch) -> None:
    shown = tarch("predict", "--help")
    assert shown.code == 0 and all(option in shown.out for option in ("--beam", "--n-best", "--batch-size", "--device"))
    parameters = inspect.signature(Translator.predict).parameters
    assert parameters["n_best"].default is None and "input" not in parameters and "options" not in parameters


def test_bytes_that_are_no_utf8_still_give_their_line(tarch: Tarch, model_dir: str) -> None:
    outcome = tarch("predict", model_dir, stdin=b"ba lo\n\xff\xfe\xc3\nmi\n")
    assert outcome.code == 0 and len(outcome.lines) == 3
    assert outcome.err == "1 input lines are not UTF-8; what could not be read became U+FFFD\n"


def test_n_best_lines_have_line_rank_score_and_text(tarch: Tarch, model_dir: str) -> None:
    outcome = tarch("predict", model_dir, "--n-best", "2", "--beam", "4", stdin="\n".join(LINES).encode())
    rows = [line.split("\t") for line in outcome.lines]
    assert [(int(line), int(rank)) for line, rank, _, _ in rows] == [(n, r) for n in range(1, 6) for r in (1, 2)]
    assert all(float(score) <= 0 for _, _, score, _ in rows)
    plain = tarch("predict", model_dir, "--beam", "4", stdin="\n".join(LINES).encode())
    rounded = tarch("predict", model_dir, "--n-best", "2", "--precision", "bf16", stdin="\n".join(LINES).encode())
    assert len(rounded.lines) == len(rows) and [line.split("\t")[2] for line in rounded.lines] != [
        row[2] for row in rows
    ]
    assert [text.replace("\t", " ") for text in plain.lines] == [text for _, rank, _, text in rows if rank == "1"]


def test_evaluate_prints_scores_of_the_same_path(tarch: Tarch, model_dir: str, tmp_path: Path) -> None:
    source = text_file(tmp_path / "source", LINES)
    reference = text_file(tmp_path / "reference", tarch("predict", model_dir, "--input", source).lines)
    outcome = tarch("evaluate", model_dir, "--source", source, "--reference", reference, "--json")
    scores = json.loads(outcome.out)
    assert outcome.code == 0 and list(scores) == ["bleu", "chrf"] and scores["chrf"] == pytest.approx(100)
    shown = tarch("evaluate", model_dir, "--source", source, "--reference", reference, "--lowercase").lines
    assert [line.split("\t")[0] for line in shown] == ["bleu", "chrf"]
    assert "case:lc" in shown[0] and "version:" in shown[1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "Missing command"),
        (["predict"], 2, "MODEL_DIR"),
        (["forecast"], 2, "forecast"),
        (["predict", "MODEL", "--threshold", "1"], 2, "--threshold"),
        (["predict", "MODEL", "--beam", "0"], 2, "--beam"),
        (["predict", "MODEL", "--n-best", "9"], 2, "9-best"),
        (["predict", "MODEL", "--input", "/nothing"], 1, "/nothing"),
        (["predict", "MODEL", "--device", "abacus"], 2, "abacus"),
        (["predict", "/nothing"], 1, "/nothing"),
        (["evaluate", "MODEL"], 2, "--source FILE"),
        (["seal", "/nothing"], 1, "/nothing"),
        (["train", "/nothing.yaml"], 2, "/nothing.yaml"),
    ],
)
def test_errors_are_one_line_on_standard_error(
    tarch: Tarch, model_dir: str, arguments: list[str], code: int, message: str
) -> None:
    arguments = [model_dir if argument == "MODEL" else argument for argument in arguments]
    outcome = tarch(*arguments, stdin=b"ba\n")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (code, "", 1)
    assert outcome.err.startswith("tarch: ") and message in outcome.err


def test_files_that_are_not_parallel_are_named(tarch: Tarch, model_dir: str, tmp_path: Path) -> None:
    source, reference = text_file(tmp_path / "source", LINES), text_file(tmp_path / "reference", LINES[1:])
    outcome = tarch("evaluate", model_dir, "--source", source, "--reference", reference)
    assert outcome.code == 1 and "has 5 lines" in outcome.err and "has 4" in outcome.err


def test_debug_shows_the_traceback_and_keeps_the_code(tarch: Tarch) -> None:
    outcome = tarch("train", "/nothing.yaml", "--debug")
    assert outcome.code == 2 and "Traceback" in outcome.err


def test_an_option_of_another_task_is_refused_by_name(
    tarch: Tarch, model_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformer_architectures.tasks.line_predictor import LineOptions
    from transformer_architectures.tasks.translation import Translator

    others = model_commands.options_of_tasks("predict")
    monkeypatch.setattr(model_commands, "options_of_tasks", lambda command: others)
    monkeypatch.setattr(Translator, "predict_options", LineOptions)
    outcome = tarch("predict", model_dir, "--beam", "4", stdin=b"ba\n")
    assert outcome.code == 2 and "--beam does not belong to predict for translation" in outcome.err


def test_a_process_that_is_lost_while_it_reads_images_is_named(tarch: Tarch, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = []

    def predict_lines(inputs: list[str], options: object) -> Iterator[str]:
        others = set(multiprocessing.active_children())
        for number in items_in_order(range(1_000_000), num_inputs=1_000):
            if number == 10:
                worker, *_ = set(multiprocessing.active_children()) - others
                worker.kill()
                lost.append(worker.pid)
            yield str(number)

    fake = SimpleNamespace(predict_lines=predict_lines)
    monkeypatch.setattr(model_commands, "load_for", lambda *_: (fake, {}))
    outcome = tarch("predict", "model")
    assert outcome.code == 1
    expected = rf"tarch: a worker that loads batches is lost: DataLoader worker .*{lost[0]}.*\n"
    assert re.fullmatch(expected, outcome.err), outcome.err


def test_seal_makes_an_edited_folder_valid_again(tarch: Tarch, seed: int, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_model_folder(folder, {"a": torch.zeros(2)}, {"task": "translation", "architecture": "vanilla"}, {})
    (folder / "results.json").write_text("{}")
    assert tarch("predict", str(folder)).code == 1
    outcome = tarch("seal", str(folder))
    assert (outcome.code, outcome.out) == (0, "") and "results.json" in outcome.err
    assert "there is no tokenizer" in tarch("predict", str(folder)).err


def test_train_calls_the_training_of_the_architecture(
    tarch: Tarch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    config = tmp_path / "run.yaml"
    config.write_text("Model: {architecture: vanilla}\nTraining: {max_steps: 1}\nData: {train: {file: pairs.tsv}}\n")
    monkeypatch.setattr(train, "train", lambda architecture, *arguments: calls.append((architecture.name, *arguments)))
    outcome = tarch("train", str(config), "--set", "Training.seed=2", "--set", "Model.dropout=0", "--resume", "auto")
    assert outcome.code == 0
    assert calls == [("vanilla", str(config), ["Training.seed=2", "Model.dropout=0"], "auto")]
    assert tarch("train", str(config), "--device", "cpu", "--batch-tokens", "512").code == 0
    assert calls.pop() == ("vanilla", str(config), ["Training.device=cpu", "Training.batch_tokens=512"], None)
    outcome = tarch("train", str(config), "--batch-size", "8")
    assert outcome.code == 2 and "--batch-size does not belong" in outcome.err and len(calls) == 1
    for override in ("Model.architecture=crystal", "Model.architecture="):
        outcome = tarch("train", str(config), "--set", override)
        assert outcome.code == 2 and "expected one of: bert, vanilla" in outcome.err


@pytest.mark.parametrize(("left", "code"), [((), 0), (("run a: server away",), 1)])
def test_sync_reports_what_it_sent(
    tarch: Tarch, monkeypatch: pytest.MonkeyPatch, left: tuple[str, ...], code: int
) -> None:
    class Report(NamedTuple):
        is_complete: bool

        def __str__(self) -> str:
            return "\n".join(["20 points sent", *left])

    paths = []

    def send(path: Path) -> Report:
        paths.append(path)
        return Report(not left)

    monkeypatch.setitem(sys.modules, "transformer_architectures.training.tracking", SimpleNamespace(sync=send))
    monkeypatch.setenv("CHECKPOINT_ROOT", "/trained")
    outcome = tarch("sync")
    assert outcome.code == code and "20 points" in outcome.out and all(line in outcome.out for line in left)
    assert tarch("sync", "/elsewhere").code == code
    assert paths == [Path("/trained"), Path("/elsewhere")]


def test_a_reader_that_has_seen_enough_is_no_error(
    tarch: Tarch, model_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed_pipe:
        monkeypatch.setattr(sys, "stdout", closed_pipe)
        outcome = tarch("predict", model_dir, stdin=b"ba lo\nmi\n")
    assert (outcome.code, outcome.err) == (0, "")


def test_help_needs_no_torch() -> None:
    code = "import sys; from transformer_architectures import cli; cli.app; print('torch' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "False\n"
