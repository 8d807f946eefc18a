"""What was scored is compared with the file: no score is reported of a set that lost a word or an entity on the way."""

from collections.abc import Sequence

from transformer_architectures.datasets.text.conll import TaggedText
from transformer_architectures.datasets.text.tag_schemes import entity_spans
from transformer_architectures.errors import DataError


def check_alignment(texts: Sequence[TaggedText], scored_tags: Sequence[Sequence[str]], are_entities: bool) -> None:
    """Compares the gold tags of the texts with those that took the same way as the predictions (windows, sub-words, batches, and back).

    Args:
        scored_tags: for each text the gold tag of each word, as it arrived where predictions arrive.
        are_entities: name the entity that is lost, not only the word.

    Raises:
        DataError: a text, a word or an entity is missing, moved or changed.
    """
    if len(scored_tags) != len(texts):
        raise DataError(f"{len(texts)} texts were read, but {len(scored_tags)} would be scored: no score is reported")
    for text, tags in zip(texts, scored_tags, strict=True):
        if tuple(tags) != text.tags:
            what, word = _first_loss(text, tags, are_entities)
            raise DataError(
                f"{text.file}:{text.lines[word]}: {what} was lost on the way to the model: no score is reported"
            )


def _first_loss(text: TaggedText, tags: Sequence[str], are_entities: bool) -> tuple[str, int]:
    """What was lost, and its first word."""
    if len(tags) != len(text.words):
        return f"of {len(text.words)} words all but {len(tags)}", 0
    if are_entities:
        arrived = set(entity_spans(tags))
        for span in entity_spans(text.tags):
            if span not in arrived:
                return f"the {span.type} {' '.join(text.words[span.first : span.last + 1])[:60]!r}", span.first
    word = next(word for word, pair in enumerate(zip(tags, text.tags, strict=True)) if pair[0] != pair[1])
    return f"the tag {text.tags[word]} of {text.words[word][:60]!r}", word
