"""Dynamic masking for masked language modelling (Devlin et al. 2019, section 3.1): other places in every epoch."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Integer
from pydantic import Field

from transformer_architectures.config import StrictModel

STREAM = 0x3A5C  # tells these random numbers from others that are made of seed, epoch and row
VALIDATION_SEED = 2018  # the same for every run: scores of several seeds are scores on the same masks
MASKED_SHARE, RANDOM_SHARE = 0.8, 0.1  # of the chosen tokens; the rest stays as it is


class MaskingConfig(StrictModel):
    """How tokens are chosen."""

    rate: float = Field(
        default=0.15, gt=0, le=0.5, description="share of the tokens that are chosen; 0.15 to 0.3 is usual"
    )
    whole_words: bool = Field(
        default=False, description="all tokens of a word or none; how each is replaced is still its own"
    )


class MaskedRow(NamedTuple):
    """A row as the model sees it, and what is asked of it.

    Attributes:
        input_ids: chosen tokens replaced.
        positions: of the chosen tokens, ascending.
        labels: what stood there.
    """

    input_ids: Integer[np.ndarray, "length"]
    positions: Int[np.ndarray, "chosen"]
    labels: Integer[np.ndarray, "chosen"]


@dataclass(frozen=True, eq=False)
class DynamicMasking:
    """Chooses tokens of a row and replaces them: 80 % by ``[MASK]``, 10 % by a random token, 10 % by themselves.

    The number of chosen tokens is exact: ``rate`` of those that can be chosen, rounded, at least one. With a coin for every token a
    short row would often have none (then it is computed for nothing), and the number of labels of a batch would vary, so that kernels
    meet more shapes and steps more noise. Whole words come as near to that number as the word that crosses it allows.

    A pure function of seed, epoch, row number and tokens: not of workers, ranks or any global generator.

    Attributes:
        is_special: of each token id, whether it is special (``[UNK]`` too): never chosen, never put in, never a label.
        continues_word: of each token id, whether it goes on with the word of the token before it; for ``whole_words``.
    """

    config: MaskingConfig
    seed: int
    mask_id: int
    is_special: Bool[np.ndarray, "vocab"]
    continues_word: Bool[np.ndarray, "vocab"]

    def for_validation(self) -> "DynamicMasking":
        """The same with a seed of its own, to be used with epoch 0: one fixed set of masks, whatever the run's seed."""
        return replace(self, seed=VALIDATION_SEED)

    def __call__(self, input_ids: Integer[np.ndarray, "length"], epoch: int, row: int) -> MaskedRow:
        """Masks one row; special tokens are part of it."""
        generator = np.random.default_rng([STREAM, self.seed, epoch, row])
        candidates = np.flatnonzero(~self.is_special[input_ids])
        choose = self._choose_words if self.config.whole_words else self._choose_tokens
        positions = choose(input_ids, candidates, generator)
        labels = input_ids[positions].astype(np.int64)
        masked = input_ids.copy()
        masked[positions] = self._replacements(labels, generator)
        return MaskedRow(masked, positions, labels)

    @cached_property
    def _ordinary_ids(self) -> Int[np.ndarray, "_"]:
        return np.flatnonzero(~self.is_special)

    def _number(self, num_candidates: int) -> int:
        return min(num_candidates, max(1, round(self.config.rate * num_candidates)))

    def _choose_tokens(
        self, input_ids: Integer[np.ndarray, "length"], candidates: Int[np.ndarray, "_"], generator: np.random.Generator
    ) -> Int[np.ndarray, "_"]:
        return np.sort(generator.permutation(candidates)[: self._number(len(candidates))])

    def _choose_words(
        self, input_ids: Integer[np.ndarray, "length"], candidates: Int[np.ndarray, "_"], generator: np.random.Generator
    ) -> Int[np.ndarray, "_"]:
        if not len(candidates):
            return candidates
        # A word begins at a token that continues none, and behind a special token.
        begins = ~self.continues_word[input_ids[candidates]]
        begins |= np.diff(candidates, prepend=-2) > 1
        word_of = np.cumsum(begins) - 1
        lengths = np.bincount(word_of)
        order = generator.permutation(len(lengths))
        totals = np.cumsum(lengths[order])
        wanted = self._number(len(candidates))
        crossing = int(np.searchsorted(totals, wanted))  # the word that reaches the number
        before = int(totals[crossing - 1]) if crossing else 0
        is_nearer = totals[crossing] - wanted <= wanted - before
        is_chosen = np.zeros(len(lengths), dtype=bool)
        is_chosen[order[: crossing + 1] if is_nearer or not crossing else order[:crossing]] = True
        return candidates[is_chosen[word_of]]

    def _replacements(
        self, labels: Integer[np.ndarray, "chosen"], generator: np.random.Generator
    ) -> Integer[np.ndarray, "chosen"]:
        fate = generator.random(len(labels))
        random_ids = self._ordinary_ids[generator.integers(0, len(self._ordinary_ids), len(labels))]
        kept_or_random = np.where(fate < MASKED_SHARE + RANDOM_SHARE, random_ids, labels)
        return np.where(fate < MASKED_SHARE, self.mask_id, kept_or_random)
