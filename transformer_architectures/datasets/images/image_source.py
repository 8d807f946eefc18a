"""Where images come from: a folder tree, tar shards, or a zip; each is asked for by its id."""

import os
import posixpath
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from transformer_architectures.datasets.images.image_archives import ARCHIVES, ArchiveMembers, index_archives
from transformer_architectures.datasets.images.image_decoding import read_image_file
from transformer_architectures.datasets.images.image_ids import ImageIds
from transformer_architectures.errors import DataError, reason_of

# Everything else in a folder or an archive is passed over.
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff"))

IdForm = Literal["stem", "path"]


@runtime_checkable
class ImageSource(Protocol):
    """The bytes of images by id. It may be forked and pickled; then each process opens its own files."""

    def read(self, image_id: str) -> bytes:
        """An image file's content.

        Raises:
            RejectedImage: the file is there and cannot be read.
            DataError: there is no image of that id.
        """

    def __contains__(self, image_id: object) -> bool: ...

    def ids(self) -> ImageIds:
        """All ids, sorted and distinct."""


class FolderImages:
    """The image files of a folder tree, at any depth; links are followed.

    Args:
        paths: of all images, relative to the folder, with ``/``.
        id_form: whether an image's id is its file's name without the ending, or its whole relative path.
    """

    def __init__(self, folder: Path, paths: ImageIds, id_form: IdForm) -> None:
        self.folder = folder
        self._index = _Index(paths, id_form, str(folder))

    def read(self, image_id: str) -> bytes:
        return read_image_file(self.folder / self._index.path(image_id))

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._index

    def ids(self) -> ImageIds:
        return self._index.ids


class ArchiveImages:
    """The image files in tar shards or zips."""

    def __init__(self, members: ArchiveMembers, id_form: IdForm, name: str) -> None:
        self.members = members
        self._index = _Index(members.paths, id_form, name)

    def read(self, image_id: str) -> bytes:
        return self.members.read(self._index.place(image_id))

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._index

    def ids(self) -> ImageIds:
        return self._index.ids


class _Index:
    """From ids to paths, by binary search: sorted arrays take a tenth of what a dictionary takes."""

    def __init__(self, paths: ImageIds, id_form: IdForm, name: str) -> None:
        ids = ImageIds.from_strings(_stem(path) for path in paths) if id_form == "stem" else paths
        order = ids.order()
        self.name, self.ids, self.paths, self.places = name, ids.take(order), paths, order
        if not len(ids):
            raise DataError(f"{name}: no images ({', '.join(sorted(IMAGE_SUFFIXES))}) are in it")
        if (twice := self.ids.first_repeated()) is not None:
            first, second = (paths[int(place)] for place in order[twice : twice + 2])
            raise DataError(f"{name}: two images have the same id: {first} and {second}")

    def place(self, image_id: str) -> int:
        at = bisect_left(self.ids, image_id)
        if at == len(self.ids) or self.ids[at] != image_id:
            raise DataError(f"{self.name}: no image {image_id} is in it")
        return int(self.places[at])

    def path(self, image_id: str) -> str:
        return self.paths[self.place(image_id)]

    def __contains__(self, image_id: object) -> bool:
        at = bisect_left(self.ids, image_id) if isinstance(image_id, str) else len(self.ids)
        return at < len(self.ids) and self.ids[at] == image_id


def open_images(path: str | Path, id_form: IdForm = "stem") -> ImageSource:
    """The images of a folder tree, of a tar or a zip, or of all tars and zips that lie in a folder.

    Images are known by the ending of their name (`IMAGE_SUFFIXES`); hidden files and what is not an image are passed over.

    Args:
        id_form: ``stem``: an image's id is its file's name without the ending, wherever it lies (OpenImages);
            ``path``: its path in the folder or archive.

    Raises:
        DataError: there is no such path, no image in it, or two images with one id; an archive is damaged or compressed as a whole.
    """
    path = Path(path)
    if path.is_file():
        return ArchiveImages(index_archives([path], is_image), id_form, str(path))
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    archives = sorted(file for file in path.iterdir() if is_archive(file))
    paths = ImageIds.from_strings(images_below(path))
    if archives and len(paths):
        raise DataError(f"{path}: holds images and archives ({archives[0].name}): name one of them")
    if archives:
        return ArchiveImages(index_archives(archives, is_image), id_form, str(path))
    return FolderImages(path, paths, id_form)


def is_archive(path: Path) -> bool:
    """Whether a path is a tar or zip that counts; a pipe of such a name is none, reading it might never end."""
    return path.name.endswith(ARCHIVES) and not path.name.startswith(".") and path.is_file()


def is_image(path: str) -> bool:
    """Whether a path, by its name, is an image that counts: neither it nor a folder above it is hidden or what macOS adds to archives."""
    # Millions of names pass here: `PurePosixPath` would take ten times as long.
    if path.startswith((".", "__MACOSX/")) or "/." in path:
        return False
    return posixpath.splitext(path)[1].lower() in IMAGE_SUFFIXES


def _stem(path: str) -> str:
    return posixpath.splitext(posixpath.basename(path))[0]


def files_below(folder: Path) -> Iterator[str]:
    """Paths, relative to the folder, of all files in it, in a fixed order; links are followed, what is hidden is passed over.

    Each folder comes once, also where links make a circle; the names of one folder are held at a time: there may be millions.

    Raises:
        DataError: a folder in it cannot be read.
    """
    waiting, seen = [""], set()
    while waiting:
        below = waiting.pop()
        try:
            status = os.stat(folder / below)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder / below) as entries:
                found = sorted((entry.name, _is_folder(entry)) for entry in entries if not entry.name.startswith("."))
        except OSError as error:
            raise DataError(f"{folder / below}: cannot be read: {reason_of(error)}") from None
        for name, is_folder in found:
            if is_folder:
                waiting.append(f"{below}{name}/")
            else:
                yield f"{below}{name}"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def images_below(folder: Path) -> Iterator[str]:
    """Those of `files_below` that are images by their names."""
    return filter(is_image, files_below(folder))
