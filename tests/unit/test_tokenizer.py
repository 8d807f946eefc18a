"""Subword tokens: any text comes back, special tokens are never made from text, training and saving lose nothing."""

import random
import subprocess
import sys
import time
import unicodedata
from functools import cache
from pathlib import Path

import psutil
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from transformer_architectures.errors import ModelFolderError
from transformer_architectures.tokenization import SubwordTokenizer
from transformer_architectures.tokenization.parallel import TextPair, tokenize_pairs
from transformer_architectures.tokenization.subword import SPECIAL_TOKENS

CORPUS = [
    "The quick brown fox jumps over the lazy dog, 1234 times.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "L’été dernier, j'ai vu <pad> et </s> — n'est-ce pas ?",
    "<s> <s> </s> </s> <pad> <pad>",
] * 3

words = st.text()
lookalikes = st.lists(
    st.sampled_from([*SPECIAL_TOKENS, "<s", ">", " ", "  ", "\t", "\n", "\r\n", "\x00", "\x7f", "\u0301", "👩‍👩‍👧", "é", "Ġ", "'", "12"]),
    max_size=12,
).map("".join)  # fmt: skip


@cache
def trained(vocab_size: int = 400) -> SubwordTokenizer:
    return SubwordTokenizer.train(CORPUS, vocab_size)


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


@settings(deadline=None)
@given(st.one_of(words, lookalikes, st.tuples(words, lookalikes, words).map("".join)))
@example("")
@example(" ")
@example("  two spaces  ")
@example("\u0301 starts with a combining mark")
@example("e\u0301")  # becomes one character
@example("\ufeffa\u2028b\x85\x1c")
@example("</s>")
@example("ĠĠ Ċ")  # the signs that stand for bytes inside the vocabulary
def test_any_text_comes_back(text: str) -> None:
    tokenizer = trained()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == nfc(text)
    assert all(len(SPECIAL_TOKENS) <= token < tokenizer.vocab_size for token in ids)


@settings(deadline=None)
@given(st.lists(st.one_of(words, lookalikes), max_size=6))
def test_a_batch_is_its_rows(texts: list[str]) -> None:
    tokenizer = trained()
    batch = tokenizer.encode_batch(texts)
    assert batch == [tokenizer.encode(text) for text in texts]
    assert tokenizer.decode_batch(batch) == [nfc(text) for text in texts]


@settings(deadline=None)
@given(st.one_of(words, lookalikes))
def test_special_tokens_are_left_out_of_the_text(text: str) -> None:
    tokenizer = trained()
    ids = tokenizer.encode(text)
    framed = [tokenizer.pad_id, tokenizer.bos_id, *ids, tokenizer.eos_id, tokenizer.pad_id]
    assert tokenizer.decode(framed) == nfc(text)


@settings(deadline=None)
@given(st.lists(st.integers(0, 300), max_size=20))
def test_any_ids_give_some_text(ids: list[int]) -> None:
    text = trained().decode(ids)
    assert text.encode("utf-8").decode("utf-8") == text


def test_ids_of_the_special_tokens() -> None:
    tokenizer = trained()
    assert [tokenizer.tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2]
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2)


def test_a_word_is_one_token_anywhere() -> None:
    tokenizer = SubwordTokenizer.train(["house"] * 50, 300)
    assert len(tokenizer.encode("house")) == 1
    assert tokenizer.encode("house house") == tokenizer.encode("house") * 2


def test_digits_stand_alone() -> None:
    tokenizer = SubwordTokenizer.train(["1984 1984 1984"] * 50, 400)
    assert len(tokenizer.encode("1984")) == 4


def test_equal_text_in_any_normal_form_is_equal_ids() -> None:
    text = "déjà été Ångström"
    assert trained().encode(unicodedata.normalize("NFD", text)) == trained().encode(text)


# ---------------------------------------------------------------------------------------------------------------------
# Training and files
# ---------------------------------------------------------------------------------------------------------------------


def test_vocabulary_size() -> None:
    assert trained(300).vocab_size == 300
    assert SubwordTokenizer.train(["ab ab"], 1000).vocab_size < 1000
    # All bytes and the special tokens are always there: nothing is ever unknown.
    smallest = SubwordTokenizer.train(["ab ab"], 10)
    assert smallest.vocab_size == 256 + len(SPECIAL_TOKENS)
    assert smallest.decode(smallest.encode("ab é")) == "ab é"
    assert SubwordTokenizer.train([], 300).decode([]) == ""


def test_training_is_deterministic(seed: int) -> None:
    texts = ["".join(random.choices("abcde é'1", k=40)) for _ in range(300)]
    first = SubwordTokenizer.train(texts, 500)
    assert SubwordTokenizer.train(iter(texts), 500).to_json() == first.to_json()
    # Order does not matter to counts either.
    assert SubwordTokenizer.train(random.sample(texts, len(texts)), 500).to_json() == first.to_json()


def test_training_is_the_same_in_another_process() -> None:
    code = f"""
import sys
from transformer_architectures.tokenization.subword import SubwordTokenizer
sys.stdout.buffer.write(SubwordTokenizer.train({CORPUS!r}, 400).to_json().encode())
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.decode()
    assert found == trained().to_json()


@settings(deadline=None)
@given(st.one_of(words, lookalikes))
def test_reading_back_gives_the_same_tokenizer(text: str) -> None:
    again = SubwordTokenizer.from_json(trained().to_json())
    assert again.encode(text) == trained().encode(text)


def test_save_and_load(tmp_path: Path) -> None:
    trained().save(tmp_path)
    loaded = SubwordTokenizer.load(tmp_path)
    assert loaded.to_json() == trained().to_json() and loaded.vocab_size == trained().vocab_size
    assert loaded.encode("</s> is text") == trained().encode("</s> is text")


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff", b"{}", b'{"model": 3}'])
def test_a_missing_or_damaged_file_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelFolderError, match="tokenizer.json") as caught:
        SubwordTokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_pairs_in_chunks_come_in_order(num_processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformer_architectures.tokenization.parallel.ROWS_PER_CHUNK", 4)
    pairs = [TextPair(f"pair {number}", "x" * number) for number in range(23)]
    found = list(tokenize_pairs(iter(pairs), trained(), num_processes))
    assert [TextPair(*trained().decode_batch([row.tolist() for row in pair])) for pair in found] == pairs


def test_workers_die_with_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "tokenise.py"
    script.write_text("""
import multiprocessing, sys, time
from transformer_architectures.tokenization import parallel
from transformer_architectures.tokenization.subword import SubwordTokenizer

if __name__ == "__main__":
    parallel.ROWS_PER_CHUNK = 1
    pairs = (parallel.TextPair("a", "b") for _ in range(100))
    rows = parallel.tokenize_pairs(pairs, SubwordTokenizer.train(["a"], 300), 2)
    next(rows)
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    time.sleep(60)
""")
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert parent.stdout is not None
        workers = [psutil.Process(int(word)) for word in parent.stdout.readline().split()]
        assert workers
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 10
    while (alive := [worker for worker in workers if is_running(worker)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    for worker in alive:
        worker.kill()
    assert not alive


def is_running(process: psutil.Process) -> bool:
    """Alive, not merely waiting for its new parent to notice that it ended."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
