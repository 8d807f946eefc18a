"""Parts by hash: where an example belongs depends on itself alone, so no change of a file list moves any other."""

import hashlib
from typing import Literal

Part = Literal["train", "validation", "test"]


def hash_position(key: str) -> float:
    """A number in [0, 1) that is a pure function of the key and evenly spread over keys."""
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def is_validation(picture_id: str, fraction: float) -> bool:
    """Whether a picture is set apart for validation; about ``fraction`` of all ids are."""
    return hash_position(picture_id) < fraction
