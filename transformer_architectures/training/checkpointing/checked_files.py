"""Files with their SHA-256 beside them: whole or absent, and checked before anything parses them.

The checks that a zip brings along cover neither its headers nor its padding, and torch does not look at them when it reads.
"""

import hashlib
import io
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from transformer_architectures.errors import CheckpointError, reason_of
from transformer_architectures.utils.files import flush_to_disk, replace_file, temporary_name


def write_with_digest(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Puts a file and its digest in place; whatever interrupts it, an older file of that name stays intact until then.

    Two files cannot be renamed at once: in between, the digest file names the older content as well as the newer one.

    Args:
        write: writes the content into the open file.
    """
    temporary, digest_file = temporary_name(path), digest_path(path)
    try:
        with temporary.open("wb") as file:
            writer = _HashingWriter(file)
            try:
                write(cast(IO[bytes], writer))
            except RuntimeError:  # torch's, whose message does not tell why
                if writer.failure is not None:
                    raise writer.failure from None
                raise
            file.flush()
            os.fsync(file.fileno())
        digest = f"{writer.digest.hexdigest()}  {path.name}\n"
        older = digest_file.read_bytes() if path.exists() and digest_file.exists() else b""
        replace_file(digest_file, digest.encode() + older)
        temporary.replace(path)
        flush_to_disk(path.parent)
        if older:
            with suppress(OSError):  # both are in place: a line too many does no harm
                replace_file(digest_file, digest.encode())
    finally:
        temporary.unlink(missing_ok=True)


def read_with_digest(path: Path) -> bytes:
    """The content of a file, if it is what its digest says: the digest is taken of the very bytes that are given back.

    Raises:
        CheckpointError: it is missing, damaged, or without its digest.
    """
    try:
        expected = digest_path(path).read_text(encoding="utf-8").split()
        content = path.read_bytes()
    except (OSError, UnicodeDecodeError) as error:
        name = Path(getattr(error, "filename", None) or path).name
        raise CheckpointError(f"{path}: cannot be read ({name}: {reason_of(error)})") from None
    if hashlib.sha256(content).hexdigest() not in expected:
        raise CheckpointError(f"{path}: damaged, its SHA-256 is not the one in {digest_path(path).name}")
    return content


def check_content(path: Path, content: Any, version: int, types: Mapping[str, tuple[type, ...]]) -> None:
    """Sees that a parsed file is one of ours.

    Args:
        version: of its form; types: what it holds at least, by name.

    Raises:
        CheckpointError: it is not.
    """
    is_ours = isinstance(content, dict) and content.get("format") == version and types.keys() <= content.keys()
    if not is_ours or not all(isinstance(content[name], of_name) for name, of_name in types.items()):
        raise CheckpointError(f"{path}: no checkpoint of this library, or of another version of it")


def digest_path(path: Path) -> Path:
    """Where a file's digest lies; the form is that of ``sha256sum --check``."""
    return path.with_name(f"{path.name}.sha256")


class _HashingWriter(io.RawIOBase):
    """Hashes what passes through to a file."""

    def __init__(self, file: io.BufferedWriter) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.failure: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.failure = error
            raise
