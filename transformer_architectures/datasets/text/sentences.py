"""Where a line of text may be cut into sentences: a rule of thumb, good enough to say where a training sequence may end."""

import re

# A full stop and the like, what closes behind it, and white space before something that is no small letter; after CJK full stops
# there is no space. A run of stops is tried at its beginning only: a megabyte of them would take its square of steps.
_END = re.compile(
    r"""(?<![.!?…])[.!?…]++["'”’»)\]]*+\s++(?=[^a-z])|(?<![。！？])[。！？]++["'”’」』）]*+\s*+(?=.)""", flags=re.DOTALL
)


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, stripped; nothing but white space between them is lost.

    Abbreviations before a capital letter ("Mr. Smith") are taken for an end: packed sequences lose nothing by it.
    """
    starts = [0, *(match.end() for match in _END.finditer(text))]
    pieces = (text[start:end].strip() for start, end in zip(starts, [*starts[1:], len(text)], strict=True))
    return [piece for piece in pieces if piece]
