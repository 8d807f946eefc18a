"""What the library writes is whole or absent: each write, flush and rename fails in turn, for every kind of file.

The quick form fails some of the operations, chosen at random; the long form fails every one of them in every way.
"""

import errno
import json
import os
import random
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from failing_files import Faults, Killed, failing, killed_at, number_of_operations

from transformer_architectures.config import fingerprint
from transformer_architectures.datasets.cached_folder import cached_folder
from transformer_architectures.datasets.images.pixel_store import PixelStore, PixelStoreWriter
from transformer_architectures.datasets.text.document_store import DocumentStore, DocumentStoreWriter
from transformer_architectures.datasets.text.token_store import TokenStore, TokenStoreWriter
from transformer_architectures.errors import CheckpointError, DataError, ModelFolderError, TransformerArchitecturesError
from transformer_architectures.pretrained.model_folder import open_model_folder, seal, write_model_folder
from transformer_architectures.tokenization import SubwordTokenizer, WordPieceTokenizer, load_tokenizer
from transformer_architectures.training.checkpointing.checkpoints import read_checkpoint, save_checkpoint
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.runs.run_folder import RunFolder
from transformer_architectures.training.tracking.destination import Destination, LocalStore
from transformer_architectures.training.tracking.spool import Spool

OLD, NEW = 1, 2


class Kind:
    """A kind of file: how it is written, and which of two contents is there afterwards.

    Attributes:
        error: what its writer raises.
        may_vanish: a kill may leave neither content (of a folder, which cannot be renamed over another; it is made again).
    """

    error: type[TransformerArchitecturesError]
    may_vanish = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self) -> None:
        """Makes what is there before anything is written."""
        self.folder.mkdir()

    def write(self, content: int) -> None:
        raise NotImplementedError

    def read(self) -> int | None:
        """Which content is there, whole; None where there is none. Anything half-written is an error."""
        raise NotImplementedError

    def go_on(self) -> None:
        """What the next run does first."""


class Checkpoint(Kind):
    error = CheckpointError
    path_in_folder = "vanilla/run_000000/step_1.pt"

    def write(self, content: int) -> None:
        model = torch.nn.Linear(40, 40)
        torch.nn.init.constant_(model.weight, content)
        options: dict[str, Any] = {"checkpoint_root": self.folder, "model_name": "vanilla", "filename": "step_1.pt"}
        save_checkpoint(model, None, None, epoch=0, global_step=content, **options)

    def read(self) -> int | None:
        path = self.folder / self.path_in_folder
        if not path.exists():
            return None
        checkpoint = read_checkpoint(path)
        assert (checkpoint["model"]["weight"] == checkpoint["global_step"]).all()
        return int(checkpoint["global_step"])

    def go_on(self) -> None:
        run = RunFolder((self.folder / self.path_in_folder).parent)
        assert run.lock()
        run.release()
        (run.path / "lock").unlink()


class ModelFolder(Kind):
    error = ModelFolderError
    may_vanish = True
    tokenizer = WordPieceTokenizer.train(["a b c"] * 3, 30)

    def write(self, content: int) -> None:
        weights = {"a": torch.full((50, 9), float(content))}
        config = {"task": "none", "architecture": "none", "content": content}
        write_model_folder(self.folder / "model", weights, config, {"content": content}, [self.tokenizer])

    def read(self) -> int | None:
        if not (self.folder / "model").exists():
            return None
        opened = open_model_folder(self.folder / "model")
        content = int(opened.config["content"])
        assert opened.json("results.json") == {"content": content} and (opened.weights()["a"] == content).all()
        assert load_tokenizer(opened.path, opened.manifest.files).vocab_size == self.tokenizer.vocab_size
        return content


class Seal(ModelFolder):
    """The manifest alone."""

    may_vanish = False

    def write(self, content: int) -> None:
        if content == OLD:
            super().write(content)
        seal(self.folder / "model")

    def read(self) -> int | None:
        found = super().read()
        return NEW if found == OLD else found  # the manifest is the same: nothing was edited


class RunConfig(Kind):
    error = CheckpointError

    def prepare(self) -> None:
        (self.folder / "run").mkdir(parents=True)

    def write(self, content: int) -> None:
        RunFolder(self.folder / "run").write_config({"Training": TrainingConfig(max_steps=9, seed=content)})

    def read(self) -> int | None:
        prints = {self.fingerprint(content): content for content in (OLD, NEW)}
        if not (self.folder / "run" / "config.json").exists():
            return None
        found = RunFolder(self.folder / "run").fingerprint
        assert found is not None
        return prints[found]

    @staticmethod
    def fingerprint(content: int) -> str:
        return fingerprint({"Training": TrainingConfig(max_steps=9, seed=content)})

    def go_on(self) -> None:
        run = RunFolder(self.folder / "run")
        assert run.lock()
        run.release()
        (run.path / "lock").unlink()


class Cache(Kind):
    """Tokens, documents, images and a tokenizer: all that caches hold. A cache is never written anew, so there is one of each."""

    error = DataError
    tokenizer = SubwordTokenizer.train(["a b c"] * 3, 260)

    def write(self, content: int) -> None:
        cached_folder(self.folder / "caches" / str(content), self.make)

    def make(self, folder: Path) -> None:
        tokens = TokenStoreWriter(folder, "tokens", 300)
        for length in range(100):
            tokens.append(np.arange(length))
        tokens.close()
        with DocumentStoreWriter(folder, "text", 300) as documents:
            documents.append([np.arange(1, 9), np.arange(3)])
        with PixelStoreWriter(folder) as pixels:
            pixels.append(np.full((3, 40, 50), 7, np.uint8))
        self.tokenizer.save(folder)

    def read(self) -> int | None:
        whole = [content for content in (OLD, NEW) if (self.folder / "caches" / str(content)).exists()]
        for content in whole:
            folder = self.folder / "caches" / str(content)
            assert [row.tolist() for row in TokenStore(folder, "tokens", 300)] == [list(range(n)) for n in range(100)]
            assert DocumentStore(folder, "text", 300).tokens.tolist() == [*range(1, 9), *range(3)]
            assert PixelStore(folder)[0].shape == (3, 40, 50) and (PixelStore(folder)[0] == 7).all()
            assert SubwordTokenizer.load(folder).digest() == self.tokenizer.digest()
        return max(whole, default=None)


KINDS = [Checkpoint, ModelFolder, Seal, RunConfig, Cache]


@pytest.fixture(autouse=True)
def active_run(monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    run = SimpleNamespace(info=SimpleNamespace(run_id="0" * 32, run_name="run"))
    monkeypatch.setattr(mlflow, "active_run", lambda: run)


@dataclass(frozen=True)
class Case:
    """One kind of file in a folder of its own, with or without an older content."""

    kind: type[Kind]
    folder: Path
    has_older: bool

    def prepared(self, name: str) -> tuple[Kind, Callable[[], None]]:
        """The kind of file, and what is to be tried."""
        kind = self.kind(self.folder / name)
        kind.prepare()
        if self.has_older:
            kind.write(OLD)
        return kind, lambda: kind.write(NEW)


def left_overs(folder: Path) -> list[str]:
    """What nobody asked for: names under which something unfinished stands."""
    signs = (".tmp", ".unfinished", ".outdated", ".part.")
    return [str(path) for path in folder.rglob("*") if any(sign in path.name for sign in signs)]


def check_failure(case: Case, at: int, how: int | type[Killed]) -> None:
    """An error, or an exception that nobody expects: what was there is intact, nothing is left over, and next time it works."""
    kind, write = case.prepared(f"{at}_{how if isinstance(how, int) else how.__name__}")
    with failing(Faults(at, how)), pytest.raises(Killed if how is Killed else kind.error) as caught:
        write()
        assert kind.read() == NEW  # what fails after the file is in place may be passed over
        raise kind.error("passed over") if how is not Killed else Killed
    if how is not Killed:
        assert "\n" not in str(caught.value)
    found = kind.read()
    assert found == NEW or found == (OLD if case.has_older else None), (case.kind, at, how)
    assert left_overs(kind.folder) == [], (case.kind, at, how)
    write()
    assert kind.read() == NEW


def check_kill(case: Case, at: int) -> None:
    """The process is gone in the middle of it."""
    kind, write = case.prepared(f"{at}_killed")
    assert killed_at(write, at)
    found = kind.read()
    assert found == NEW or found == (OLD if case.has_older else None) or (found is None and kind.may_vanish)
    kind.go_on()
    write()
    assert kind.read() == NEW
    assert left_overs(kind.folder) == [], (case.kind, at)


def cases(kind: type[Kind], folder: Path) -> list[tuple[Case, int]]:
    """With and without an older content, and how many operations there are to fail."""
    found = []
    for has_older in (True,) if kind is Seal else (True, False):
        (folder / str(has_older)).mkdir()
        case = Case(kind, folder / str(has_older), has_older)
        count = number_of_operations(case.prepared("undisturbed")[1])
        assert count >= 3  # the layer sees what is done
        found.append((case, count))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_some_operations_fail(seed: int, kind: type[Kind], tmp_path: Path) -> None:
    for case, count in cases(kind, tmp_path):
        for at in random.sample(range(1, count + 1), min(count, 5)):
            check_failure(case, at, random.choice([errno.ENOSPC, errno.EIO, Killed]))
        check_kill(case, random.randint(1, count))


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_every_operation_fails(kind: type[Kind], tmp_path: Path) -> None:
    tried = 0
    for case, count in cases(kind, tmp_path):
        for at in range(1, count + 1):
            for how in (errno.ENOSPC, errno.EIO, Killed):
                check_failure(case, at, how)
            check_kill(case, at)
            tried += 4
    print(f"{kind.__name__}: {tried} faults")


def test_the_layer_that_fails_is_really_there(tmp_path: Path) -> None:
    """A file that is written where it stands is found out: half of it is there."""
    path = tmp_path / "file"
    with failing(Faults(1)), pytest.raises(OSError, match="No space left"):
        path.write_bytes(b"12345678")
    assert path.read_bytes() == b"1234"


# -------------------------------------------------------------------- the journal
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_journal_that_cannot_be_written_loses_no_entry(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training never waits for it, and nothing half-written is read: what was refused comes with the next entry."""
    spool = Spool(tmp_path / "tracking")
    spool.open()

    def refuse(descriptor: int, data: bytes) -> int:
        raise OSError(number, os.strerror(number))

    for at in range(6):
        with monkeypatch.context() as patch:
            if at % 2 == 0:
                patch.setattr(os, "write", refuse)
            spool.append(tags={"at": str(at)})
        assert [entry.content["tags"]["at"] for entry in spool.read()] == [str(n) for n in range(at + at % 2)]
    with failing(Faults(1, number)):
        spool.add_file(b"image", "a.png")
    assert len(list(spool.read())) == 6  # an entry never names a file that is not whole
    spool.add_file(b"image", "b.png")
    (entry,) = list(spool.read())[6:]
    assert (spool.folder / entry.content["file"]).read_bytes() == b"image"
    spool.close()


def test_a_sender_that_cannot_note_how_far_it_came_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread would end there, and with it all that the run tracks; and no file is removed that might be sent once more."""
    folder = tmp_path / "vanilla" / "run" / "tracking"
    spool = Spool(folder)
    spool.open()
    spool.add_file(b"image", "a.png")
    record = {"run_id": "0" * 32, "run_name": "run", "experiment": "vanilla", "start_time": 1}
    (folder / "run.json").write_text(json.dumps(record))
    destination = Destination(folder, "sqlite:///none", LocalStore(tmp_path))
    monkeypatch.setattr(Destination, "open", lambda self: setattr(self, "client", self))
    monkeypatch.setattr(Destination, "send", lambda self, batch: None)
    with failing(Faults(1)):
        assert destination.drain()
    (entry,) = spool.read()
    assert destination.num_left == 0 and "cannot be written" in caplog.text
    assert (folder / entry.content["file"]).exists()
    assert (
        Destination(folder, "sqlite:///none", LocalStore(tmp_path)).num_left == 1
    )  # another process sends it once more
    spool.close()


def test_a_full_disk_never_shortens_an_array(tmp_path: Path) -> None:
    """numpy's own `tofile` loses what a full disk does not take, and says nothing."""
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill(writer: TokenStoreWriter) -> None:
        for _ in range(20):
            writer.append(np.arange(100))
        writer.close()

    writer = TokenStoreWriter(tmp_path, "rows", 300)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
        with pytest.raises(OSError):
            fill(writer)
        documents = DocumentStoreWriter(tmp_path, "text", 300)
        with pytest.raises(OSError), documents:
            for _ in range(500):
                documents.num_sentences.append(1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
