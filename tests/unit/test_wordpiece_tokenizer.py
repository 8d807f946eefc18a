"""WordPiece: learned alike from the same text, every word has tokens, characters are found again, special tokens come from nowhere."""

import json
import pickle
import random
import subprocess
import sys
import unicodedata
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers

from transformer_architectures.errors import ModelFolderError
from transformer_architectures.tokenization import SubwordTokenizer, Tokenizer, WordPieceTokenizer, load_tokenizer
from transformer_architectures.tokenization.wordpiece_files import SPECIAL_TOKENS
from transformer_architectures.tokenization.wordpiece_training import count_words

CORPUS = [
    "The quick brown fox jumps over the lazy dog, 1234 times.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "L’été dernier, j'ai vu [MASK] et [SEP] — n'est-ce pas ?",
    "中文 和 日本語, the lazy foxes and the quick dogs jumping over times",
] * 3

lookalikes = st.lists(
    st.sampled_from([*SPECIAL_TOKENS, "[", "MASK", "]", " ", "\t", "\n", "\x00", "\u200b", "\u0301", "é", "é", "中", "##", "the", "x" * 101, "12", "İ", "ﬃ", "👩‍👩‍👧", "\ufeff"]),
    max_size=12,
).map("".join)  # fmt: skip
texts = st.one_of(st.text(), lookalikes, st.tuples(st.text(), lookalikes).map("".join))


@cache
def trained(vocab_size: int = 150) -> WordPieceTokenizer:
    return WordPieceTokenizer.train(CORPUS, vocab_size)


def test_it_is_what_training_needs() -> None:
    tokenizer = trained()
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.tokens[:5] == SPECIAL_TOKENS and tokenizer.vocab_size == len(tokenizer.tokens) == 150
    assert (tokenizer.pad_id, tokenizer.unknown_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id) == tuple(
        range(5)
    )
    assert (tokenizer.bos_id, tokenizer.eos_id) == (tokenizer.cls_id, tokenizer.sep_id)
    assert tokenizer.encode_targets(CORPUS) == tokenizer.encode_batch(CORPUS)


def test_words_are_cut_into_the_longest_pieces() -> None:
    tokens = [*SPECIAL_TOKENS, "un", "##aff", "##able", "a", "##a", "##ff", "unaff"]
    tokenizer = WordPieceTokenizer(tokens)
    ids = {token: id for id, token in enumerate(tokens)}
    assert tokenizer.encode("Unaffable") == [ids["unaff"], ids["##able"]]
    assert tokenizer.encode("unaffably a") == [tokenizer.unknown_id, ids["a"]]  # one for the whole word
    assert tokenizer.decode([2, ids["un"], ids["##able"], ids["a"], 3, 0]) == "unable a"
    assert tokenizer.continues_word().tolist() == [token.startswith("##") for token in tokens]
    assert tokenizer.continues_word().dtype == np.bool_
    assert tokenizer.encode_batch([]) == tokenizer.encode_words([]) == tokenizer.encode_with_masks([]) == []


@settings(deadline=None)
@given(texts)
@example("")
@example("e\u0301\u200bé İstanbul\x00")
def test_characters_are_found_again(text: str) -> None:
    """A token's characters are those that it was made of, each in at most one token."""
    tokenizer = trained()
    (found,) = tokenizer.encode_with_offsets([text])
    assert found.ids == tokenizer.encode(text) and len(found.ids) == len(found.offsets)
    end = 0
    for id, (left, right) in zip(found.ids, found.offsets):
        assert end <= left < right <= len(text)
        end = right
        if id != tokenizer.unknown_id:
            characters = unicodedata.normalize("NFD", text[left:right]).lower()
            kept = [c for c in unicodedata.normalize("NFD", characters) if unicodedata.category(c)[0] not in "MC"]
            assert "".join(kept).strip() == tokenizer.tokens[id].removeprefix("##")


@settings(deadline=None)
@given(texts)
def test_text_never_gives_a_special_token(text: str) -> None:
    assert not set(trained().encode(text)) & (trained().special_ids - {trained().unknown_id})


@settings(deadline=None)
@given(texts)
@example("[MASK]")
@example("a[MASK][MASK] b [MASK")
def test_masks_are_asked_for(text: str) -> None:
    tokenizer = trained()
    (found,) = tokenizer.encode_with_masks([text])
    places = [offset for id, offset in zip(found.ids, found.offsets) if id == tokenizer.mask_id]
    assert len(places) == text.count("[MASK]") and all(text[left:right] == "[MASK]" for left, right in places)
    pieces = text.split("[MASK]")
    expected = [tokenizer.encode(pieces[0])]
    expected += [[tokenizer.mask_id, *tokenizer.encode(piece)] for piece in pieces[1:]]
    assert found.ids == [id for row in expected for id in row]
    starts = [left for left, _ in found.offsets]
    assert starts == sorted(starts)


@settings(deadline=None)
@given(st.lists(st.lists(texts, max_size=5), max_size=4))
@example([["\u200b", "", "a", "\x00", "b"], []])
def test_every_word_has_its_tokens_in_order(rows: list[list[str]]) -> None:
    tokenizer = trained()
    for words, found in zip(rows, tokenizer.encode_words(rows), strict=True):
        assert sorted(set(found.word_ids)) == list(range(len(words))) and found.word_ids == sorted(found.word_ids)
        for index, word in enumerate(words):
            own = [id for id, number in zip(found.ids, found.word_ids) if number == index]
            assert own == (tokenizer.encode(word) or [tokenizer.unknown_id])


def test_learning_is_the_same_in_other_processes_and_in_another_order(seed: int) -> None:
    """The library's own trainer alone would not pass: its numbers change from process to process."""
    corpus = ["".join(random.choices("abcdefghij é,漢", k=80)) for _ in range(200)]
    expected = WordPieceTokenizer.train(corpus, 300).digest()
    code = f"""
from transformer_architectures.tokenization import WordPieceTokenizer
print(WordPieceTokenizer.train({corpus!r}, 300).digest())
"""
    for _ in range(3):
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == expected
    assert WordPieceTokenizer.train(iter(random.sample(corpus, len(corpus))), 300).digest() == expected


def test_the_vocabulary_has_the_size_that_was_asked_for(seed: int) -> None:
    # 500 letters, none of them Chinese: those have no form inside words.
    letters = "".join(chr(code) for code in range(0x1200, 0x1337)) + "".join(chr(code) for code in range(0x5D0, 0x5EB))
    corpus = ["".join(random.choices(letters, k=30)) for _ in range(500)] + CORPUS
    for vocab_size in (7, 50, 301, 1000, 3000):
        tokenizer = WordPieceTokenizer.train(corpus, vocab_size)
        assert tokenizer.tokens[:5] == SPECIAL_TOKENS and len(set(tokenizer.tokens)) == tokenizer.vocab_size
        assert tokenizer.vocab_size <= vocab_size
    assert WordPieceTokenizer.train([], 300).tokens == SPECIAL_TOKENS
    # Nothing is unknown where all letters fit, and long words are not learned from.
    whole = WordPieceTokenizer.train([*CORPUS, "y" * 101], 400)
    assert whole.unknown_id not in {id for row in whole.encode_batch(CORPUS) for id in row}
    assert "y" not in whole.tokens[5:] or "y" in "".join(CORPUS).lower()


def test_frequent_words_become_one_token_and_cases_may_differ() -> None:
    assert "the" in trained().tokens and len(trained().encode("the THE Thé")) == 3
    cased = WordPieceTokenizer.train(["The the Thé"] * 9, 100, lowercase=False)
    assert {"The", "the", "Thé"} <= set(cased.tokens)
    assert len({tuple(cased.encode(word)) for word in ("The", "the", "Thé", "tHE")}) == 4


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(texts, max_size=5))
@example(["a\x85b\u2028c\xa0d\u3000e", "a\tb\rc\nd \u0301 e", "中文 x"])
def test_words_are_counted_as_they_are_split(monkeypatch: pytest.MonkeyPatch, rows: list[str]) -> None:
    monkeypatch.setattr("transformer_architectures.tokenization.wordpiece_training.MAX_RAW_WORDS", 3)
    pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    for normalizer in (normalizers.BertNormalizer(), normalizers.BertNormalizer(lowercase=False)):
        expected = Counter(
            word
            for text in [*rows, *rows]
            for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))
            if len(word) <= 100
        )
        assert count_words([*rows, *rows], normalizer, max_word_length=100) == expected


def test_save_and_load(tmp_path: Path) -> None:
    tokenizer = WordPieceTokenizer(trained().tokens, lowercase=False, strip_accents=True, split_chinese=False)
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer.json").write_text("not read: no manifest lists it")
    for loaded in (
        load_tokenizer(tmp_path, ["vocab.txt", "tokenizer_config.json"]),
        WordPieceTokenizer.load(tmp_path),
        pickle.loads(pickle.dumps(tokenizer)),
    ):
        assert isinstance(loaded, WordPieceTokenizer) and loaded.settings == tokenizer.settings
        assert loaded.digest() == tokenizer.digest() and loaded.encode_batch(CORPUS) == tokenizer.encode_batch(CORPUS)
    digests = {trained().digest(), tokenizer.digest(), WordPieceTokenizer(tokenizer.tokens[:-1]).digest()}
    assert len(digests) == 3


def test_every_tokenizer_is_told_from_the_others(tmp_path: Path) -> None:
    SubwordTokenizer.train(CORPUS, 300).save(tmp_path)
    assert isinstance(load_tokenizer(tmp_path), SubwordTokenizer)
    with pytest.raises(ModelFolderError, match="vocab.txt, tokenizer_config.json"):
        load_tokenizer(tmp_path, [])


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("vocab.txt", None, "vocab.txt cannot be read"),
        ("vocab.txt", b"", r"lacks \[PAD\]"),
        ("vocab.txt", b"\xff", "vocab.txt is no UTF-8 text"),
        ("tokenizer_config.json", b"{", "tokenizer_config.json is no JSON"),
        ("tokenizer_config.json", b"[" * 10**5, "tokenizer_config.json is no JSON"),
        ("tokenizer_config.json", b'{"do_lower_case": 1}', "should be true or false"),
    ],
)
def test_a_missing_or_damaged_file_is_one_line(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    trained().save(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelFolderError, match=message) as caught:
        WordPieceTokenizer.load(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("id", [None, "1", [0], True])
def test_an_added_token_has_a_number(tmp_path: Path, id: object) -> None:
    whole = {
        "normalizer": {"type": "BertNormalizer"},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "vocab": {token: id for id, token in enumerate(SPECIAL_TOKENS)}},
        "added_tokens": [{"id": id, "content": "[PAD]", "special": True}],
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(ModelFolderError, match=r"the added token '\[PAD\]' has no number"):
        WordPieceTokenizer.read(tmp_path)
    whole["added_tokens"][0]["id"] = 0  # type: ignore[index]
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    assert WordPieceTokenizer.read(tmp_path).tokens == SPECIAL_TOKENS


def test_a_vocabulary_that_lines_cannot_hold_is_refused() -> None:
    for token in ("a\nb", "a\r", "a\ud800"):
        with pytest.raises(ModelFolderError, match="line break"):
            WordPieceTokenizer([*SPECIAL_TOKENS, token])
    with pytest.raises(ModelFolderError, match=r"lacks \[CLS\], \[SEP\]"):
        WordPieceTokenizer([token for token in SPECIAL_TOKENS if token not in ("[CLS]", "[SEP]")])
    # Of equal tokens the last one is found, as by transformers; the others keep their places.
    tokenizer = WordPieceTokenizer([*SPECIAL_TOKENS, "a", "b", "a"])
    assert tokenizer.encode("a b") == [7, 6] and tokenizer.vocab_size == 8
