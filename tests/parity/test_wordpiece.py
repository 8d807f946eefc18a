"""WordPiece: the tokens of `transformers`, on text that is hard to cut, with a real vocabulary; and files both ways."""

import json
import random
import shutil
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minilm import minilm_folder
from transformers import BertTokenizer
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from transformer_architectures.errors import ModelFolderError
from transformer_architectures.tokenization import WordPieceTokenizer

HARD = [
    "",
    " \t\n\r ",
    # Chinese, Japanese, Korean
    "中文字符 mixed with 英文words，標點。", "㐀𠀀丽 \uf900 rare", "日本語のテキストとカタカナ", "한국어 텍스트 한국어", "한글 자모 \u1112\u1161\u11ab",
    # accents, composed and not, and too many of them
    "é è ñ ü ç Å ﬁ ß ẞ Æ ø", "e\u0301 e\u0300 n\u0303 u\u0308", "Z\u0351\u036b\u0343\u036a\u0302a\u0310\u0326l\u034ego", "\u0301 alone", "İstanbul ıI DŽ ǅ",
    *(unicodedata.normalize(form, "Ångström Ωμέγα ½ ﬃ ㌔ Ⅷ ② ½kg e̋") for form in ("NFC", "NFD", "NFKC", "NFKD")),
    # emoji
    "👩‍👩‍👧‍👦", "👍🏽 ok 🇫🇷🇩🇪", "a😀b", "❤️ vs ❤", "1️⃣2️⃣",
    # control characters, spaces, zero width
    "a\x00b\x07c\x1b[0m", "a\u200bb\u200cc\u200dd\u2060e\ufefff", "\ufffd replaced \ufffd", "no\u00a0break\u2003em\u3000wide\u1680ogham", "line\u2028para\u2029next\x85", "soft\u00adhyphen", "\ue000 private \U000f0000", "tag\U000e0041",
    # right to left
    "שלום עולם", "שָׁלוֹם", "مرحبا بالعالم", "العَرَبِيَّة ﷺ ١٢٣", "\u202eabc\u202c \u200fx\u200e",
    # long
    "x" * 99, "x" * 100, "x" * 101, "ab" * 5000, "é" * 100, "e\u0301" * 60, "-" * 150, "中" * 120,
    # numbers and signs
    "1234567890 3.14159 1,000,000 0x1F 1e-10 ²³¼", "$100 €50 £20 ¥30 ₹5", "C++ C# a_b a/b a\\b `x` ^ ~ | <b> {x} [y]", "don't “quotes” ‘single’ — – … ‹›", "¿Qué? ¡Sí!", "https://a.b/c?d=e#f me@x.org", "∀x∈ℝ: x²≥0 → ∑ ∞",
    # other writings
    "Привет, мир! Ёлка", "ΑΒΓ αβγ ἄνθρωπος", "हिन्दी में पाठ", "ไทยไม่มีวรรค", "ქართული", "አማርኛ", "தமிழ்", "𝕳𝖊𝖑𝖑𝖔 𝟙𝟚𝟛", "ᏣᎳᎩ", "ʻokina ʼ",
    # special tokens and their like
    "[MASK] [CLS] [SEP] [PAD] [UNK]", "[mask]", "[ MASK ]", "##ing ## #", "[unused0] [unused99]", "x[MASK]y[SEP]",
]  # fmt: skip

texts = st.one_of(
    st.text(),
    st.lists(st.sampled_from([*HARD, *"aéA中 \u200b\u0301#[]", "[MASK]", "##", "the", "ing"]), max_size=8).map("".join),
)


@cache
def pair(**changes: Any) -> tuple[WordPieceTokenizer, BertTokenizer]:
    """The vocabulary of MiniLM, read by us and by them; ``changes`` of its settings."""
    ours = WordPieceTokenizer(WordPieceTokenizer.read(minilm_folder()).tokens, **changes)
    names = {
        "lowercase": "do_lower_case",
        "strip_accents": "strip_accents",
        "split_chinese": "tokenize_chinese_chars",
    }
    theirs = BertTokenizer.from_pretrained(
        minilm_folder(), split_special_tokens=True, **{names[name]: value for name, value in changes.items()}
    )
    theirs.backend_tokenizer.no_truncation()
    return ours, theirs


def their_ids(theirs: BertTokenizer, text: str, **options: Any) -> list[int]:
    ids: list[int] = theirs(text, add_special_tokens=False, padding=False, truncation=False, **options).input_ids
    return ids


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lowercase": False},
        {"lowercase": False, "strip_accents": True},
        {"lowercase": True, "strip_accents": False},
        {"split_chinese": False},
    ],
    ids=str,
)
def test_tokens_of_hard_text_are_theirs(changes: dict[str, Any]) -> None:
    ours, theirs = pair(**changes)
    assert ours.encode_batch(HARD) == [their_ids(theirs, text) for text in HARD]


@settings(deadline=None)
@given(texts)
def test_tokens_offsets_and_words_of_any_text_are_theirs(text: str) -> None:
    ours, theirs = pair()
    (found,) = ours.encode_with_offsets([text])
    expected = theirs(text, add_special_tokens=False, padding=False, truncation=False, return_offsets_mapping=True)
    assert ours.encode(text) == found.ids == expected.input_ids
    assert found.offsets == [tuple(offset) for offset in expected.offset_mapping]
    words = text.split(" ")
    (row,) = ours.encode_words([words])
    expected = theirs(words, is_split_into_words=True, add_special_tokens=False, padding=False, truncation=False)
    they_keep = set(expected.word_ids())
    kept = [(word, id) for word, id in zip(row.word_ids, row.ids) if word in they_keep]
    assert kept == list(zip(expected.word_ids(), expected.input_ids))
    # They lose words of which cleaning leaves nothing; here every word has a token.
    assert [(word, ours.unknown_id) for word in range(len(words)) if word not in they_keep] == [
        (word, id) for word, id in zip(row.word_ids, row.ids) if word not in they_keep
    ]
    assert row.word_ids == sorted(row.word_ids)


def test_tokens_are_those_of_the_slow_tokenizer_in_python() -> None:
    """An independent implementation; it differs in the small letter that a final Sigma becomes, and in what it cleans."""
    ours, slow = pair()[0], BertTokenizerLegacy.from_pretrained(minilm_folder())
    compared = [text for text in HARD if "Σ" not in text and "[" not in text]
    differing = [text for text in compared if ours.encode(text) != slow.encode(text, add_special_tokens=False)]
    assert not differing


@settings(deadline=None)
@given(texts)
def test_masks_are_where_they_find_them(text: str) -> None:
    """They find all special tokens, so the others are taken out of the text."""
    for token in ("[CLS]", "[SEP]", "[PAD]", "[UNK]"):
        text = text.replace(token, "")
    ours, theirs = pair()
    (found,) = ours.encode_with_masks([text])
    expected = theirs(
        text,
        add_special_tokens=False,
        padding=False,
        truncation=False,
        split_special_tokens=False,
        return_offsets_mapping=True,
    )
    assert found.ids == expected.input_ids
    assert found.offsets == [tuple(offset) for offset in expected.offset_mapping]
    assert found.ids.count(ours.mask_id) == text.count("[MASK]")


def test_they_read_what_we_save(seed: int, tmp_path: Path) -> None:
    options = {"lowercase": random.random() < 0.5, "strip_accents": random.choice([None, True, False]), "split_chinese": random.random() < 0.5}  # fmt: skip
    trained = WordPieceTokenizer.train(HARD, 500, lowercase=bool(options["lowercase"]))
    ours = WordPieceTokenizer(trained.tokens, **options)
    ours.save(tmp_path)
    theirs = BertTokenizer.from_pretrained(tmp_path, split_special_tokens=True)
    assert ours.encode_batch(HARD) == [their_ids(theirs, text) for text in HARD]
    assert (theirs.pad_token_id, theirs.mask_token_id) == (ours.pad_id, ours.mask_id)
    theirs.save_pretrained(tmp_path / "theirs")
    assert WordPieceTokenizer.read(tmp_path / "theirs").digest() == ours.digest()


def published(folder: Path, whole: Any = None, config: Any = None, vocabulary: bool = False) -> Path:
    """Some of MiniLM's tokenizer's files; ``whole`` changes the content of ``tokenizer.json``."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if whole is not None:
        content = json.loads((minilm_folder() / "tokenizer.json").read_text())
        whole(content)
        (folder / "tokenizer.json").write_text(json.dumps(content))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if vocabulary:
        shutil.copy(minilm_folder() / "vocab.txt", folder)
    return folder


def test_any_of_the_published_files_is_enough(tmp_path: Path) -> None:
    expected = pair()[0].digest()
    folder = tmp_path / "published"

    def same(content: dict[str, Any]) -> None:
        pass

    assert WordPieceTokenizer.read(published(folder, vocabulary=True)).digest() == expected
    assert WordPieceTokenizer.read(published(folder, same)).digest() == expected
    assert WordPieceTokenizer.read(published(folder, same) / "tokenizer.json").digest() == expected
    assert WordPieceTokenizer.read(published(folder, same, vocabulary=True) / "vocab.txt").digest() == expected
    lines = (minilm_folder() / "vocab.txt").read_bytes().replace(b"\n", b"\r\n")
    (published(folder) / "vocab.txt").write_bytes(lines)
    assert WordPieceTokenizer.read(folder).digest() == expected


def test_settings_are_found_where_they_find_them(tmp_path: Path) -> None:
    def cased(content: dict[str, Any]) -> None:
        content["normalizer"].update(lowercase=False, strip_accents=False)

    def checked(whole: Any, config: Any, vocabulary: bool = False) -> WordPieceTokenizer:
        folder = published(tmp_path / "published", whole, config, vocabulary)
        ours, theirs = WordPieceTokenizer.read(folder), BertTokenizer.from_pretrained(folder, split_special_tokens=True)
        theirs.backend_tokenizer.no_truncation()
        assert ours.encode_batch(HARD) == [their_ids(theirs, text) for text in HARD]
        return ours

    assert checked(None, None, vocabulary=True).lowercase
    assert not checked(None, {"do_lower_case": False}, vocabulary=True).lowercase
    assert checked(None, {"strip_accents": False}, vocabulary=True).strip_accents is False
    assert not checked(None, {"tokenize_chinese_chars": False}, vocabulary=True).split_chinese
    assert checked(cased, {"do_lower_case": True, "strip_accents": None}).lowercase  # against the other file
    # Where only tokenizer.json says it, it counts here; `transformers` 5 forgets it.
    assert not WordPieceTokenizer.read(published(tmp_path / "published", cased)).lowercase


def test_what_is_not_bert_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "published"

    def refused(message: str, **arguments: Any) -> None:
        with pytest.raises(ModelFolderError, match=message) as error:
            WordPieceTokenizer.read(published(folder, **arguments))
        assert "\n" not in str(error.value) and str(folder) in str(error.value)

    def whole(part: str, **values: Any) -> Any:
        return lambda content: content[part].update(values)

    refused("vocab.txt cannot be read")
    refused("normalizer has type Lowercase", whole=whole("normalizer", type="Lowercase"))
    refused("clean_text False", whole=whole("normalizer", clean_text=False))
    refused("lowercase should be true or false, not 1", whole=whole("normalizer", lowercase=1))
    refused("has no pre_tokenizer", whole=lambda content: content.update(pre_tokenizer=None))
    refused("pre_tokenizer has type Whitespace", whole=whole("pre_tokenizer", type="Whitespace"))
    refused("model has type BPE", whole=whole("model", type="BPE"))
    refused("continuing_subword_prefix ▁", whole=whole("model", continuing_subword_prefix="▁"))
    refused("max_input_chars_per_word 200", whole=whole("model", max_input_chars_per_word=200))
    refused("vocab should give", whole=whole("model", vocab=["a"]))
    refused("without gaps", whole=lambda content: content["model"]["vocab"].pop("the"))
    refused(r"lacks \[PAD\]", whole=lambda content: content.update(added_tokens=[], model={"vocab": {"a": 0}}))
    new = {"id": 30522, "content": "covid", "special": False}
    refused("adds the token 'covid'", whole=lambda content: content["added_tokens"].append(new))
    refused("added tokens are damaged", whole=lambda content: content["added_tokens"].append("covid"))
    for config, message in (
        ({"do_lower_case": "yes"}, "lowercase should be"),
        ({"mask_token": "<mask>"}, "mask_token is <mask>"),
        ({"mask_token": {"content": "<mask>"}}, "mask_token is <mask>"),
        ({"do_basic_tokenize": False}, "do_basic_tokenize is False"),
        ({"never_split": ["a"]}, "never_split"),
        ({"added_tokens_decoder": {"30522": new}}, "adds the token 'covid'"),
        ([], "should be an object"),
    ):
        refused(message, config=config, vocabulary=True)
    (published(folder) / "vocab.txt").write_bytes(b"\xff")
    with pytest.raises(ModelFolderError, match="no UTF-8"):
        WordPieceTokenizer.read(folder)

    # A special token beside the vocabulary is never made from text: it takes its place, no more.
    end = {"id": 30522, "content": "[END]", "special": True}
    tokenizer = WordPieceTokenizer.read(published(folder, lambda content: content["added_tokens"].append(end)))
    assert tokenizer.vocab_size == 30523 and 30522 not in tokenizer.encode("the [END]")
