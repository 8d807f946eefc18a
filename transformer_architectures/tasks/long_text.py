"""Text that is longer than a model reads at once, cut where it hurts least."""

import re
from collections.abc import Callable, Sequence

EncodeBatch = Callable[[Sequence[str]], list[list[int]]]

SENTENCE_END, WORD_END = re.compile(r"[.!?…;:]['\"’”»)]*\s+"), re.compile(r"\s+")


def token_pieces(text: str, ids: list[int], limit: int, encode_batch: EncodeBatch) -> list[list[int]]:
    """Token ids of a text in pieces of at most ``limit``: as few cuts as halving makes, after sentences, else words.

    Args:
        ids: of the whole text; they are given back as they are if they fit.
    """
    if len(ids) <= limit or len(text) < 2:
        return [ids[:limit]]
    parts = [half for half in halves(text) if half]
    encoded = encode_batch(parts)
    return [
        piece
        for part, part_ids in zip(parts, encoded, strict=True)
        for piece in token_pieces(part, part_ids, limit, encode_batch)
    ]


def halves(text: str) -> tuple[str, str]:
    """The text cut near its middle: after a sentence if one ends there, else after a word, else anywhere."""
    middle = cut = len(text) // 2
    for boundary in (SENTENCE_END, WORD_END):
        ends = [match.end() for match in boundary.finditer(text, len(text) // 4, len(text) - len(text) // 4)]
        if ends:
            cut = min(ends, key=lambda end: abs(end - middle))
            break
    return text[:cut].strip(), text[cut:].strip()
