"""Any tokenizer that a ``tokenizer.json`` of the `tokenizers` library describes, whatever its family.

What is done to text, and which special tokens surround it, is what the file says; which token is for padding, masks and so on
is said by ``tokenizer_config.json`` or ``special_tokens_map.json`` beside it.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from transformer_architectures.errors import ModelFolderError, UsageError
from transformer_architectures.tokenization.subword import in_short_words
from transformer_architectures.tokenization.wordpiece import EncodedText, EncodedWords, join_at_masks, with_every_word
from transformer_architectures.tokenization.wordpiece_files import read_json

FILE_NAME, CONFIG_FILE, OLDER_FILE = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")

# As RoBERTa's, in its order: the padding token has the number 1.
BPE_ROLES = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>", "cls": "<s>", "sep": "</s>"}

MODELS = ("BPE", "Unigram", "WordLevel", "WordPiece")
MAX_TOKENS = 2**24


class JsonTokenizer:
    """Text to token ids. Text that looks like a special token is text, but for masks in `encode_with_masks`.

    Args:
        text: the content of ``tokenizer.json``.
        roles: special tokens by what they are for; of `ROLES` those that there are.

    Raises:
        ModelFolderError: it describes no tokenizer, or a role has no token.
    """

    file_names: ClassVar[tuple[str, ...]] = (FILE_NAME, CONFIG_FILE)

    def __init__(self, text: str, roles: Mapping[str, str]) -> None:
        self.text, self.roles = text, {role: roles[role] for role in ROLES if role in roles}
        content = _checked(text)
        try:
            self.tokenizer = Tokenizer.from_str(text)
        except BaseException as error:  # the library raises bare Exception, and panics
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            raise ModelFolderError(f"{FILE_NAME} is no tokenizer ({' '.join(str(error).split())})") from None
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.tokenizer.encode_special_tokens = True  # text like `</s>` is text; this switch is not saved
        self.ids = {role: self.tokenizer.token_to_id(token) for role, token in self.roles.items()}
        if missing := [self.roles[role] for role, id in self.ids.items() if id is None]:
            raise ModelFolderError(f"{FILE_NAME} has no token {missing[0]}, which {CONFIG_FILE} names")
        self.special_ids = frozenset(self.ids.values())
        self.vocab_size: int = max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.continuation = content["model"].get("continuing_subword_prefix")
        self.is_byte_level = '"ByteLevel"' in json.dumps([content.get("pre_tokenizer"), content.get("decoder")])
        self.prefix_ids, self.suffix_ids = self._around()

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "JsonTokenizer":
        """Byte-level BPE as RoBERTa has it, learned from ``texts``; equal texts give an equal tokenizer.

        The vocabulary has at most ``vocab_size`` tokens; the 256 bytes and the special tokens are always in it.
        """
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        special = [
            AddedToken(token, special=True, lstrip=token == "<mask>") for token in dict.fromkeys(BPE_ROLES.values())
        ]
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(map(in_short_words, texts), trainer=trainer)
        # Special tokens have the first numbers.
        end, start = (("</s>", 2), ("<s>", 0))
        tokenizer.post_processor = processors.RobertaProcessing(end, start, add_prefix_space=True)
        return cls(tokenizer.to_str(pretty=True), BPE_ROLES)

    # ---------------------------------------------------------------- special tokens
    @property
    def pad_id(self) -> int:
        """What fills a batch where a text has ended."""
        return self._id_of("pad", "eos", "unk")

    @property
    def bos_id(self) -> int:
        """What a sequence begins with."""
        return self._id_of("bos", "cls", "pad")

    @property
    def eos_id(self) -> int:
        """What a sequence ends with."""
        return self._id_of("eos", "sep")

    @property
    def mask_id(self) -> int:
        """The token in the place of a masked one."""
        return self._id_of("mask")

    def _id_of(self, *roles: str) -> int:
        found = next((self.ids[role] for role in roles if role in self.ids), None)
        if found is None:
            raise UsageError(f"this tokenizer has no {roles[0]} token: {CONFIG_FILE} names none")
        return int(found)

    def _around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What the post-processor puts before and after a text."""
        text = self.tokenizer.encode("a", add_special_tokens=False)
        found = self.tokenizer.post_process(text)
        ids, count = found.ids, len(text.ids)
        start = next((i for i in range(len(ids) - count + 1) if ids[i : i + count] == text.ids), 0)
        return tuple(ids[:start]), tuple(ids[start + count :])

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
        encodings = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [EncodedText(found.ids, found.offsets) for found in encodings]

    def encode_with_masks(self, texts: Sequence[str]) -> list[EncodedText]:
        """As `encode_with_offsets`, but a literal mask token is a mask: for who wants it filled in."""
        added = self.tokenizer.get_added_tokens_decoder().get(self.mask_id)
        return join_at_masks(
            texts, self.roles["mask"], self.mask_id, self.encode_with_offsets, added is not None and added.lstrip
        )

    def encode_words(self, rows: Sequence[Sequence[str]]) -> list[EncodedWords]:
        """Token ids of texts that are split into words already; each has a space before it where spaces belong to tokens."""
        space = " " if self.is_byte_level else ""
        inputs = [[space + word.lstrip() if space else word for word in words] for words in rows]
        encodings = self.tokenizer.encode_batch(inputs, is_pretokenized=True, add_special_tokens=False)
        unknown = self._id_of("unk", "pad", "eos")
        return [with_every_word(found, len(words), unknown) for found, words in zip(encodings, rows, strict=True)]

    # ---------------------------------------------------------------- ids to text
    @cached_property
    def tokens(self) -> list[str]:
        """The vocabulary, as it is in the file."""
        return [self.tokenizer.id_to_token(id) or "" for id in range(self.vocab_size)]

    def continues_word(self) -> Bool[np.ndarray, "vocab"]:
        """Of each token id, whether it goes on with the word of the token before it."""
        return np.array([self.surface(token)[1] for token in self.tokens])

    def surface(self, token: str) -> tuple[str, bool]:
        """A token as text, without the space before it, and whether it goes on with the word before it."""
        if self.continuation:
            return token.removeprefix(self.continuation), token.startswith(self.continuation)
        text = self.tokenizer.decoder.decode([token]) if self.tokenizer.decoder is not None else token
        markers = "ĠĊĉč" if self.is_byte_level else "▁"
        return text.lstrip(" "), self._marks_words and token[:1] not in markers and token not in self.roles.values()

    @cached_property
    def _marks_words(self) -> bool:
        """Whether tokens begin with the space before them."""
        return self.is_byte_level or any(token[:1] == "▁" for token in self.tokens)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        return self.decode_batch([ids])[0]

    def decode_batch(self, batch: Sequence[Sequence[int]]) -> list[str]:
        """The texts of many rows of token ids."""
        rows = [[id for id in row if id not in self.special_ids] for row in batch]
        return [text.strip(" ") for text in self.tokenizer.decode_batch(rows, skip_special_tokens=False)]

    # ---------------------------------------------------------------- files
    def save(self, folder: Path) -> None:
        """Writes ``tokenizer.json`` as it was read, and the roles in ``tokenizer_config.json``; `transformers` reads them, too."""
        roles = {f"{role}_token": token for role, token in self.roles.items()}
        content = {"tokenizer_class": "PreTrainedTokenizerFast", **roles}
        (folder / FILE_NAME).write_text(self.text, encoding="utf-8")
        (folder / CONFIG_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "JsonTokenizer":
        """Reads a folder's ``tokenizer.json`` and the roles of its tokens.

        Raises:
            ModelFolderError: it is missing or damaged.
        """
        folder = path if path.is_dir() else path.parent
        try:
            text = (folder / FILE_NAME).read_bytes().decode("utf-8")
            found = [read_json(folder / name) for name in (OLDER_FILE, CONFIG_FILE) if (folder / name).is_file()]
            return cls(text, _roles(found))
        except (OSError, UnicodeDecodeError) as error:
            raise ModelFolderError(f"{folder}: {FILE_NAME} cannot be read ({error})") from None
        except ModelFolderError as error:
            raise ModelFolderError(f"{folder}: {error}") from None

    def digest(self) -> str:
        """A hash of the whole tokenizer."""
        return hashlib.sha256(json.dumps([self.text, self.roles]).encode()).hexdigest()

    def __reduce__(self) -> tuple[Callable[..., "JsonTokenizer"], tuple[Any, ...]]:
        return JsonTokenizer, (self.text, self.roles)


def _roles(files: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Special tokens by role; of the last file that names one."""
    roles: dict[str, str] = {}
    for content in files:
        for role in ROLES:
            token = content.get(f"{role}_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                roles[role] = token
    return roles


def _checked(text: str) -> dict[str, Any]:
    """The parsed file, so far as the native parser could lose itself in it.

    Raises:
        ModelFolderError: it is no tokenizer.
    """
    try:
        content = json.loads(text)
        model = content["model"]
        kind, vocabulary = model["type"], model["vocab"]
        ids = list(range(len(vocabulary))) if isinstance(vocabulary, list) else list(vocabulary.values())
        ids += [token["id"] for token in content.get("added_tokens") or []]
        is_tokenizer = kind in MODELS and not model.get("dropout")
        if not is_tokenizer or not all(type(id) is int and 0 <= id < MAX_TOKENS for id in ids):
            raise ValueError(f"its model is a {kind}, or its tokens are not numbered")
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ModelFolderError(f"{FILE_NAME} is no tokenizer ({type(error).__name__} {error})") from None
    return content
