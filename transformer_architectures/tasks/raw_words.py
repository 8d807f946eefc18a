"""Words of raw text, with the characters where they begin and end."""

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

_PIECE = re.compile(r"\S+")
_ATTACHED = ("@", "#")  # names and topics of social media keep their sign
_JOINER = "\u200d"  # between the parts of one emoji


class Word(NamedTuple):
    """A word of a line: ``line[start:end]``."""

    text: str
    start: int
    end: int


def split_words(line: str) -> list[Word]:
    """The words of a line of raw text: pieces between white space, signs at their ends apart, one by one.

    What is tagged in a file is split already, and stays so; of raw text this is a guess that suits most. A sign is never taken apart
    from what belongs to it: accents, vowel signs and the parts of an emoji stay with the character before them.
    """
    return [word for piece in _PIECE.finditer(line) for word in _words_of_piece(line, *piece.span())]


def _words_of_piece(line: str, start: int, end: int) -> Iterator[Word]:
    bounds = [start, *(place for place in range(start + 1, end) if not _belongs_to_last(line, place)), end]
    signs = list(zip(bounds, bounds[1:]))  # where each begins and ends
    inner = [number for number, (begin, stop) in enumerate(signs) if any(map(str.isalnum, line[begin:stop]))]
    if inner:
        first, last = inner[0], inner[-1]
        if first and line[slice(*signs[first - 1])] in _ATTACHED:
            first -= 1
        signs[first : last + 1] = [(signs[first][0], signs[last][1])]
    for begin, stop in signs:
        yield Word(line[begin:stop], begin, stop)


def _belongs_to_last(line: str, place: int) -> bool:
    is_mark = unicodedata.category(line[place]).startswith("M")
    return is_mark or line[place] == _JOINER or line[place - 1] == _JOINER
