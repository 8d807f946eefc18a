"""Searches, on a toy decoder whose every output can be listed."""

import itertools
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from transformer_architectures.errors import UsageError
from transformer_architectures.generation import (
    DecoderState,
    Hypotheses,
    beam_search,
    greedy_search,
    sample,
    score,
)
from transformer_architectures.generation.scoring import log_probabilities_
from transformer_architectures.kernels.top_k import top_k

START, END = 0, 1


@dataclass
class ToyDecoder:
    """Random logits that depend on sentence and whole prefix: a row that takes a wrong parent is found out."""

    vocab_size: int
    sharpness: float = 2.0
    num_states: int = 997
    table: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.table = torch.randn(self.num_states, self.vocab_size) * self.sharpness

    def start(self, sentences: list[int], num_beams: int) -> "ToyState":
        return ToyState(self, torch.tensor(sentences).repeat_interleave(num_beams) * 31 + 7, num_beams)

    def logits(self, sentence: int, prefix: list[int]) -> Tensor:
        """Logits at every position of one output, computed apart from `ToyState`."""
        memory, rows = sentence * 31 + 7, []
        for token in [START, *prefix]:
            memory = (memory * 131 + token + 1) % self.num_states
            rows.append(self.table[memory])
        return torch.stack(rows)


@dataclass
class ToyState:
    decoder: ToyDecoder
    memory: Tensor
    num_beams: int
    rows_fed: int = 0

    def step(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """In groups of rows whose number changes from step to step: nothing may depend on it."""
        self.rows_fed += len(tokens)
        self.memory = (self.memory * 131 + tokens + 1) % self.decoder.num_states
        return self.decoder.table[self.memory].split(1 + self.rows_fed % 3)

    def reorder(self, parents: Tensor) -> None:
        assert not torch.equal(parents, torch.arange(len(parents)))
        assert torch.equal(parents // self.num_beams, torch.arange(len(parents)) // self.num_beams)
        self.memory = self.memory[parents]

    def keep(self, sentences: Tensor) -> None:
        self.memory = self.memory.view(-1, self.num_beams)[sentences].flatten()


def beams(
    decoder: ToyDecoder, sentences: list[int], limits: list[int] | int, num_beams: int, **options: object
) -> Hypotheses:
    limits = [limits] * len(sentences) if isinstance(limits, int) else limits
    state = decoder.start(sentences, num_beams)
    return beam_search(
        state,
        len(sentences),
        num_beams=num_beams,
        start_token=START,
        end_token=END,
        max_lengths=torch.tensor(limits, dtype=torch.long),
        **options,  # type: ignore[arg-type]
    )


def greedy(decoder: ToyDecoder, sentences: list[int], limit: int, **options: object) -> Hypotheses:
    limits = torch.full((len(sentences),), limit)
    return greedy_search(
        decoder.start(sentences, 1),
        len(sentences),
        start_token=START,
        end_token=END,
        max_lengths=limits,
        **options,  # type: ignore[arg-type]
    )


def all_outputs(decoder: ToyDecoder, sentence: int, limit: int, length_penalty: float) -> list[tuple[float, list[int]]]:
    """Every finished output within the limit with its score, best first."""
    words = [token for token in range(decoder.vocab_size) if token != END]
    outputs = []
    for length in range(limit):
        for text in itertools.product(words, repeat=length):
            log_probs = decoder.logits(sentence, list(text)).log_softmax(dim=-1)
            total = sum(log_probs[position, token] for position, token in enumerate([*text, END]))
            outputs.append((float(total) / (length + 1) ** length_penalty, list(text)))
    return sorted(outputs, reverse=True)


def same(left: Hypotheses, right: Hypotheses) -> bool:
    return left.to_lists() == right.to_lists() and torch.allclose(left.scores, right.scores, atol=1e-5)


def test_the_toy_fits_the_protocol() -> None:
    assert isinstance(ToyDecoder(4).start([0], 2), DecoderState)


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0, 2.0])
def test_wide_beam_search_is_exhaustive_search(seed: int, length_penalty: float) -> None:
    decoder, sentences = ToyDecoder(4), [0, 1, 2, 3, 4]
    found = beams(decoder, sentences, 4, num_beams=81, n_best=10, length_penalty=length_penalty)
    for sentence, texts, scores in zip(sentences, found.to_lists(), found.scores.tolist(), strict=True):
        expected = all_outputs(decoder, sentence, 4, length_penalty)[:10]
        assert texts == [text for _, text in expected]
        assert scores == pytest.approx([score for score, _ in expected], abs=1e-4)


def test_exhaustive_search_needs_no_more_steps_than_the_best_output_can_use(seed: int) -> None:
    """With plain log probabilities nothing longer can win once one hypothesis beats every live beam."""
    decoder = ToyDecoder(5, sharpness=0.01)
    decoder.table[:, END] = 20.0
    state = decoder.start([0], 3)
    limits = torch.tensor([50])
    beam_search(state, 1, num_beams=3, start_token=START, end_token=END, max_lengths=limits, length_penalty=0.0)
    assert state.rows_fed == 3


def test_one_beam_is_greedy_search(seed: int) -> None:
    decoder, sentences = ToyDecoder(7), list(range(20))
    assert same(greedy(decoder, sentences, 12), beams(decoder, sentences, 12, num_beams=1))


def test_greedy_takes_the_most_probable_token(seed: int) -> None:
    decoder = ToyDecoder(7)
    for sentence, (tokens,) in enumerate(greedy(decoder, [0, 1, 2, 3], 12).to_lists()):
        best = decoder.logits(sentence, tokens).argmax(dim=-1).tolist()
        assert best[: len(tokens)] == tokens
        assert len(tokens) == 12 or best[-1] == END


def test_a_batch_of_one_is_a_batch_of_many(seed: int) -> None:
    decoder, sentences = ToyDecoder(9), [3, 1, 4, 15, 9, 2, 6]
    limits = [int(limit) for limit in torch.randint(1, 15, (len(sentences),))]
    together = beams(decoder, sentences, limits, num_beams=4, n_best=3)
    for row, (sentence, limit) in enumerate(zip(sentences, limits, strict=True)):
        alone = beams(decoder, [sentence], limit, num_beams=4, n_best=3)
        assert alone.to_lists()[0] == together.to_lists()[row]
        assert torch.allclose(alone.scores[0], together.scores[row], atol=1e-5)
        assert torch.equal(alone.lengths[0], together.lengths[row])


def test_finished_sentences_that_leave_change_nothing_but_the_work(seed: int) -> None:
    decoder, sentences = ToyDecoder(6), list(range(30))
    limits = torch.randint(1, 20, (30,))
    work, results = [], []
    for leaving_share in (0.0, 0.3, 2.0):
        state = decoder.start(sentences, 3)
        results.append(
            beam_search(
                state,
                30,
                num_beams=3,
                n_best=2,
                start_token=START,
                end_token=END,
                max_lengths=limits,
                leaving_share=leaving_share,
            )
        )
        work.append(state.rows_fed)
    assert same(results[0], results[1]) and same(results[0], results[2])
    assert work[0] <= work[1] < work[2]


def test_greedy_sentences_that_leave_change_nothing(seed: int) -> None:
    decoder, sentences = ToyDecoder(6), list(range(30))
    assert same(greedy(decoder, sentences, 9, leaving_share=0.0), greedy(decoder, sentences, 9, leaving_share=2.0))


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
@pytest.mark.parametrize("suppress_tokens", [(), (END,), (2, 3)])
def test_scores_are_those_of_the_outputs(seed: int, length_penalty: float, suppress_tokens: tuple[int, ...]) -> None:
    decoder, sentences = ToyDecoder(9), [0, 1, 2, 3]
    options = {"length_penalty": length_penalty, "suppress_tokens": suppress_tokens}
    searches = [
        greedy(decoder, sentences, 7, **options),
        beams(decoder, sentences, 7, num_beams=4, n_best=4, **options),
    ]
    for found in searches:
        for row, sentence in enumerate(sentences):
            tokens, lengths = found.tokens[row], found.lengths[row]
            logits = torch.stack([decoder.logits(sentence, text[:-1]) for text in tokens.tolist()])
            rescored = score(logits, tokens, lengths, length_penalty)
            assert torch.allclose(rescored, found.scores[row], atol=1e-5)
            assert not set(suppress_tokens) & {token for text in found.to_lists()[row] for token in text}


def test_scores_fall_with_rank_and_outputs_differ(seed: int) -> None:
    """First those that are finished, then those that the limit cut."""
    found = beams(ToyDecoder(9), list(range(8)), 10, num_beams=6, n_best=6)
    is_finished = (found.tokens == END).any(dim=2)
    for scores, finished, texts in zip(found.scores, is_finished, found.to_lists(), strict=True):
        assert finished.tolist() == sorted(finished.tolist(), reverse=True)
        assert bool((scores[finished].diff() <= 0).all() and (scores[~finished].diff() <= 0).all())
        assert len({tuple(text) for text in texts}) == 6


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_asking_for_more_does_not_change_the_first(seed: int, length_penalty: float) -> None:
    """Also where a cut hypothesis scores better than the finished ones, which short limits make common."""
    decoder, sentences = ToyDecoder(5, sharpness=1.0), list(range(60))
    limits = [1 + sentence % 6 for sentence in sentences]
    found = [
        beams(decoder, sentences, limits, num_beams=4, n_best=n, length_penalty=length_penalty) for n in range(1, 5)
    ]
    assert any(bool((longer.scores.diff(dim=1) > 0).any()) for longer in found)
    for fewer, more in zip(found, found[1:], strict=False):
        assert fewer.to_lists() == [texts[: fewer.scores.shape[1]] for texts in more.to_lists()]


def test_the_limit_is_hard_and_what_it_cuts_is_returned(seed: int) -> None:
    decoder = ToyDecoder(6)
    limits = [1, 2, 5, 9]
    for search in (
        greedy(decoder, [0, 1, 2, 3], 9, suppress_tokens=(END,)),
        beams(decoder, [0, 1, 2, 3], limits, 3, suppress_tokens=(END,)),
    ):
        expected = limits if search.lengths.tolist() != [[9]] * 4 else [9] * 4
        assert [len(texts[0]) for texts in search.to_lists()] == expected
        assert search.lengths[:, 0].tolist() == expected
    assert bool(beams(decoder, [0, 1, 2, 3], 1, 3, n_best=3).scores.isfinite().all())


def test_a_finished_hypothesis_is_preferred_to_one_that_the_limit_cut(seed: int) -> None:
    """One word, then either the end or, more probably, that word for ever."""
    decoder = ToyDecoder(3)
    decoder.table[:] = torch.tensor([-20.0, 0.0, 0.1])
    cut = beams(decoder, [0], 4, num_beams=1)
    assert cut.to_lists() == [[[2, 2, 2, 2]]]
    found = beams(decoder, [0], 4, num_beams=2)
    assert found.to_lists() != cut.to_lists()
    assert len(found.to_lists()[0][0]) < 4


def test_an_empty_batch_asks_the_decoder_nothing() -> None:
    decoder = ToyDecoder(5)
    assert beams(decoder, [], [], num_beams=3, n_best=2).to_lists() == []
    assert greedy(decoder, [], 5).to_lists() == []


@pytest.mark.parametrize("n_best", [0, 4])
def test_more_outputs_than_beams_are_refused(n_best: int) -> None:
    with pytest.raises(UsageError, match="as many beams"):
        beams(ToyDecoder(5), [0], 5, num_beams=3, n_best=n_best)


def test_a_limit_without_room_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1 token"):
        beams(ToyDecoder(5), [0, 1], [3, 0], num_beams=3)


def test_more_beams_never_find_less_on_average(seed: int) -> None:
    decoder, sentences = ToyDecoder(12), list(range(100))
    means = [float(beams(decoder, sentences, 12, n, length_penalty=0.0).scores.mean()) for n in (1, 4, 16)]
    assert means[0] < means[1] < means[2]


@pytest.mark.parametrize("length", [3, 64, 640, 1000])
def test_top_k_is_torchs(seed: int, length: int) -> None:
    rows = torch.randn(17, length)
    for k in (1, 3):
        values, places = top_k(rows, k)
        expected = rows.topk(k, dim=1)
        assert torch.equal(values, expected.values)
        assert torch.equal(places, expected.indices)


def test_log_probabilities_are_written_over_the_logits(seed: int) -> None:
    logits = torch.randn(5, 1000) * 5
    expected = logits.log_softmax(dim=-1)
    assert torch.equal(log_probabilities_(logits), expected)
    assert torch.equal(logits, expected)
    assert log_probabilities_(logits.bfloat16()).dtype == torch.float32


def draws(decoder: ToyDecoder, sentences: list[int], num_samples: int, generator: int, **options: object) -> Hypotheses:
    return sample(
        decoder.start(sentences, num_samples),
        len(sentences),
        num_samples=num_samples,
        start_token=START,
        end_token=END,
        max_lengths=torch.full((len(sentences),), 6),
        generator=torch.Generator().manual_seed(generator),
        **options,  # type: ignore[arg-type]
    )


def test_samples_are_repeatable_and_scored_by_the_model(seed: int) -> None:
    decoder = ToyDecoder(8)
    first, second = (draws(decoder, [0, 1, 2], 4, seed, temperature=1.5) for _ in range(2))
    assert first.to_lists() == second.to_lists()
    for row in range(3):
        logits = torch.stack([decoder.logits(row, text[:-1]) for text in first.tokens[row].tolist()])
        assert torch.allclose(score(logits, first.tokens[row], first.lengths[row]), first.scores[row], atol=1e-5)


def test_sampling_follows_the_distribution(seed: int) -> None:
    decoder = ToyDecoder(5, sharpness=1.0)
    first_tokens = draws(decoder, [0], 20_000, seed).tokens[0, :, 0]
    shares = torch.bincount(first_tokens, minlength=5) / 20_000
    assert torch.allclose(shares, decoder.logits(0, [])[0].softmax(dim=0), atol=0.02)


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}])
def test_sampling_without_freedom_is_greedy_search(seed: int, options: dict[str, float]) -> None:
    decoder = ToyDecoder(8)
    assert draws(decoder, [0, 1, 2], 1, seed, **options).to_lists() == greedy(decoder, [0, 1, 2], 6).to_lists()


def test_top_p_draws_from_the_smallest_set_that_reaches_it(seed: int) -> None:
    decoder = ToyDecoder(5)
    decoder.table[:] = torch.tensor([0.05, 0.1, 0.4, 0.3, 0.15]).log()
    drawn = draws(decoder, [0], 500, seed, top_p=0.6).tokens[0, :, 0]
    assert set(drawn.tolist()) == {2, 3}
    assert set(draws(decoder, [0], 500, seed, top_k=3).tokens[0, :, 0].tolist()) == {2, 3, 4}


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"top_p": 0.0}, {"top_k": 0}, {"top_p": 1.5}])
def test_sampling_settings_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        draws(ToyDecoder(5), [0], 1, 0, **options)
