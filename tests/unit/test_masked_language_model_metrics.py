"""Scores of pre-training, and the unigram distribution beside them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer_architectures.errors import DataError
from transformer_architectures.metrics import (
    masked_language_model,
    masked_language_model_scores,
    masked_language_model_signatures,
    plateau_warning,
    token_counts,
    unigram_baseline,
    unigram_entropy,
)

VOCAB = 12
tokens = st.lists(st.integers(0, VOCAB - 1), max_size=60)


def counts(ids: list[int]) -> np.ndarray:
    return token_counts(np.array(ids, dtype=np.uint16), VOCAB)


def test_scores() -> None:
    scores = masked_language_model_scores(loss_sum=20.0, num_correct=3, num_masked=10)
    assert scores == {"masked_accuracy": 0.3, "loss": 2.0, "pseudo_perplexity": pytest.approx(math.exp(2.0))}
    assert list(scores) == list(masked_language_model_signatures())
    assert masked_language_model_scores(1e6, 0, 1)["pseudo_perplexity"] == math.inf
    assert math.isnan(masked_language_model_scores(math.nan, 0, 1)["loss"])
    with pytest.raises(DataError, match="no masked token"):
        masked_language_model_scores(0.0, 0, 0)


@settings(deadline=None)
@given(tokens)
def test_counts_in_pieces(ids: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masked_language_model, "TOKENS_AT_ONCE", 7)
        assert counts(ids).tolist() == [ids.count(token) for token in range(VOCAB)]


@settings(deadline=None)
@given(tokens, tokens.filter(bool))
def test_the_unigram_entropy_is_the_loss_of_that_model(train: list[int], masked: list[int]) -> None:
    probabilities = [(train.count(token) + 1) / (len(train) + VOCAB) for token in range(VOCAB)]
    assert sum(probabilities) == pytest.approx(1)
    loss = -sum(math.log(probabilities[token]) for token in masked) / len(masked)
    assert unigram_entropy(counts(train), counts(masked)) == pytest.approx(loss)
    most_frequent = max(range(VOCAB), key=lambda token: (train.count(token), -token))
    baseline = unigram_baseline(counts(train), counts(masked))
    assert baseline == pytest.approx(
        {
            "masked_accuracy": masked.count(most_frequent) / len(masked),
            "loss": loss,
            "pseudo_perplexity": math.exp(loss),
        }
    )


def test_without_knowledge_it_is_the_uniform_distribution() -> None:
    assert unigram_entropy(counts([]), counts([3, 4])) == pytest.approx(math.log(VOCAB))
    with pytest.raises(DataError, match="no masked token"):
        unigram_entropy(counts([1]), counts([]))


def test_the_plateau() -> None:
    assert plateau_warning(5.49, 6.0) is None and plateau_warning(5.5, 6.0) is None
    for loss in (5.51, 6.0, 7.0, math.nan, math.inf):
        message = plateau_warning(loss, 6.0)
        assert message is not None and "unigram entropy 6.00" in message and "\n" not in message
