"""Learning a WordPiece vocabulary, the same from the same text.

The library's trainer numbers the pieces inside of words in an order that changes from process to process, and merges
depend on those numbers. Here words are counted first, so that every number is given before it starts.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

MAX_ALPHABET = 1000  # characters; a word with a rarer one is unknown
MIN_FREQUENCY = 2  # of a pair of pieces that becomes one: what is there once is not a piece of the language
MAX_RAW_WORDS, MAX_REPETITIONS = 2**20, 2**10


def learn_pieces(
    texts: Iterable[str],
    normalizer: normalizers.Normalizer,
    vocab_size: int,
    special_tokens: Sequence[str],
    max_word_length: int,
) -> list[str]:
    """The vocabulary: special tokens, pieces of one character inside of words, characters, and what they were merged to.

    Args:
        vocab_size: at most so many. Half of what the special tokens leave is as much as single characters may take.
        max_word_length: longer words are unknown when encoding, so nothing is learned from them.
    """
    counts = count_words(texts, normalizer, max_word_length)
    alphabet = _most_frequent_characters(counts, min(MAX_ALPHABET, (vocab_size - len(special_tokens)) // 2))
    counts = Counter({word: count for word, count in counts.items() if alphabet.issuperset(word)})
    inner = sorted({f"##{character}" for word in counts for character in word[1:]})
    tokenizer = Tokenizer(models.WordPiece({special_tokens[0]: 0}, unk_token=special_tokens[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_FREQUENCY,
        special_tokens=[*special_tokens, *inner],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_repeated(counts), trainer)
    ids = tokenizer.get_vocab()
    return sorted(ids, key=ids.__getitem__)


def count_words(texts: Iterable[str], normalizer: normalizers.Normalizer, max_word_length: int) -> Counter[str]:
    """How often each word of the normalised texts occurs; words are split as when encoding."""
    pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()

    def add(raw: Counter[str]) -> None:
        for text, count in raw.items():
            for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text)):
                if len(word) <= max_word_length:
                    counts[word] += count

    # What spaces enclose is counted as it is, and normalised once, not at each place. Nothing else may split it here: other
    # signs that look like white space are taken out by the normalizer, and join what stands around them.
    raw: Counter[str] = Counter()
    for text in texts:
        raw.update(text.replace("\n", " ").split(" "))
        if len(raw) > MAX_RAW_WORDS:
            add(raw)
            raw.clear()
    add(raw)
    return counts


def _most_frequent_characters(counts: Counter[str], number: int) -> set[str]:
    characters: Counter[str] = Counter()
    for word, count in counts.items():
        for character in word:
            characters[character] += count
    return set(sorted(characters, key=lambda character: (-characters[character], character))[:number])


def _repeated(counts: Counter[str]) -> Iterator[str]:
    """The trainer takes text only, so each word comes as often as it was counted."""
    for word, count in sorted(counts.items()):
        while count:
            number = min(count, MAX_REPETITIONS)
            yield f"{word} " * number
            count -= number
