"""Images by id: from a tree, a tar, several tars, a zip; read in any process; damage is named."""

import io
import multiprocessing
import os
import pickle
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from transformer_architectures.datasets.images import image_archives, image_decoding
from transformer_architectures.datasets.images.image_decoding import RejectedImage
from transformer_architectures.datasets.images.image_source import ImageSource, open_images
from transformer_architectures.errors import DataError

Files = dict[str, bytes]


def write_tree(path: Path, files: Files) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def write_tar(path: Path, files: Files) -> Path:
    with tarfile.open(path, "w", format=random.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def write_zip(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number, (name, content) in enumerate(files.items()):
            method = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
            archive.writestr(name, content, compress_type=method)
    return path


def write_shards(path: Path, files: Files) -> Path:
    path.mkdir()
    names = list(files)
    for number in range(3):
        write_tar(path / f"train_{number}.tar", {name: files[name] for name in names[number::3]})
    return path


WRITERS: dict[str, Callable[[Path, Files], Path]] = {
    "images": write_tree,
    "images.tar": write_tar,
    "images.zip": write_zip,
    "shards": write_shards,
}


@pytest.fixture
def files(seed: int) -> Files:
    endings = (".jpg", ".png", ".JPEG", ".webp", ".tif")
    folders = ("", "train/", "train/a b/", f"{'long/' * 30}")
    names = [f"{random.choice(folders)}{random.getrandbits(64):016x}{random.choice(endings)}" for _ in range(30)]
    names.append("train/ünïcode.v2.jpg")
    return {name: random.randbytes(random.randint(0, 3000)) + b"\0" * 500 for name in names}


def id_of(name: str) -> str:
    return Path(name).stem


@pytest.fixture(params=WRITERS)
def source(request: pytest.FixtureRequest, tmp_path: Path, files: Files) -> ImageSource:
    clutter = {"train/notes.txt": b"x", "train/.hidden.jpg": b"x", "__MACOSX/train/._a.jpg": b"x", "LICENSE": b"x"}
    return open_images(WRITERS[request.param](tmp_path / request.param, files | clutter))


# ---------------------------------------------------------------------------------------------------------------------
# What is there
# ---------------------------------------------------------------------------------------------------------------------


def test_every_image_by_its_id(source: ImageSource, files: Files) -> None:
    assert list(source.ids()) == sorted(id_of(name) for name in files)
    for name, content in files.items():
        assert id_of(name) in source and source.read(id_of(name)) == content
    assert "train" not in source and "notes" not in source and 7 not in source and "" not in source
    with pytest.raises(DataError, match="nowhere"):
        source.read("nowhere")


def test_by_path(tmp_path: Path, files: Files) -> None:
    for kind, write in WRITERS.items():
        by_path = open_images(write(tmp_path / kind, files), id_form="path")
        assert list(by_path.ids()) == sorted(files)
        assert all(by_path.read(name) == content for name, content in files.items())


def test_dots_before_the_names_in_an_archive(tmp_path: Path) -> None:
    for write, name in ((write_tar, "a.tar"), (write_zip, "a.zip")):
        source = open_images(write(tmp_path / name, {"./train/1.jpg": b"one"}), "path")
        assert list(source.ids()) == ["train/1.jpg"] and source.read("train/1.jpg") == b"one"


def test_other_processes_read_too(source: ImageSource, files: Files) -> None:
    wanted = [id_of(name) for name in files] * 5
    expected = [files[name] for name in files] * 5
    source.read(wanted[0])  # what is open here is shared by forks
    copy = pickle.loads(pickle.dumps(source))
    assert [copy.read(image_id) for image_id in wanted] == expected
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map(source.read, wanted, chunksize=7) == expected


def test_read_without_pread(source: ImageSource, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows does not have it."""
    monkeypatch.delattr(os, "pread")
    assert all(source.read(id_of(name)) == content for name, content in files.items())


def test_links_are_followed_and_circles_end(tmp_path: Path) -> None:
    write_tree(tmp_path / "real", {"a.jpg": b"a", "below/b.jpg": b"b"})
    (tmp_path / "real" / "below" / "circle").symlink_to(tmp_path / "real", target_is_directory=True)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "in").symlink_to(tmp_path / "real", target_is_directory=True)
    assert list(open_images(tmp_path / "linked").ids()) == ["a", "b"]


# ---------------------------------------------------------------------------------------------------------------------
# What is wrong
# ---------------------------------------------------------------------------------------------------------------------


def error(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_images(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_two_images_with_one_id(tmp_path: Path) -> None:
    twice = {"a/1.jpg": b"x", "b/1.png": b"y", "c/2.png": b"z"}
    for kind, write in WRITERS.items():
        message = error(write(tmp_path / kind, twice))
        assert "a/1.jpg" in message and "b/1.png" in message
        assert len(open_images(tmp_path / kind, "path").ids()) == 3


def test_nothing_to_read(tmp_path: Path) -> None:
    assert "no such" in error(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    assert "no images" in error(tmp_path / "empty")
    assert "no images" in error(write_zip(tmp_path / "a.zip", {"a.txt": b"x"}))
    for name in ("a.rar", "train_0.tar.gz", "a.tgz"):
        (tmp_path / name).write_bytes(b"x")
        assert ("unpack" if "gz" in name else "not a folder") in error(tmp_path / name)
    write_tree(tmp_path / "both", {"a.jpg": b"a"})
    write_tar(tmp_path / "both" / "b.tar", {"b.jpg": b"b"})
    assert "b.tar" in error(tmp_path / "both")


@pytest.mark.parametrize("kind", ["images.tar", "images.zip"])
def test_a_damaged_archive(tmp_path: Path, files: Files, kind: str) -> None:
    path = WRITERS[kind](tmp_path / kind, files)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 + 7])
    assert "cannot be read" in error(path)
    path.write_bytes(random.randbytes(2000))
    assert "cannot be read" in error(path)


def test_a_tar_that_ends_too_early_or_is_damaged_within(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {f"{number}.jpg": b"x" * 600 for number in range(4)})  # 1,536 bytes each
    content = path.read_bytes()
    for cut in (1536, 1536 + 200, 3 * 1536 + 512, 3 * 1536 + 700, 4 * 1536, 4 * 1536 + 100):
        path.write_bytes(content[:cut])
        assert "cannot be read" in error(path), cut
    path.write_bytes(content[:1536] + b"?" * 512 + content[2048:])
    assert "cannot be read" in error(path)
    path.write_bytes(content[: 4 * 1536 + 512])  # one block of zeros is enough
    assert len(open_images(path).ids()) == 4


def rejected(source: ImageSource, image_id: str) -> str:
    with pytest.raises(RejectedImage) as caught:
        source.read(image_id)
    return caught.value.reason


def test_a_damaged_member(tmp_path: Path) -> None:
    content = b"0123456789" * 100
    path = write_zip(tmp_path / "a.zip", {"stored.jpg": content, "packed.jpg": content, "good.jpg": content})
    source = open_images(path)
    damaged = path.read_bytes().replace(content[:200], b"?" * 200, 1)
    packed = damaged.index(b"packed.jpg") + len("packed.jpg")
    path.write_bytes(damaged[: packed + 3] + b"\xff\xff\xff" + damaged[packed + 6 :])
    assert rejected(source, "stored") == rejected(source, "packed") == "damaged in the archive"
    assert source.read("good") == content
    path.write_bytes(damaged[:50])
    assert "cut off" in rejected(source, "good")


def test_a_zip_that_is_encrypted_or_strangely_packed(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.jpg": b"a" * 100})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag in the directory
    path.write_bytes(content)
    assert "encrypted" in rejected(open_images(path), "a")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.jpg", b"a" * 100)
    assert "compressed by method 14" in rejected(open_images(path), "a")


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_archives, "MAX_BYTES", 1000)
    source = open_images(write_zip(tmp_path / "a.zip", {"small.jpg": b"0" * 1000, "large.jpg": b"0" * 1001}))
    assert len(source.read("small")) == 1000
    assert "over the limit" in rejected(source, "large")
    # A directory that lies about the size: no more is unpacked than it says, and the checksum does not fit.
    path = write_zip(tmp_path / "b.zip", {"first.jpg": b"x", "large.jpg": b"0" * 10**6})
    directory = bytearray(path.read_bytes())
    entry = directory.rindex(b"PK\x01\x02")
    directory[entry + 24 : entry + 28] = (500).to_bytes(4, "little")
    path.write_bytes(directory)
    assert rejected(open_images(path), "large") == "damaged in the archive"


def test_what_is_no_image_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_tree(tmp_path / "tree", {"small.jpg": b"0" * 1000, "large.jpg": b"0" * 1001})
    os.mkfifo(folder / "pipe.jpg")
    monkeypatch.setattr(image_decoding, "MAX_BYTES", 1000)
    source = open_images(folder)
    assert len(source.read("small")) == 1000
    assert "over the limit" in rejected(source, "large")
    assert rejected(source, "pipe") == "not a file"  # reading it would wait for ever


def test_hidden_folders_do_not_count(tmp_path: Path) -> None:
    names = ["c0/a.jpg", "c0/.thumbs/a.jpg", ".ipynb_checkpoints/b.jpg", "__MACOSX/c.jpg"]
    for kind, write in WRITERS.items():
        source = open_images(write(tmp_path / kind, dict.fromkeys(names[: 3 if kind == "images" else 4], b"x")), "path")
        assert list(source.ids()) == ["c0/a.jpg"], kind


def test_what_is_called_an_archive_and_is_none(tmp_path: Path) -> None:
    write_tree(tmp_path / "old.zip", {"a.jpg": b"a"})
    os.mkfifo(tmp_path / "x.tar")
    assert open_images(tmp_path).read("a") == b"a"


def test_links_in_a_tar(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, link_type, target in (
            ("./one/a.jpg", None, ""),
            ("two/hard.jpg", tarfile.LNKTYPE, "./one/a.jpg"),
            ("two/soft.jpg", tarfile.SYMTYPE, "../one/a.jpg"),
            ("two/chain.jpg", tarfile.SYMTYPE, "hard.jpg"),
            ("two/lost.jpg", tarfile.SYMTYPE, "nothing.jpg"),
            ("two/circle.jpg", tarfile.SYMTYPE, "circle.jpg"),
        ):
            entry = tarfile.TarInfo(name)
            if link_type is None:
                entry.size = 5
                archive.addfile(entry, io.BytesIO(b"bytes"))
            else:
                entry.type, entry.linkname = link_type, target
                archive.addfile(entry)
    source = open_images(path)
    assert len(source.ids()) == 6
    assert all(source.read(name) == b"bytes" for name in ("a", "hard", "soft", "chain"))
    assert rejected(source, "lost") == rejected(source, "circle") == "a link to what is not in the archive"


def test_chains_of_links_in_a_tar_are_followed_for_so_long(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("0.jpg"))
        for number in range(1, 42):  # and a circle of many, each of which would be walked all around
            entry = tarfile.TarInfo(f"{number}.jpg")
            entry.type, entry.linkname = tarfile.SYMTYPE, f"{number - 1}.jpg"
            archive.addfile(entry)
        for number in range(5000):
            entry = tarfile.TarInfo(f"round{number}.jpg")
            entry.type, entry.linkname = tarfile.SYMTYPE, f"round{(number + 1) % 5000}.jpg"
            archive.addfile(entry)
    source = open_images(path)
    assert source.read("40") == b""
    assert rejected(source, "41") == rejected(source, "round7") == "a link to what is not in the archive"


def test_a_link_to_itself_is_one_bad_image(tmp_path: Path) -> None:
    write_tree(tmp_path / "tree", {"a.jpg": b"a"})
    (tmp_path / "tree" / "b.jpg").symlink_to("b.jpg")
    source = open_images(tmp_path / "tree")
    assert source.read("a") == b"a" and "cannot be read" in rejected(source, "b")


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    write_tree(tmp_path / "tree", {"a.jpg": b"a"})
    Path(os.fsdecode(bytes(tmp_path / "tree") + b"/caf\xe9.jpg")).write_bytes(b"b")
    with pytest.raises(DataError, match=r"not UTF-8, rename it: .*caf\\xe9.jpg"):
        open_images(tmp_path / "tree")


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(tmp_path / "tree", {"a.jpg": b"a", "closed/b.jpg": b"b"})
    scandir = os.scandir

    def refusing(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert "closed: cannot be read: Permission denied" in error(tmp_path / "tree")


def test_a_file_that_went_away(tmp_path: Path) -> None:
    source = open_images(write_tree(tmp_path / "tree", {"a.jpg": b"a"}))
    (tmp_path / "tree" / "a.jpg").unlink()
    assert "cannot be read" in rejected(source, "a")
