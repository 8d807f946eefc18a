"""Scores of masked language modelling, beside what is reached without reading a word of context: the unigram distribution."""

import math

import numpy as np
from jaxtyping import Int, Integer

from transformer_architectures.errors import DataError

# Loss of the first plateau: all that is learned there is how frequent tokens are. Training that worked ends so many nats below.
PLATEAU_MARGIN = 0.5
TOKENS_AT_ONCE = 2**24


def masked_language_model_scores(loss_sum: float, num_correct: int, num_masked: int) -> dict[str, float]:
    """Scores of all chosen tokens of a part, the main one (``masked_accuracy``) first.

    - ``masked_accuracy``: share of the tokens whose most likely prediction is right, 0 to 1;
    - ``loss``: mean cross-entropy, in nats;
    - ``pseudo_perplexity``: e to the loss; of the masked tokens of one fixed set of masks, not of every token in turn.

    Raises:
        DataError: there is nothing to score.
    """
    if not num_masked:
        raise DataError("there is no masked token to score")
    loss = loss_sum / num_masked
    return {
        "masked_accuracy": num_correct / num_masked,
        "loss": loss,
        "pseudo_perplexity": math.exp(loss) if loss < 700 else math.inf,
    }


def masked_language_model_signatures() -> dict[str, str]:
    """How each score is computed, for others to repeat it."""
    masks = "tokens:chosen-by-fixed-masks"
    return {
        "masked_accuracy": f"top:1|{masks}",
        "loss": f"cross-entropy:nats|{masks}",
        "pseudo_perplexity": f"exp(loss)|{masks}",
    }


def token_counts(tokens: Integer[np.ndarray, "tokens"], vocab_size: int) -> Int[np.ndarray, "vocab"]:
    """How often each token id occurs; a mapped array is read piece by piece."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for start in range(0, len(tokens), TOKENS_AT_ONCE):
        counts += np.bincount(tokens[start : start + TOKENS_AT_ONCE], minlength=vocab_size)
    return counts


def unigram_entropy(train_counts: Int[np.ndarray, "vocab"], masked_counts: Int[np.ndarray, "vocab"]) -> float:
    """The loss, in nats, of predicting every masked token by the frequencies of the training tokens, each counted once more.

    Args:
        train_counts: of each token id in the training text.
        masked_counts: of each token id among the labels of the masked validation set.

    Raises:
        DataError: there is nothing to score.
    """
    if not (num_masked := int(masked_counts.sum())):
        raise DataError("there is no masked token to score")
    log_probability = np.log(train_counts + 1.0) - math.log(int(train_counts.sum()) + len(train_counts))
    return float(-(masked_counts @ log_probability) / num_masked)


def unigram_baseline(
    train_counts: Int[np.ndarray, "vocab"], masked_counts: Int[np.ndarray, "vocab"]
) -> dict[str, float]:
    """All scores of predicting the most frequent training token, with the training frequencies as probabilities."""
    loss = unigram_entropy(train_counts, masked_counts)
    num_masked = int(masked_counts.sum())
    return masked_language_model_scores(loss * num_masked, int(masked_counts[train_counts.argmax()]), num_masked)


def plateau_warning(loss: float, entropy: float) -> str | None:
    """What to say of a pre-training whose validation loss is not clearly under the unigram entropy; None if it is.

    Args:
        loss, entropy: in nats, of the same masks; see `unigram_entropy`.
    """
    if entropy - loss >= PLATEAU_MARGIN:
        return None
    if loss > entropy:
        return f"the loss {loss:.2f} is above the unigram entropy {entropy:.2f}: not even how frequent tokens are is learned yet"
    return (
        f"the loss {loss:.2f} is not {PLATEAU_MARGIN} nat under the unigram entropy {entropy:.2f}: the model has "
        "learned how frequent tokens are and little else; train longer, with a longer warm-up or another learning rate"
    )
