"""How tags spell entities: BIO (also called IOB2), IOB1, or tags that are free labels.

In BIO every entity begins with ``B-``. In IOB1 it begins with ``I-``, and ``B-`` stands only where an entity of the same type ends
directly before it. Read as conlleval reads them, both spell the same entities.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from transformer_architectures.errors import DataError

TagScheme = Literal["bio", "iob1", "free"]
OUTSIDE = "O"


class EntitySpan(NamedTuple):
    """An entity: its type, and the places of its first and last word (from 0)."""

    type: str
    first: int
    last: int


def is_entity_tag(tag: str) -> bool:
    """Whether a tag is ``O``, ``B``, ``I``, or one of the latter two with ``-`` and a type behind it."""
    return tag in ("O", "B", "I") or (tag[:2] in ("B-", "I-") and len(tag) > 2)


def entity_spans(tags: Sequence[str]) -> list[EntitySpan]:
    """The entities of a sentence, as conlleval (and so seqeval by default) reads tags.

    ``B-`` begins one. ``I-`` goes on with one of the same type directly before it, and otherwise begins one. A tag without a type has
    type ``_``.

    Raises:
        DataError: a tag spells no entity.
    """
    spans: list[EntitySpan] = []
    for place, tag in enumerate(tags):
        prefix, type_ = _parts(tag)
        goes_on = prefix == "I" and bool(spans) and spans[-1].type == type_ and spans[-1].last == place - 1
        if goes_on:
            spans[-1] = spans[-1]._replace(last=place)
        elif prefix != OUTSIDE:
            spans.append(EntitySpan(type_, place, place))
    return spans


def strict_entity_spans(tags: Sequence[str]) -> list[EntitySpan]:
    """The entities that strict BIO spells: ``B-`` and the ``I-`` of the same type behind it. An ``I-`` anywhere else is none."""
    return [span for span in entity_spans(tags) if tags[span.first].startswith("B")]


def as_bio(tags: Sequence[str]) -> tuple[str, ...]:
    """The same entities in BIO."""
    begins = {span.first for span in entity_spans(tags)}
    return tuple(f"B{tag[1:]}" if place in begins else tag for place, tag in enumerate(tags))


def detect_scheme(sentences: Iterable[Sequence[str]], are_entities: bool | None = None) -> TagScheme:
    """What the tags of a file are.

    * Entities, if more than half of the tags that are not ``O`` have the form of one: a few that have not are mistakes.
    * IOB1, if more entities begin with an ``I-`` than with a ``B-`` that stands behind no entity of its type.

    Args:
        are_entities: known already (from the training part).
    """
    if are_entities is False:
        return "free"
    forms: Counter[bool] = Counter()
    unlike_bio = unlike_iob1 = 0
    for tags in sentences:
        forms.update(is_entity_tag(tag) for tag in tags if tag != OUTSIDE)
        before = OUTSIDE
        for tag in tags:
            is_behind_its_type = before != OUTSIDE and before[1:] == tag[1:]
            unlike_bio += tag[:1] == "I" and is_entity_tag(tag) and not is_behind_its_type
            unlike_iob1 += tag[:1] == "B" and is_entity_tag(tag) and not is_behind_its_type
            before = tag
    if are_entities is None and forms[True] <= forms[False]:
        return "free"
    return "iob1" if unlike_bio > unlike_iob1 else "bio"


def look_like_bioes(sentences: Iterable[Sequence[str]]) -> bool:
    """Whether most tags that are not ``O`` are of a scheme that also marks last words and single ones: BIOES, BILOU."""
    forms = Counter(
        bool(re.match("[BILOUESbiloues]-.", tag)) for tags in sentences for tag in tags if tag.upper() != OUTSIDE
    )
    return forms[True] > forms[False]


def stray_insides(tags: Sequence[str]) -> int:
    """How many ``I-`` begin an entity, against the rule of BIO."""
    return len(entity_spans(tags)) - len(strict_entity_spans(tags))


def _parts(tag: str) -> tuple[str, str]:
    """Prefix and type."""
    if not is_entity_tag(tag):
        raise DataError(f"{tag!r} spells no entity: it is neither O nor B- nor I-")
    return tag[:1], tag[2:] or "_"
