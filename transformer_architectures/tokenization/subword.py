"""Subword tokens: byte-level BPE (Sennrich et al. 2016; Radford et al. 2019) by the `tokenizers` library."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from transformer_architectures.errors import ModelFolderError

FILE_NAME = "tokenizer.json"
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>")

# Words with the space before them, numbers digit by digit, runs of other signs, and white space that is left.
# Digits stand alone so that a number never seen is spelled like any other.
WORD_PATTERN = r"'(?:[sdmt]|ll|ve|re)\b| ?[\p{L}\p{M}]+['’]?| ?\p{N}| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"


# What `tokenizer.json` must say, beside how words are split: nothing else is done to text.
PIPELINE = {"truncation": None, "padding": None, "normalizer": None, "post_processor": None}

LONG_WORD = re.compile(r"\S{200}(?=\S)")


class SubwordTokenizer:
    """Text to token ids and back, exactly (up to Unicode normal form NFC).

    A word is the same token at the start of a text and inside it: a space is put before the text, and taken off again.
    Text that looks like a special token is text.
    """

    file_names: ClassVar[tuple[str, ...]] = (FILE_NAME,)
    pad_id, bos_id, eos_id = range(3)

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "SubwordTokenizer":
        """Learns merges from ``texts``; equal texts give an equal tokenizer.

        The vocabulary has at most ``vocab_size`` tokens; the 256 bytes and the special tokens are always in it.
        """
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator((in_short_words(_prepare(text)) for text in texts), trainer=trainer)
        return cls(_literal(tokenizer))

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return int(self.tokenizer.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """Token ids without special tokens."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts, in parallel threads."""
        prepared = [_prepare(text) for text in texts]
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(prepared, add_special_tokens=False)]

    def encode_targets(self, texts: Sequence[str]) -> list[list[int]]:
        """The same: both sides share the merges."""
        return self.encode_batch(texts)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; special tokens are left out, bytes that are no UTF-8 become U+FFFD."""
        return self.decode_batch([ids])[0]

    def decode_batch(self, batch: Sequence[Sequence[int]]) -> list[str]:
        """The texts of many rows of token ids."""
        texts: list[str] = self.tokenizer.decode_batch([list(ids) for ids in batch], skip_special_tokens=True)
        return [text.removeprefix(" ") for text in texts]

    def save(self, folder: Path) -> None:
        """Writes ``tokenizer.json``."""
        (folder / FILE_NAME).write_text(self.to_json(), encoding="utf-8")

    def to_json(self) -> str:
        """The whole tokenizer as text."""
        return str(self.tokenizer.to_str(pretty=True))

    @classmethod
    def from_json(cls, text: str) -> "SubwordTokenizer":
        """The inverse of `to_json`."""
        return cls(_literal(Tokenizer.from_str(text)))

    @classmethod
    def load(cls, folder: Path) -> "SubwordTokenizer":
        """Reads ``tokenizer.json``.

        Raises:
            ModelFolderError: it is missing, damaged, or does what ours does not.
        """
        path = folder / FILE_NAME
        try:
            text = path.read_text(encoding="utf-8")
            _check_file(text)
            return cls.from_json(text)
        except Exception as error:  # the library raises bare Exception
            raise ModelFolderError(f"{path}: cannot be read as a tokenizer ({error})") from None

    def digest(self) -> str:
        """A hash of the whole tokenizer."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def __reduce__(self) -> tuple[Callable[[str], "SubwordTokenizer"], tuple[str]]:
        # Not by the library's own pickling: it forgets the switch that `_literal` sets.
        return SubwordTokenizer.from_json, (self.to_json(),)


def _check_file(text: str) -> None:
    """That the native parser sees only what it wrote: other parts could take any time, any memory, or end the process.

    Raises:
        ValueError: a part is another, or the tokens are not numbered from 0 on without gaps.
    """
    try:
        content = json.loads(text)
        model, found = content["model"], {part: content[part] for part in PIPELINE}
        vocabulary, merges = model["vocab"], model["merges"]
        splitting = content["pre_tokenizer"]
        pattern = splitting["pretokenizers"][0]["pattern"] if splitting["type"] == "Sequence" else None
        special = [(token["id"], token["content"]) for token in content["added_tokens"]]
        if not all(type(id) is int for id in vocabulary.values()) or not all(
            isinstance(part, str) for merge in merges for part in merge
        ):
            raise ValueError("vocab and merges should be numbers and texts")
        is_ours = (
            found == PIPELINE
            and (model["type"], model["dropout"], content["decoder"]["type"]) == ("BPE", None, "ByteLevel")
            and [part["type"] for part in splitting["pretokenizers"]] == ["Split", "ByteLevel"]
            and pattern == {"Regex": WORD_PATTERN}
            and special == list(enumerate(SPECIAL_TOKENS))
        )
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError(f"not as it was written: {type(error).__name__} {error}") from None
    if not is_ours:
        raise ValueError("not that of a SubwordTokenizer")
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise ValueError("the tokens are not numbered from 0 on without gaps")


def is_subword(text: str) -> bool:
    """Whether a ``tokenizer.json`` is one that a `SubwordTokenizer` has written."""
    try:
        _check_file(text)
    except ValueError:
        return False
    return True


def _prepare(text: str) -> str:
    return " " + unicodedata.normalize("NFC", text)


def in_short_words(text: str) -> str:
    """Learning merges takes the square of a word's length: one line of a megabyte without a space would take hours."""
    return LONG_WORD.sub(r"\g<0> ", text)


def _literal(tokenizer: Tokenizer) -> Tokenizer:
    """Text like ``</s>`` in the input is text; this switch is not saved with a tokenizer."""
    tokenizer.encode_special_tokens = True
    return tokenizer
