"""Whatever is thrown at a loader: it loads, or refuses with an error of the library, in bounded time and memory.

The quick form throws a few hundred mutations and the bombs below, the long form 100,000 mutations.
"""

import gzip
import io
import json
import os
import resource
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import yaml
from fuzzing import LOADERS, MAX_SECONDS, fuzz, outcome, time_limit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loaders_under_test import ARCHITECTURES, CONFIGS, GOLDEN, Files, config_text, files_of, word_piece_examples, write

from transformer_architectures.config import load_sections
from transformer_architectures.errors import ConfigError, ModelFolderError, TransformerArchitecturesError
from transformer_architectures.pretrained.model_folder import load_model, open_model_folder, seal
from transformer_architectures.training.tracking.tracker import FOLDER_NAME, Tracker

NUMBER_OF_MUTATIONS = 100_000


# -------------------------------------------------------------------- mutations
@pytest.mark.parametrize("name", LOADERS)
def test_some_mutations(name: str, seed: int, tmp_path: Path) -> None:
    counts, faults = fuzz(name, 15, seed, tmp_path / "input")
    assert faults == [] and counts["mutations"] == 15


@pytest.mark.faults
def test_a_hundred_thousand_mutations(seed: int, tmp_path: Path) -> None:
    """In processes of their own: one that dies is a fault too."""
    command = [sys.executable, str(Path(__file__).with_name("fuzzing.py")), str(NUMBER_OF_MUTATIONS), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stderr)
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["faults"] == []
    assert sum(counts["mutations"] for counts in report["counts"].values()) >= NUMBER_OF_MUTATIONS
    for name, counts in report["counts"].items():  # the mutations neither miss everything nor spoil everything
        assert counts.get("loaded", 0) > 0 and counts.get("refused", 0) + (name == "journal") > 0, name


@pytest.mark.faults
def test_a_hundred_thousand_mutations_led_by_coverage(seed: int) -> None:
    pytest.importorskip("atheris", reason="atheris has no wheel for this Python or this machine")
    command = [
        sys.executable,
        str(Path(__file__).with_name("coverage_fuzzing.py")),
        str(NUMBER_OF_MUTATIONS),
        str(seed),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1])["faults"] == []


# -------------------------------------------------------------------- values of a config
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_value_for_any_key(tmp_path: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(CONFIGS))
    document = yaml.safe_load(config_text(name))
    sections = ARCHITECTURES[name.split("_")[0]].sections
    section = data.draw(st.sampled_from(sorted(sections)))
    key = data.draw(st.sampled_from(sorted(sections[section].model_fields)) | st.text(max_size=5))
    document[section] = {**(document.get(section) or {}), key: data.draw(VALUES)}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    try:
        load_sections(path, sections)
    except ConfigError as error:
        assert str(error).isprintable()


# -------------------------------------------------------------------- bombs
def png_of(width: int, height: int) -> bytes:
    """An image that says it is large, and is a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


def tar_with_size(size: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A tar whose first entry has a size that is none."""
    entry = tarfile.TarInfo("a.png")
    entry.type = kind
    block = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(2048)


def zip_with(content: bytes, **fields: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", content)
        for name, value in fields.items():
            setattr(archive.filelist[0], name, value)
    return buffer.getvalue()


def changed(task: str, part: str, **values: Any) -> Files:
    """A model folder whose config says something else."""
    files = files_of(GOLDEN / task)
    config = json.loads(files["config.json"])
    config[part] |= values
    return {**files, "config.json": json.dumps(config).encode()}


def changed_tokenizer(**values: Any) -> Files:
    tokenizer = json.loads((GOLDEN / "translation" / "tokenizer.json").read_bytes())
    return {"tokenizer.json": json.dumps(tokenizer | values).encode()}


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


def yaml_bomb(kind: str) -> bytes:
    """Ten times ten times ten ..., by aliases or by merges."""
    if kind == "aliases":
        levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
        return ("Data:\n  a0: &a0 [x]\n" + "".join(f"  {level}\n" for level in levels)).encode()
    keys = ", ".join(f"k{n}: 1" for n in range(50))
    levels = [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 12)]
    return (f"Data:\n  a0: &a0 {{{keys}}}\n" + "".join(f"  {level}\n" for level in levels)).encode()


LARGE_LINE = gzip.compress(bytes(2**28))  # 260 kB
PADDING = {"strategy": {"Fixed": 2**40}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}  # fmt: skip
SLOW_PATTERN = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
HUGE_HEADER = struct.pack("<Q", 2**62) + b"{}"

# Loader, files; all are refused, but for those that are said to load.
BOMBS: dict[str, tuple[str, Callable[[], Files]]] = {
    "YAML, aliases": ("config", lambda: {"config.yaml": yaml_bomb("aliases")}),
    "YAML, merges": ("config", lambda: {"config.yaml": yaml_bomb("merges")}),
    "YAML, one large merge": (
        "config",
        lambda: {"config.yaml": b"Data:\n  a: &a {" + b", ".join(b"k%d: 1" % n for n in range(500)) + b"}\n  b: {<<: [" + b"*a, " * 1000 + b"]}\n"},
    ),
    "YAML, within itself": ("config", lambda: {"config.yaml": b"Data: &a {x: *a}\n"}),
    "YAML, merged with itself": ("config", lambda: {"config.yaml": b"Data: &a {<<: *a}\n"}),
    "YAML, deep": ("config", lambda: {"config.yaml": b"Data: " + b"[" * 50_000}),
    "YAML, large": ("config", lambda: {"config.yaml": b"# " + b"x" * 2**24}),
    "YAML, a long number": ("config", lambda: {"config.yaml": b"Training: {seed: 0x" + b"f" * 9000 + b"}"}),
    "YAML, an empty integer": ("config", lambda: {"config.yaml": b"Training: {seed: !!int ''}"}),
    "YAML, bytes": ("config", lambda: {"config.yaml": b"Training: {!!binary aGVq: 1}"}),
    "image, 60,000 pixels a side": ("image", lambda: {"image": png_of(60_000, 60_000)}),
    "image, 2 billion pixels a side": ("image", lambda: {"image": png_of(2**31 - 1, 2**31 - 1)}),
    "tar, a size below zero": ("tar", lambda: {"images.tar": tar_with_size(b"\xff" * 12)}),
    "tar, a size that leads back": ("tar", lambda: {"images.tar": tar_with_size(b"\xff" * 10 + b"\xfe\x00")}),
    "tar, a huge size": ("tar", lambda: {"images.tar": tar_with_size(b"\x80" + b"\x7f" * 11)}),
    "tar, a huge name": ("tar", lambda: {"images.tar": tar_with_size(b"77777777777\0", tarfile.GNUTYPE_LONGNAME)}),
    "model folder, many layers": ("model folder: translation", lambda: changed("translation", "model", num_encoder_layers=10**9)),
    "model folder, a wide model": ("model folder: image_classification", lambda: changed("image_classification", "model", embed_dim=2**40)),
    "model folder, an absurd width": ("model folder: image_classification", lambda: changed("image_classification", "model", ff_dim=10**30)),
    "model folder, a large vocabulary": ("model folder: text_classification", lambda: changed("text_classification", "model", vocab_size=2**24, embed_dim=2**16)),
    "model folder, many positions": ("model folder: text_classification", lambda: changed("text_classification", "model", max_positions=10**15)),
    "model folder, deep JSON": ("model folder: translation", lambda: {**files_of(GOLDEN / "translation"), "config.json": nested(100_000)}),
    "model folder, a huge header": ("model folder: translation", lambda: {**files_of(GOLDEN / "translation"), "model.safetensors": HUGE_HEADER}),
    "sub-words, padding": ("sub-words", lambda: changed_tokenizer(padding=PADDING)),
    "sub-words, a slow pattern": ("sub-words", lambda: changed_tokenizer(pre_tokenizer=SLOW_PATTERN)),
    "sub-words, deep": ("sub-words", lambda: {"tokenizer.json": nested(100_000)}),
    "WordPiece, deep": ("WordPiece", lambda: {**word_piece_examples()[0], "tokenizer_config.json": nested(100_000)}),
    "SentencePiece, deep": ("SentencePiece", lambda: {"source.spm": b"\n", "target.spm": b"\n", "vocab.json": nested(100_000)}),
    "published, deep": ("published ViT", lambda: {"config.json": nested(100_000)}),
    "TSV, one endless line": ("TSV", lambda: {"a.tsv.gz": LARGE_LINE}),
    "documents, one endless line": ("documents", lambda: {"a.txt.gz": LARGE_LINE}),
    "CoNLL, one endless line": ("CoNLL", lambda: {"a.conll.gz": LARGE_LINE}),
    "parallel text, one endless line": ("parallel text", lambda: {"pairs.tsv.gz": LARGE_LINE}),
}  # fmt: skip


pyarrow.array([1])  # its allocator reserves more address space than a child may have: it is made before


def in_child(action: Callable[[], str]) -> str:
    """What it says in a process that may take 1 GB and some seconds."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + 2**30
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CPU, (3 * MAX_SECONDS, 3 * MAX_SECONDS))
        try:
            os.write(writing, action().encode(errors="replace")[:2000])
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read().decode()
    status = os.waitpid(child, 0)[1]
    return answer or f"died: {os.waitstatus_to_exitcode(status)}"


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused(bomb: str, tmp_path: Path) -> None:
    name, files = BOMBS[bomb]
    write(tmp_path / "input", files())
    assert in_child(lambda: outcome(name, tmp_path / "input", True)) == "refused"


def test_a_member_larger_than_it_says_is_not_unpacked(tmp_path: Path) -> None:
    """The archive is read, its image is rejected."""
    write(tmp_path / "input", {"images.zip": zip_with(bytes(2**28), file_size=100)})
    assert in_child(lambda: outcome("zip", tmp_path / "input", False)) == "loaded"


def test_json_lines_that_are_deep_cost_only_themselves(tmp_path: Path) -> None:
    write(tmp_path / "input", {"a.jsonl": nested(100_000) + b'\n{"text": "a", "label": "b"}\n'})
    assert in_child(lambda: outcome("JSON lines", tmp_path / "input", False)) == "loaded"


def test_positions_that_nobody_asks_for_take_no_memory(tmp_path: Path) -> None:
    write(tmp_path / "input", changed("translation", "model", max_length=2**20))
    assert in_child(lambda: outcome("model folder: translation", tmp_path / "input", True)) == "loaded"


def test_what_dies_or_takes_too_long_would_be_seen() -> None:
    def busy() -> str:
        with time_limit(0.1):
            while True:
                pass

    with pytest.raises(BaseException, match=r"^$") as caught:
        busy()
    assert type(caught.value).__name__ == "TooSlow"
    assert in_child(lambda: str(len(bytearray(2**33)))).startswith("died")


# -------------------------------------------------------------------- nothing leads out
@pytest.mark.parametrize("name", ["../x", "../../x", "/tmp/x", "a/b", ".", "..", ".hidden", "", "a\0b", "x" * 201])
def test_a_run_stays_under_its_root(name: str, tmp_path: Path) -> None:
    assert FOLDER_NAME.fullmatch(name) is None
    for names in ((name, None), ("vanilla", name)):
        experiment, run_name = names
        with pytest.raises(ConfigError, match="cannot be a folder's name"):
            Tracker.start(tmp_path / "root", experiment, "vanilla", run_name, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret", "..", "", ".", "a\0b", "x" * 5000])
def test_a_manifest_names_only_what_is_in_its_folder(name: str, tmp_path: Path) -> None:
    write(tmp_path / "model", files_of(GOLDEN / "text_classification"))
    (tmp_path / "secret").write_text("secret")
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    manifest["files"][name] = {"size": 6, "sha256": "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"}
    (tmp_path / "model" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelFolderError):
        open_model_folder(tmp_path / "model")


@pytest.mark.parametrize("name", ["model.safetensors", "vocab.txt", "notes.txt"])
def test_a_link_does_not_lead_out_of_a_model_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write(folder, files_of(GOLDEN / "text_classification"))
    outside = tmp_path / "outside"
    outside.write_bytes((folder / name).read_bytes() if (folder / name).exists() else b"secret")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside)
    seal(folder)
    with pytest.raises(ModelFolderError, match="leads out of the folder"):
        open_model_folder(folder)
    (folder / name).unlink()
    (folder / "inside").write_bytes(outside.read_bytes())
    (folder / name).symlink_to("inside")
    seal(folder)
    open_model_folder(folder).load("cpu")


def test_a_model_folder_reads_no_file_that_its_manifest_does_not_list(tmp_path: Path) -> None:
    """A tokenizer that somebody puts beside the others is no part of the model."""
    write(tmp_path / "model", files_of(GOLDEN / "text_classification"))
    (tmp_path / "model" / "added_tokens.json").write_text('{"x": 3}')
    (tmp_path / "model" / "tokenizer.json").write_text("{")
    found, expected = (load_model(folder) for folder in (tmp_path / "model", GOLDEN / "text_classification"))
    assert found.tokenizer.tokens == expected.tokenizer.tokens
    assert found.predict(["x x a", "x"]) == expected.predict(["x x a", "x"])


@pytest.mark.parametrize("task", ["../vanilla", "os", "x:y"])
def test_a_task_names_no_module(task: str, tmp_path: Path) -> None:
    files = files_of(GOLDEN / "text_classification")
    for named, message in (
        ({"task": task}, f"bert has no task {task} .known: "),
        ({"task": task, "architecture": "os:system"}, "architecture os:system is not installed .known: "),
    ):
        config = {**json.loads(files["config.json"]), **named}
        write(tmp_path / "model", {**files, "config.json": json.dumps(config).encode()})
        seal(tmp_path / "model")
        with pytest.raises(TransformerArchitecturesError, match=message):
            open_model_folder(tmp_path / "model").load("cpu")
