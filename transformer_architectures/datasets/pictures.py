"""Where pictures come from: a folder tree, tar shards, or a zip; each is asked for by its id."""

from pathlib import Path
from typing import Protocol

from transformer_architectures.datasets.picture_decoding import RejectedPicture, decode_picture
from transformer_architectures.datasets.picture_ids import PictureIds


class PictureSource(Protocol):
    """The bytes of pictures by id. May be forked and pickled: each process opens its own files."""

    def read(self, picture_id: str) -> bytes:
        """A picture file's content.

        Raises:
            RejectedPicture: the file is there and cannot be read.
            DataError: there is no such id.
        """

    def __contains__(self, picture_id: object) -> bool: ...

    def ids(self) -> PictureIds:
        """All ids, sorted and distinct."""
