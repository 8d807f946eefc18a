"""Texts as BERT reads them: every word once, at its first sub-word, whatever the length; packed without mixing."""

import random

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer_architectures.architectures.bert.data import TokenRow, TransformerDataCollator
from transformer_architectures.datasets.text.windowed_text import WindowedText, Windowing, special_tokens_of

CLS, SEP, PAD = 1, 2, 0


def numbered(subwords: list[int]) -> list[int]:
    """Token ids that say which sub-word of which word each is."""
    return [1000 * (word + 1) + place for word, count in enumerate(subwords) for place in range(count)]


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), max_size=60), st.integers(3, 20), st.data())
def test_every_word_is_predicted_once_at_its_first_subword(
    subwords: list[int], max_length: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, max_length - 2))
    text = Windowing(max_length, stride, (CLS,), (SEP,))(numbered(subwords), subwords)
    assert text.token_ids[text.word_positions].tolist() == [1000 * (word + 1) for word in range(len(subwords))]
    assert sum(text.segment_lengths) == len(text.token_ids) and max(text.segment_lengths) <= max_length
    np.testing.assert_allclose(text.weights.sum(), 1, rtol=1e-6)
    ends = np.cumsum(text.segment_lengths)
    assert (text.token_ids[ends - 1] == SEP).all() and (text.token_ids[ends - text.segment_lengths] == CLS).all()
    inside = [token for token in text.token_ids.tolist() if token >= 1000]
    if max(subwords, default=0) <= max_length - 2:
        assert set(inside) == set(numbered(subwords)) and text.num_cut_words == 0
    else:
        assert text.num_cut_words == sum(count > max_length - 2 for count in subwords)


def test_a_short_text_is_one_window() -> None:
    text = Windowing(8, 3, (CLS,), (SEP,))([10, 11, 20], [2, 1])
    assert text.token_ids.tolist() == [CLS, 10, 11, 20, SEP] and text.word_positions.tolist() == [1, 3]
    nothing = Windowing(8, 3, (CLS,), (SEP,))([], [])
    assert nothing.token_ids.tolist() == [CLS, SEP] and not len(nothing.word_positions)


def test_batches_keep_texts_apart_and_labels_at_their_places(seed: int) -> None:
    windowing = Windowing(12, 5, (CLS,), (SEP,))
    rows: list[tuple[int, TokenRow]] = []
    for number in random.sample(range(100), 7):
        subwords = [random.randint(1, 4) for _ in range(random.randint(0, 30))]
        text = windowing(numbered(subwords), subwords)
        rows.append((number, TokenRow(text, text.word_positions, np.arange(len(subwords)) + 100 * number)))
    batch = TransformerDataCollator(PAD, rows_multiple=16)(rows)
    assert batch.indices == tuple(number for number, _ in rows)
    assert batch.num_positions % 16 == 0 and batch.num_tokens == sum(len(row.text.token_ids) for _, row in rows)
    assert (batch.token_ids[0, batch.num_tokens :] == PAD).all()
    assert batch.token_ids[0, batch.positions].tolist() == [
        1000 * (word + 1) for _, row in rows for word in range(len(row.labels))
    ]
    assert batch.labels.tolist() == [label for _, row in rows for label in row.labels]
    assert batch.labels_of_text == tuple(len(row.labels) for _, row in rows)
    torch.testing.assert_close(
        torch.zeros(len(rows)).index_add(0, batch.text_of_segment, batch.weight_of_segment), torch.ones(len(rows))
    )
    assert batch.segments.lengths == tuple(length for _, row in rows for length in row.text.segment_lengths)


def test_labels_of_texts_are_stacked() -> None:
    text = WindowedText(np.array([CLS, SEP]), (2,), np.empty(0, dtype=np.int64), np.ones(1, dtype=np.float32))
    nowhere = np.empty(0, dtype=np.int64)
    several = [TokenRow(text, nowhere, np.array(row, dtype=np.float32)) for row in ([0, 1, 1], [0, 0, 0])]
    assert TransformerDataCollator(PAD)(list(enumerate(several))).labels.tolist() == [[0, 1, 1], [0, 0, 0]]
    one = [TokenRow(text, nowhere, np.array([label])) for label in (2, 0)]
    batch = TransformerDataCollator(PAD)(list(enumerate(one)))
    assert batch.labels.tolist() == [2, 0] and batch.num_labels == 2 and batch.labels_of_text == (0, 0)


class _States:
    """A tokenizer that states what is asked for."""

    pad_id = PAD

    def __init__(self, **ids: object) -> None:
        vars(self).update(ids)


def test_special_tokens_are_those_that_a_tokenizer_states() -> None:
    assert special_tokens_of(_States(cls_id=1, sep_id=2)) == ((1,), (2,))
    assert special_tokens_of(_States(prefix_ids=[5], suffix_ids=[6, 6], cls_id=1, sep_id=2)) == ((5,), (6, 6))
    assert special_tokens_of(_States(sep_id=2)) == ((), (2,))
    assert special_tokens_of(_States()) == ((), ()) and special_tokens_of(_States()).num_tokens == 0


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), max_size=60), st.lists(st.just(CLS), max_size=2), st.lists(st.just(SEP), max_size=3))
def test_windows_between_any_special_tokens(subwords: list[int], prefix: list[int], suffix: list[int]) -> None:
    tokenizer = _States(prefix_ids=prefix, suffix_ids=suffix)
    text = Windowing.from_tokenizer(tokenizer, max_length=12, stride=3)(numbered(subwords), subwords)
    assert text.token_ids[text.word_positions].tolist() == [1000 * (word + 1) for word in range(len(subwords))]
    windows = np.split(text.token_ids, np.cumsum(text.segment_lengths)[:-1])
    for window in windows:
        inside = window[len(prefix) : len(window) - len(suffix)].tolist()
        assert 0 < len(window) <= 12
        assert not {CLS, SEP} & set(inside)
        if subwords or prefix or suffix:
            assert window.tolist() == [*prefix, *inside, *suffix]
        else:
            assert window.tolist() == [PAD]  # an empty text between nothing
