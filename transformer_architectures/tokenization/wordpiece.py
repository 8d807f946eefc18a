"""WordPiece (Schuster & Nakajima 2012; Devlin et al. 2019) by the `tokenizers` library.

Text is cleaned of control characters, split at white space, around punctuation and around Chinese characters, and, where the
vocabulary is ``lowercase``, stripped of accents and capitals. A word is cut into the longest pieces of the vocabulary from the
left; pieces inside a word begin with ``##``. A word that cannot be cut so, or of more than 100 characters, is one ``[UNK]``.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool
from tokenizers import Encoding, Tokenizer, decoders, models, normalizers, pre_tokenizers

from transformer_architectures.errors import ModelFolderError
from transformer_architectures.tokenization.wordpiece_files import (
    CONTINUATION,
    MAX_WORD_LENGTH,
    SETTINGS,
    SETTINGS_FILE,
    SPECIAL_TOKENS,
    VOCABULARY_FILE,
    read_files,
)
from transformer_architectures.tokenization.wordpiece_training import learn_pieces

IN_NO_LINE = re.compile("[\n\r\ud800-\udfff]")  # of a text file; JSON can spell the halves of a surrogate pair

UNKNOWN, MASK = "[UNK]", "[MASK]"


class EncodedText(NamedTuple):
    """Token ids of a text, and the characters of it that each stands for: ``text[start:end]``."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class EncodedWords(NamedTuple):
    """Token ids of words, and the number of the word, from 0, that each belongs to. Every word has at least one token."""

    ids: list[int]
    word_ids: list[int]


class WordPieceTokenizer:
    """Text to token ids. Text that looks like a special token is text, but for masks in `encode_with_masks`.

    Args:
        tokens: the vocabulary; a token's id is its place. Of equal ones the last is found.
        strip_accents: as ``lowercase`` unless given. split_chinese: whether Chinese characters are words of their own.

    Raises:
        ModelFolderError: the vocabulary lacks a special token, or could not be saved as lines.
    """

    file_names: ClassVar[tuple[str, ...]] = (VOCABULARY_FILE, SETTINGS_FILE)

    def __init__(
        self,
        tokens: Sequence[str],
        lowercase: bool = True,
        strip_accents: bool | None = None,
        split_chinese: bool = True,
    ) -> None:
        self.tokens = tuple(tokens)
        self.lowercase, self.strip_accents, self.split_chinese = lowercase, strip_accents, split_chinese
        ids = {token: id for id, token in enumerate(self.tokens)}
        if missing := [token for token in SPECIAL_TOKENS if token not in ids]:
            raise ModelFolderError(f"the vocabulary lacks {', '.join(missing)}")
        if broken := [token for token in self.tokens if IN_NO_LINE.search(token)]:
            raise ModelFolderError(f"the token {broken[0]!r} of the vocabulary holds a line break, or half a character")
        self.pad_id, self.unknown_id, self.cls_id, self.sep_id, self.mask_id = (ids[token] for token in SPECIAL_TOKENS)
        self.special_ids = frozenset(ids[token] for token in SPECIAL_TOKENS)
        # No token is registered as special: the library would find it in text.
        self.tokenizer = Tokenizer(models.WordPiece(ids, unk_token=UNKNOWN, max_input_chars_per_word=MAX_WORD_LENGTH))
        self.tokenizer.normalizer = bert_normalizer(lowercase, strip_accents, split_chinese)
        self.tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self.tokenizer.decoder = decoders.WordPiece(prefix=CONTINUATION, cleanup=False)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, lowercase: bool = True) -> "WordPieceTokenizer":
        """Learns a vocabulary of at most ``vocab_size`` tokens from ``texts``; equal texts, in any order, give an equal one."""
        normalizer = bert_normalizer(lowercase, None, True)
        return cls(learn_pieces(texts, normalizer, vocab_size, SPECIAL_TOKENS, MAX_WORD_LENGTH), lowercase)

    # ---------------------------------------------------------------- sizes and special tokens
    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return len(self.tokens)

    @property
    def bos_id(self) -> int:
        """What a sequence begins with: ``[CLS]``."""
        return self.cls_id

    @property
    def eos_id(self) -> int:
        """What a sequence, or the first part of a pair, ends with: ``[SEP]``."""
        return self.sep_id

    def continues_word(self) -> Bool[np.ndarray, "vocab"]:
        """Of each token id, whether it goes on with the word of the token before it."""
        return np.array([token.startswith(CONTINUATION) for token in self.tokens])

    def surface(self, token: str) -> tuple[str, bool]:
        """A token as text, and whether it goes on with the word before it."""
        return token.removeprefix(CONTINUATION), token.startswith(CONTINUATION)

    # ---------------------------------------------------------------- text to ids
    def encode(self, text: str) -> list[int]:
        """Token ids without special tokens."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts, without special tokens, in parallel threads."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_targets(self, texts: Sequence[str]) -> list[list[int]]:
        """The same: there is one vocabulary."""
        return self.encode_batch(texts)

    def encode_with_offsets(self, texts: Sequence[str]) -> list[EncodedText]:
        """Token ids with the characters that they stand for."""
        return [EncodedText(found.ids, found.offsets) for found in self._encode(list(texts))]

    def encode_with_masks(self, texts: Sequence[str]) -> list[EncodedText]:
        """As `encode_with_offsets`, but a literal ``[MASK]`` is a mask: for who wants it filled in."""
        return join_at_masks(texts, MASK, self.mask_id, self.encode_with_offsets)

    def encode_words(self, rows: Sequence[Sequence[str]]) -> list[EncodedWords]:
        """Token ids of texts that are split into words already; a word of which nothing is left (of zero width, say) is ``[UNK]``."""
        return [
            with_every_word(found, len(words), self.unknown_id)
            for found, words in zip(self._encode([list(words) for words in rows], True), rows, strict=True)
        ]

    # ---------------------------------------------------------------- ids to text
    def decode(self, ids: Sequence[int]) -> str:
        """The words of token ids, special tokens left out; what the encoding did to a text is not undone."""
        return self.decode_batch([ids])[0]

    def decode_batch(self, batch: Sequence[Sequence[int]]) -> list[str]:
        """The texts of many rows of token ids."""
        rows = [[id for id in row if id not in self.special_ids] for row in batch]
        return self.tokenizer.decode_batch(rows, skip_special_tokens=False)

    # ---------------------------------------------------------------- files
    @property
    def settings(self) -> dict[str, Any]:
        """What the token ids depend on beside the vocabulary, under the names of `transformers`."""
        settings = {name: getattr(self, ours) for name, ours in SETTINGS.items()}
        return {"tokenizer_class": "BertTokenizer", **settings}

    def save(self, folder: Path) -> None:
        """Writes ``vocab.txt`` and ``tokenizer_config.json``; `transformers` reads them, too."""
        (folder / VOCABULARY_FILE).write_bytes("".join(f"{token}\n" for token in self.tokens).encode())
        (folder / SETTINGS_FILE).write_text(json.dumps(self.settings, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "WordPieceTokenizer":
        """Reads what `save` wrote: these two files and no other.

        Raises:
            ModelFolderError: it is missing or damaged.
        """
        return cls._read(folder / VOCABULARY_FILE, with_added=False)

    @classmethod
    def read(cls, path: Path) -> "WordPieceTokenizer":
        """The tokenizer of a published folder, or of its ``tokenizer.json`` or ``vocab.txt``: see `read_files`.

        What no file says is as in BERT: lower case, no accents, Chinese characters apart.

        Raises:
            ModelFolderError: there is none, or it is damaged, or does what BERT's does not.
        """
        return cls._read(path, with_added=True)

    @classmethod
    def _read(cls, path: Path, with_added: bool) -> "WordPieceTokenizer":
        try:
            tokens, settings = read_files(path, with_added)
            return cls(tokens, **settings)  # type: ignore[arg-type]
        except ModelFolderError as error:
            raise ModelFolderError(f"{path}: {error}") from None

    def digest(self) -> str:
        """A hash of vocabulary and settings."""
        return hashlib.sha256(json.dumps([self.tokens, self.settings]).encode()).hexdigest()

    def __reduce__(self) -> tuple[type["WordPieceTokenizer"], tuple[Any, ...]]:
        return type(self), (self.tokens, self.lowercase, self.strip_accents, self.split_chinese)

    # ---------------------------------------------------------------- parts of the above
    def _encode(self, inputs: list[Any], is_pretokenized: bool = False) -> list[Encoding]:
        return self.tokenizer.encode_batch(inputs, is_pretokenized=is_pretokenized, add_special_tokens=False)


def join_at_masks(
    texts: Sequence[str],
    mask: str,
    mask_id: int,
    encode: Callable[[Sequence[str]], list[EncodedText]],
    takes_spaces: bool = False,
) -> list[EncodedText]:
    """Token ids with offsets of texts in which each literal ``mask`` is a mask.

    Args:
        takes_spaces: the mask stands for the spaces before it, too.
    """
    pieces = [text.split(mask) for text in texts]
    if takes_spaces:
        pieces = [[*(piece.rstrip(" ") for piece in row[:-1]), row[-1]] for row in pieces]
    encoded = iter(encode([piece for row in pieces for piece in row]))
    joined = []
    for text, row in zip(texts, pieces, strict=True):
        first = next(encoded)
        ids, offsets, end = list(first.ids), list(first.offsets), 0
        for _ in row[1:]:
            piece, start = next(encoded), text.index(mask, end)
            end = start + len(mask)
            ids += [mask_id, *piece.ids]
            offsets += [(start, end), *((end + left, end + right) for left, right in piece.offsets)]
        joined.append(EncodedText(ids, offsets))
    return joined


def with_every_word(found: Encoding, num_words: int, unknown_id: int) -> EncodedWords:
    """The tokens of a row of words; a word of which nothing is left is unknown."""
    ids, word_ids = list(found.ids), [word for word in found.word_ids if word is not None]
    if vanished := set(range(num_words)) - set(word_ids):
        pairs = [*zip(word_ids, ids, strict=True), *((word, unknown_id) for word in vanished)]
        pairs.sort(key=itemgetter(0))  # tokens of a word keep their order
        word_ids, ids = [word for word, _ in pairs], [id for _, id in pairs]
    return EncodedWords(ids, word_ids)


def bert_normalizer(lowercase: bool, strip_accents: bool | None, split_chinese: bool) -> normalizers.BertNormalizer:
    """What is done to text before it is split."""
    return normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=split_chinese, strip_accents=strip_accents, lowercase=lowercase
    )
