"""The files of a WordPiece tokenizer, as `transformers` keeps them. Parsed in Python only; what BERT does not do is refused by name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from transformer_architectures.errors import ModelFolderError, reason_of

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUATION, MAX_WORD_LENGTH = "##", 100
VOCABULARY_FILE, SETTINGS_FILE = "vocab.txt", "tokenizer_config.json"
WHOLE_FILE, ADDED_FILE = "tokenizer.json", "added_tokens.json"

# Our settings by their names in `tokenizer_config.json`, and by those in the normalizer of `tokenizer.json`.
SETTINGS = {"do_lower_case": "lowercase", "strip_accents": "strip_accents", "tokenize_chinese_chars": "split_chinese"}
NORMALIZER = {"lowercase": "lowercase", "strip_accents": "strip_accents", "handle_chinese_chars": "split_chinese"}

# What `tokenizer.json` must say where it says anything: the rest of what BERT does to text.
PIPELINE: dict[str, dict[str, Any]] = {
    "normalizer": {"type": "BertNormalizer", "clean_text": True},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "model": {
        "type": "WordPiece",
        "unk_token": SPECIAL_TOKENS[1],
        "continuing_subword_prefix": CONTINUATION,
        "max_input_chars_per_word": MAX_WORD_LENGTH,
    },
}
# And `tokenizer_config.json`.
BASIC_TOKENIZER: dict[str, tuple[Any, ...]] = {"do_basic_tokenize": (True, None), "never_split": (None, [])}
ROLES = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL_TOKENS, strict=True))


class WordPieceFiles(NamedTuple):
    """The vocabulary, a token's id being its place, and the settings that files give, by our names."""

    tokens: list[str]
    settings: dict[str, bool | None]


def read_files(path: Path, with_added: bool = True) -> WordPieceFiles:
    """What is found in a folder, or in its ``tokenizer.json`` or ``vocab.txt``.

    ``tokenizer.json`` gives vocabulary and settings, ``vocab.txt`` (one token a line) only the vocabulary. Settings in a
    ``tokenizer_config.json`` beside it override the others, as in `transformers`.

    Args:
        with_added: look at ``added_tokens.json`` too, which a published folder may have and a model folder has not.

    Raises:
        ModelFolderError: there is none, or it is damaged, or does what BERT's does not.
    """
    if path.is_dir():
        path = path / (WHOLE_FILE if (path / WHOLE_FILE).is_file() else VOCABULARY_FILE)
    folder = path.parent
    if path.suffix == ".json":
        found = _from_whole_file(read_json(path))
    else:
        found = WordPieceFiles([line.removesuffix("\r") for line in _read_text(path).split("\n")], {})
        if found.tokens[-1] == "":
            del found.tokens[-1]
    if (folder / SETTINGS_FILE).is_file():
        found.settings.update(_from_config(read_json(folder / SETTINGS_FILE)))
    if (
        with_added
        and (folder / ADDED_FILE).is_file()
        and (added := read_json(folder / ADDED_FILE).keys() - set(SPECIAL_TOKENS))
    ):
        raise ModelFolderError(f"{ADDED_FILE} adds the token {min(added)!r}, which is no word piece")
    return found


def _from_whole_file(content: Mapping[str, Any]) -> WordPieceFiles:
    for part, expected in PIPELINE.items():
        found = content.get(part)
        if not isinstance(found, dict):
            raise ModelFolderError(f"{WHOLE_FILE} is not that of a BERT: it has no {part}")
        for key, value in expected.items():
            if found.get(key, value) != value:
                raise ModelFolderError(
                    f"{WHOLE_FILE} is not that of a BERT: {part} has {key} {found[key]}, not {value}"
                )
    vocabulary = content["model"].get("vocab")
    if not isinstance(vocabulary, dict) or not all(type(id) is int for id in vocabulary.values()):
        raise ModelFolderError(f"{WHOLE_FILE}: vocab should give each token its number")
    by_id = {id: token for token, id in vocabulary.items()}
    for token in _added_tokens(content.get("added_tokens"), WHOLE_FILE):
        if type(token.get("id")) is not int:
            raise ModelFolderError(f"{WHOLE_FILE}: the added token {token['content']!r} has no number")
        by_id[token["id"]] = token["content"]  # never made from text, so all that it has is its place
    if sorted(by_id) != list(range(len(by_id))):
        raise ModelFolderError(f"{WHOLE_FILE}: the tokens are not numbered from 0 on without gaps")
    tokens = [by_id[id] for id in range(len(by_id))]
    return WordPieceFiles(tokens, _settings(content["normalizer"], NORMALIZER, WHOLE_FILE))


def _from_config(config: Mapping[str, Any]) -> dict[str, bool | None]:
    for key, values in BASIC_TOKENIZER.items():
        if config.get(key, values[0]) not in values:
            raise ModelFolderError(f"{SETTINGS_FILE} is not that of a BERT: {key} is {config[key]}")
    for role, token in ROLES.items():
        found = config.get(role, token)
        if isinstance(found, dict):
            found = found.get("content")
        if found != token:
            raise ModelFolderError(f"{SETTINGS_FILE}: {role} is {found}, not {token}")
    decoder = config.get("added_tokens_decoder") or {}
    _added_tokens(list(decoder.values()) if isinstance(decoder, dict) else decoder, SETTINGS_FILE)
    return _settings(config, SETTINGS, SETTINGS_FILE)


def _added_tokens(added: Any, file_name: str) -> list[dict[str, Any]]:
    """Tokens that were registered beside the vocabulary; those that would be found in text are refused."""
    tokens = added or []
    if not isinstance(tokens, list) or not all(
        isinstance(token, dict) and isinstance(token.get("content"), str) for token in tokens
    ):
        raise ModelFolderError(f"{file_name}: the added tokens are damaged")
    for token in tokens:
        if not token.get("special"):
            raise ModelFolderError(f"{file_name} adds the token {token['content']!r}, which is no word piece")
    return tokens


def _settings(content: Mapping[str, Any], names: Mapping[str, str], file_name: str) -> dict[str, bool | None]:
    found = {ours: content[name] for name, ours in names.items() if name in content}
    for name, value in found.items():
        if not isinstance(value, bool) and not (name == "strip_accents" and value is None):
            raise ModelFolderError(f"{file_name}: {name} should be true or false, not {value!r}")
    return found


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(f"{path.name} is no JSON ({error})") from None
    if not isinstance(content, dict):
        raise ModelFolderError(f"{path.name} should be an object, not a {type(content).__name__}")
    return content


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ModelFolderError(f"{path.name} cannot be read ({reason_of(error)})") from None
    except UnicodeDecodeError:
        raise ModelFolderError(f"{path.name} is no UTF-8 text") from None
