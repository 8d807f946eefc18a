"""Files inside tars and zips, found once and then read one by one from anywhere in the archive."""

import os
import posixpath
import tarfile
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Int64

from transformer_architectures.datasets.images.image_decoding import MAX_BYTES, RejectedImage
from transformer_architectures.datasets.images.image_ids import ImageIds
from transformer_architectures.errors import DataError, reason_of

ARCHIVES = (".tar", ".zip")
COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
ZIP_LOCAL_HEADER = 30  # bytes before the name; the lengths of name and extra field are its last two numbers
IS_ENCRYPTED = 1
MAX_LINKS = 40  # in a chain, as in Linux


class Member(NamedTuple):
    """Where a file lies: for a zip the offset of its local header, for a tar that of its content."""

    archive: int
    offset: int
    size: int  # of the content
    packed_size: int  # what it takes in the archive
    method: int  # `zipfile.ZIP_STORED`, `ZIP_DEFLATED`, ...; or one of those below
    checksum: int  # CRC-32; not for a tar


IN_TAR, ENCRYPTED, LINK_TO_NOTHING = -1, -2, -3


class ArchiveMembers:
    """The wanted files of several archives.

    Reading names the offset with each call (`os.pread`), so threads and forked processes may share a file. A pickled copy opens its
    own. Windows has no `os.pread`: there each call opens the file.
    """

    def __init__(self, archives: Sequence[Path], paths: ImageIds, members: Int64[np.ndarray, "files 6"]) -> None:
        self.archives, self.paths, self.members = tuple(archives), paths, members
        self._files: dict[int, BinaryIO] = {}

    def read(self, place: int) -> bytes:
        """The content of file number ``place``.

        Raises:
            RejectedImage: it is damaged, encrypted, too large or compressed in an unknown way.
        """
        member = Member(*self.members[place].tolist())
        if max(member.size, member.packed_size) > MAX_BYTES:
            raise RejectedImage(f"{member.size:,} bytes, over the limit of {MAX_BYTES:,}")
        if member.method == LINK_TO_NOTHING:
            raise RejectedImage("a link to what is not in the archive")
        if member.method == IN_TAR:
            return self._bytes(member.archive, member.offset, member.size)
        if member.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            how = "encrypted" if member.method == ENCRYPTED else f"compressed by method {member.method}"
            raise RejectedImage(f"{how} in the archive")
        header = self._bytes(member.archive, member.offset, ZIP_LOCAL_HEADER)
        skipped = ZIP_LOCAL_HEADER + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        content = self._bytes(member.archive, member.offset + skipped, member.packed_size)
        if member.method == zipfile.ZIP_DEFLATED:
            try:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, member.size + 1)
            except zlib.error:
                content = b""
        if len(content) != member.size or zlib.crc32(content) != member.checksum:
            raise RejectedImage("damaged in the archive")
        return content

    def _bytes(self, archive: int, offset: int, size: int) -> bytes:
        try:
            if hasattr(os, "pread"):
                if archive not in self._files:
                    self._files[archive] = self.archives[archive].open("rb", buffering=0)
                content = os.pread(self._files[archive].fileno(), size, offset)
            else:
                with self.archives[archive].open("rb") as file:
                    file.seek(offset)
                    content = file.read(size)
        except OSError as error:
            raise RejectedImage(f"cannot be read: {reason_of(error)}") from None
        if len(content) != size:
            raise RejectedImage("cut off by the end of the archive")
        return content

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}


def index_archives(archives: Sequence[Path], is_wanted: Callable[[str], bool]) -> ArchiveMembers:
    """Finds all wanted files; of a tar this reads every header, so it takes a moment for millions.

    Raises:
        DataError: an archive is missing, damaged or of another kind.
    """
    numbers = array("q")

    def paths() -> Iterator[str]:
        for number, path in enumerate(archives):
            for name, member in _members(path, number):
                if is_wanted(name):
                    numbers.extend(member)
                    yield name

    found = ImageIds.from_strings(paths())
    return ArchiveMembers(archives, found, np.array(numbers, dtype=np.int64).reshape(-1, len(Member._fields)))


def _members(path: Path, number: int) -> Iterator[tuple[str, Member]]:
    if path.name.endswith(COMPRESSED_TARS):
        raise DataError(f"{path}: single images cannot be read from a compressed tar: unpack it to a .tar or a folder")
    if not path.name.endswith(ARCHIVES):
        raise DataError(f"{path}: not a folder, a .tar or a .zip")
    try:
        for name, member in _zip_members(path, number) if path.suffix == ".zip" else _tar_members(path, number):
            if not all(0 <= value < 2**63 for value in (member.offset, member.size, member.packed_size)):
                raise DataError(f"{path}: cannot be read (the place or size of {name} is none)")
            yield name, member
    except DataError:
        raise
    except Exception as error:  # parsers that meet damaged files raise whatever they stumble over
        raise DataError(f"{path}: cannot be read ({reason_of(error) or type(error).__name__})") from None


def _tar_members(path: Path, number: int) -> Iterator[tuple[str, Member]]:
    """Files in their order, then links (files with several names, and symbolic ones) as the files that they lead to."""
    links: dict[str, str] = {}
    for entry in _tar_entries(path):
        if entry.isreg() and not entry.issparse():
            yield _plain(entry.name), _member(entry, number)
        elif entry.islnk() or entry.issym():
            below = "" if entry.islnk() else posixpath.dirname(entry.name)
            links[_plain(entry.name)] = _plain(posixpath.join(below, entry.linkname))
    if links:  # rare, so the names of all files need not be kept
        ends = {name: _end_of(name, links) for name in links}
        targets = set(ends.values())
        found = {
            _plain(entry.name): _member(entry, number)
            for entry in _tar_entries(path)
            if entry.isreg() and not entry.issparse() and _plain(entry.name) in targets
        }
        for name, end in ends.items():
            yield name, found.get(end, Member(number, 0, 0, 0, LINK_TO_NOTHING, 0))


def _member(entry: tarfile.TarInfo, number: int) -> Member:
    return Member(number, entry.offset_data, entry.size, entry.size, IN_TAR, 0)


def _plain(name: str) -> str:
    return posixpath.normpath(name)


def _end_of(name: str, links: dict[str, str]) -> str:
    """Where a chain of links ends, or what stands in a circle, which has no end."""
    for _ in range(MAX_LINKS):
        if name not in links:
            break
        name = links[name]
    return name


def _tar_entries(path: Path) -> Iterator[tarfile.TarInfo]:
    with tarfile.open(path, "r:") as archive:
        end = -1
        while (entry := archive.next()) is not None:
            if archive.offset <= end:  # a size below zero leads back, and round and round
                raise tarfile.ReadError("it leads back to an earlier entry")
            end = archive.offset
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep all of them
            yield entry
        # Where a header is damaged or missing, `tarfile` takes it for the end; the real end is a block of zeros.
        with path.open("rb") as file:
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it is damaged, or ends too early")


def _zip_members(path: Path, number: int) -> Iterator[tuple[str, Member]]:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            method = ENCRYPTED if entry.flag_bits & IS_ENCRYPTED else entry.compress_type
            if not entry.is_dir():
                sizes = entry.file_size, entry.compress_size
                yield _plain(entry.filename), Member(number, entry.header_offset, *sizes, method, entry.CRC)
