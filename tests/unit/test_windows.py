"""Long texts in windows: all words are there, each is predicted once, where it has most context; nothing is lost on the way."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer_architectures.datasets.text.conll import TaggedText
from transformer_architectures.datasets.text.tag_schemes import entity_spans
from transformer_architectures.datasets.text.windows import Windows, plan_windows
from transformer_architectures.errors import DataError, UsageError
from transformer_architectures.metrics import check_alignment

subwords_of_a_text = st.lists(st.integers(1, 7), max_size=40)
# At times a word that fits no window.
odd_subwords = st.lists(st.one_of(st.integers(1, 3), st.integers(1, 30)), max_size=30)
sizes = st.integers(1, 12).flatmap(lambda length: st.tuples(st.just(length), st.integers(1, length)))


def context(kept: list[int], words: range, word: int) -> int:
    """Sub-words on the poorer side of a word in a window."""
    return min(sum(kept[words.start : word]), sum(kept[word + 1 : words.stop]))


@settings(deadline=None, max_examples=300)
@given(st.one_of(subwords_of_a_text, odd_subwords), sizes)
def test_windows_against_their_definition(subwords: list[int], size: tuple[int, int]) -> None:
    max_length, stride = size
    planned = plan_windows(subwords, max_length, stride)
    windows, kept = planned.windows, list(planned.kept_subwords)
    assert kept == [min(number, max_length) for number in subwords]
    assert planned.num_cut_words == sum(number > max_length for number in subwords)
    # Windows are not too long, and go on without a gap, none within another.
    bounds = [(window.words.start, window.words.stop) for window in windows]
    assert all(left[0] < right[0] <= left[1] < right[1] for left, right in zip(bounds, bounds[1:]))
    assert {word for window in windows for word in window.words} == set(range(len(subwords)))
    for window in windows:
        assert window.num_tokens == sum(kept[word] for word in window.words) <= max_length
        assert window.weight == sum(kept[word] for word in window.predicts)
    # Each is as full as whole words allow.
    assert all(sum(kept[start : stop + 1]) > max_length for start, stop in bounds[:-1])
    if len(windows) > 1:
        assert sum(kept[bounds[-1][0] - 1 :]) > max_length
    # Every word is predicted once, in order, from the first of the windows in which it has most context.
    assert [word for window in windows for word in window.predicts] == list(range(len(subwords)))
    for number, window in enumerate(windows):
        for word in window.predicts:
            contexts = {
                other: context(kept, windows[other].words, word)
                for other in range(len(windows))
                if word in windows[other].words
            }
            assert number == min(contexts, key=lambda other: (-contexts[other], other))


@settings(deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=60), st.integers(3, 12), st.data())
def test_windows_begin_every_stride(subwords: list[int], max_length: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(3, max_length))  # no word is longer
    windows = plan_windows(subwords, max_length, stride).windows
    for window, after in zip(windows[:-2], windows[1:-1]):  # the last one is moved to be full
        gap = sum(subwords[window.words.start : after.words.start])
        is_as_late = gap + subwords[after.words.start] > stride or after.words.start == window.words.stop
        earlier = range(after.words.start - 1, window.words.stop + 1)
        is_for_next_word = sum(subwords[word] for word in earlier) > max_length
        assert is_as_late and (gap <= stride or is_for_next_word)


def test_a_text_that_fits_is_one_window() -> None:
    [window] = plan_windows([2, 1, 3], 6, 2).windows
    assert (window.words, window.predicts, window.num_tokens, window.weight) == (range(3), range(3), 6, 6)
    assert plan_windows([], 6, 2).windows == ()


def test_an_example() -> None:
    planned = plan_windows([1] * 10, max_length=6, stride=3)
    assert [window.words for window in planned.windows] == [range(0, 6), range(3, 9), range(4, 10)]
    assert [window.predicts for window in planned.windows] == [range(0, 5), range(5, 7), range(7, 10)]


def test_a_word_that_fits_no_window_is_cut_at_its_end_and_predicted() -> None:
    planned = plan_windows([1, 9, 1], max_length=4, stride=2)
    assert planned.num_cut_words == 1 and planned.kept_subwords == (1, 4, 1)
    assert [window.words for window in planned.windows] == [range(0, 1), range(1, 2), range(2, 3)]
    assert planned.merge([["a"], ["b"], ["c"]]) == ["a", "b", "c"]


@pytest.mark.parametrize(("subwords", "max_length", "stride"), [([1, 0], 4, 2), ([1], 4, 5), ([1], 4, 0), ([1], 0, 0), ([-1], 4, 2)])  # fmt: skip
def test_what_cannot_be(subwords: list[int], max_length: int, stride: int) -> None:
    with pytest.raises(UsageError):
        plan_windows(subwords, max_length, stride)


# ---------------------------------------------------------------------------------------------------------------------
# Putting together
# ---------------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(odd_subwords, sizes)
def test_merging_gives_each_word_its_own(subwords: list[int], size: tuple[int, int]) -> None:
    planned = plan_windows(subwords, *size)
    named = [[(word, number) for word in window.words] for number, window in enumerate(planned.windows)]
    merged = planned.merge(named)
    assert [word for word, _ in merged] == list(range(len(subwords)))
    assert all(word in planned.windows[number].predicts for word, number in merged)


def test_predictions_that_do_not_fit_are_refused() -> None:
    planned = plan_windows([1] * 10, 6, 3)
    for predictions in ([[0] * 6, [0] * 6], [[0] * 6, [0] * 5, [0] * 6], [[0] * 6] * 4):
        with pytest.raises(UsageError, match="one prediction for each word"):
            planned.merge(predictions)


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=30), sizes, st.integers(0, 2**31))
def test_pooling_counts_every_subword_once(subwords: list[int], size: tuple[int, int], seed: int) -> None:
    planned = plan_windows(subwords, *size)
    values = np.random.default_rng(seed).standard_normal((len(planned.windows), 3))
    total = np.zeros(3)
    for window, of_window in zip(planned.windows, values, strict=True):
        for word in window.predicts:
            total += of_window * planned.kept_subwords[word]
    assert np.allclose(planned.pool(values), total / sum(planned.kept_subwords))


# ---------------------------------------------------------------------------------------------------------------------
# Nothing lost
# ---------------------------------------------------------------------------------------------------------------------


def planted(num_words: int) -> TaggedText:
    """A long text with entities of one to four words, some of them with characters that few tokenizers see."""
    words: list[str] = []
    tags: list[str] = []
    while len(words) < num_words:
        if random.random() < 0.3:
            type_, length = random.choice(["PER", "creative-work"]), random.randint(1, 4)
            tags += [f"B-{type_}", *[f"I-{type_}"] * (length - 1)]
            words += random.choices(["Ann", "\u200b", "👩‍👩‍👧", "e\u0301", "\ufeff"], k=length)
        tags.append("O")
        words.append("word")
    return TaggedText("a.conll", tuple(range(1, len(words) + 1)), tuple(words), tuple(tags))


def through_windows(text: TaggedText, planned: Windows) -> list[str]:
    """The gold tags on the way that predictions take."""
    return planned.merge([[text.tags[word] for word in window.words] for window in planned.windows])


def test_entities_across_borders_of_windows_arrive(seed: int) -> None:
    texts = [planted(2000) for _ in range(3)]
    planned = [plan_windows([random.choice([1, 1, 2, 3, 90]) for _ in text.words], 64, random.randint(1, 64)) for text in texts]  # fmt: skip
    arrived = [through_windows(*pair) for pair in zip(texts, planned, strict=True)]
    check_alignment(texts, arrived, are_entities=True)
    borders = [{window.predicts.start for window in of_text.windows} for of_text in planned]
    crossing = [
        span
        for text, of_text in zip(texts, borders, strict=True)
        for span in entity_spans(text.tags)
        if any(span.first < border <= span.last for border in of_text)
    ]
    assert crossing  # of several hundred borders


def test_what_is_lost_is_named() -> None:
    text = TaggedText("a.conll", (3, 4, 5, 7), ("See", "New", "York", "now"), ("O", "B-LOC", "I-LOC", "O"))
    check_alignment([text, text], [list(text.tags)] * 2, are_entities=True)
    check_alignment([], [], are_entities=True)
    for arrived, message in (
        ([], "1 texts were read, but 0"),
        ([["O", "B-LOC", "I-LOC"]], r"a\.conll:3: of 4 words all but 3"),
        ([["O", "B-LOC", "I-LOC", "O", "O"]], r"a\.conll:3: of 4 words all but 5"),
        ([["O", "O", "O", "O"]], r"a\.conll:4: the LOC 'New York' was lost"),
        ([["O", "B-LOC", "O", "O"]], r"a\.conll:4: the LOC 'New York' was lost"),
        ([["B-LOC", "I-LOC", "O", "O"]], r"a\.conll:4: the LOC 'New York' was lost"),  # shifted by one
        ([["B-PER", "B-LOC", "I-LOC", "O"]], r"a\.conll:3: the tag O of 'See' was lost"),
    ):
        with pytest.raises(DataError, match=message):
            check_alignment([text], arrived, are_entities=True)
    free = text._replace(tags=("VERB", "PROPN", "PROPN", "ADV"))
    with pytest.raises(DataError, match=r"a\.conll:7: the tag ADV of 'now'"):
        check_alignment([free], [["VERB", "PROPN", "PROPN", "X"]], are_entities=False)
