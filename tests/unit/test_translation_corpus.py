"""From files to a tokenised corpus: what is rejected, what is set apart, what is cached."""

import gzip
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from transformer_architectures.datasets.text import translation_corpus
from transformer_architectures.datasets.text.parallel_text import ParallelTextConfig
from transformer_architectures.datasets.text.token_store import TokenStore, TokenStoreWriter, token_dtype
from transformer_architectures.datasets.text.translation_corpus import CorpusRecipe, prepare_corpus, row_counts
from transformer_architectures.errors import DataError
from transformer_architectures.tokenization import SubwordTokenizer

SPLITS = ("train", "validation", "test")
WORDS = "the house tree sees green small a in of and child bird water été là".split()


def sentences(count: int) -> list[str]:
    """Distinct sentences."""
    return [f"{' '.join(random.choices(WORDS, k=random.randint(2, 6)))} {number}" for number in range(count)]


def write_tsv(path: Path, pairs: list[tuple[str, str]]) -> ParallelTextConfig:
    path.write_text("".join(f"{left}\t{right}\n" for left, right in pairs), encoding="utf-8")
    return ParallelTextConfig(file=str(path))


def recipe(train: ParallelTextConfig, **changes: Any) -> CorpusRecipe:
    standard = CorpusRecipe(
        train=train, validation=None, test=None, source_language="en", target_language="fr", vocab_size=300, max_length=100,
        num_samples=None, validation_fraction=0.2, max_rejected_fraction=0.5,
    )  # fmt: skip
    return replace(standard, **changes)


def prepare(tmp_path: Path, recipe_: CorpusRecipe) -> tuple[Path, list[dict[str, Any]]]:
    """The folder, and what was rejected."""
    rejected = tmp_path / "rejected.jsonl"
    folder = prepare_corpus(recipe_, tmp_path / "cache", rejected, num_processes=1)
    lines = rejected.read_text(encoding="utf-8").splitlines()
    return folder, [json.loads(line) for line in lines]


def read_back(folder: Path, part: str) -> list[tuple[str, str]]:
    tokenizer = SubwordTokenizer.load(folder)
    sides = [TokenStore(folder, f"{part}.{side}", tokenizer.vocab_size) for side in ("source", "target")]
    texts = [tokenizer.decode_batch([side[row].tolist() for row in range(len(side))]) for side in sides]
    return list(zip(*texts, strict=True))


def corpora(cache_dir: Path) -> list[Path]:
    """Every folder of the cache, finished or not, but those of trained tokenizers."""
    return [path for path in cache_dir.iterdir() if path.is_dir() and not path.name.startswith("bpe-")]


def data_error(tmp_path: Path, recipe_: CorpusRecipe) -> str:
    with pytest.raises(DataError) as caught:
        prepare(tmp_path, recipe_)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def pairs(seed: int) -> list[tuple[str, str]]:
    return [(text, text.upper()) for text in sentences(60)]


# ---------------------------------------------------------------------------------------------------------------------
# What is kept
# ---------------------------------------------------------------------------------------------------------------------


def test_tokens_read_back_are_the_text(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    files = {part: write_tsv(tmp_path / f"{part}.tsv", pairs[start::3]) for start, part in enumerate(SPLITS)}
    folder, rejected = prepare(tmp_path, recipe(**files))
    assert not rejected
    for start, part in enumerate(SPLITS):
        assert read_back(folder, part) == pairs[start::3]
        if part != "train":
            lines = (folder / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
            assert [tuple(json.loads(line)) for line in lines] == pairs[start::3]


def test_a_part_that_is_not_given_is_empty(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    folder, _ = prepare(tmp_path, recipe(write_tsv(tmp_path / "a.tsv", pairs)))
    assert read_back(folder, "test") == [] and read_back(folder, "train") and read_back(folder, "validation")


def test_first_samples_only(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    lines = [("", "bad"), *pairs[:10], ("", "bad"), *pairs[10:20], ("", "after the last sample")]
    train, validation = write_tsv(tmp_path / "a.tsv", lines), write_tsv(tmp_path / "b.tsv", pairs[50:])
    folder, rejected = prepare(tmp_path, recipe(train, validation=validation, num_samples=20))
    assert read_back(folder, "train") == pairs[:20] and len(rejected) == 2
    assert read_back(folder, "validation") == pairs[50:]
    # With a part set apart, the samples are training pairs, not lines.
    folder, _ = prepare(tmp_path, recipe(write_tsv(tmp_path / "c.tsv", pairs), num_samples=20))
    assert len(read_back(folder, "train")) == 20


def test_the_tokenizer_knows_training_text_only(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    train = write_tsv(tmp_path / "a.tsv", [("aaaa bbbb", "cccc dddd")] * 20)
    held_out = write_tsv(tmp_path / "b.tsv", [("zzzz yyyy", "xxxx wwww")] * 20)
    folder, _ = prepare(tmp_path, recipe(train, validation=held_out, test=held_out))
    tokenizer = SubwordTokenizer.load(folder)
    assert len(tokenizer.encode("aaaa")) == len(tokenizer.encode("dddd")) == 1
    assert len(tokenizer.encode("zzzz")) == len(tokenizer.encode("wwww")) == 5
    # Set apart by hash: the tokenizer is the one of the rest alone.
    folder, _ = prepare(tmp_path, recipe(write_tsv(tmp_path / "c.tsv", pairs)))
    texts = [text for pair in read_back(folder, "train") for text in pair]
    assert SubwordTokenizer.load(folder).to_json() == SubwordTokenizer.train(texts, 300).to_json()


def test_few_samples_of_a_huge_file_are_all_seen_by_the_tokenizer(
    tmp_path: Path, pairs: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(translation_corpus, "TOKENIZER_PAIRS", 20)
    train = write_tsv(tmp_path / "a.tsv", [*pairs[:20], *[("filler " * 40, "filler " * 40)] * 200])
    validation = write_tsv(tmp_path / "b.tsv", pairs[50:])
    folder, _ = prepare(tmp_path, recipe(train, validation=validation, num_samples=20))
    texts = [text for pair in pairs[:20] for text in pair]
    assert SubwordTokenizer.load(folder).to_json() == SubwordTokenizer.train(texts, 300).to_json()


def test_a_given_tokenizer_is_used_as_it_is(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    tokenizer = SubwordTokenizer.train(["something else"], 280)
    train = write_tsv(tmp_path / "a.tsv", pairs)
    folder, _ = prepare(tmp_path, recipe(train, tokenizer=tokenizer))
    assert SubwordTokenizer.load(folder).to_json() == tokenizer.to_json()
    assert prepare(tmp_path, recipe(train))[0] != folder


# ---------------------------------------------------------------------------------------------------------------------
# What is rejected
# ---------------------------------------------------------------------------------------------------------------------


def test_rejected_rows_are_listed_with_file_line_and_reason(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    content = [f"{left}\t{right}".encode() for left, right in pairs]
    content[3:3] = [b"\tempty", b"one column", b"bad\t\xff", b"long " * 200 + b"\tshort"]
    file = tmp_path / "a.tsv.gz"
    file.write_bytes(gzip.compress(b"\n".join(content)))
    held_out = write_tsv(tmp_path / "b.tsv", pairs[:3])
    folder, rejected = prepare(tmp_path, recipe(ParallelTextConfig(file=str(file)), validation=held_out))
    assert read_back(folder, "train") == pairs
    assert sorted(rejected, key=lambda row: row["line"]) == [
        {"file": str(file), "line": 4, "reason": "empty source"},
        {"file": str(file), "line": 5, "reason": "1 columns instead of 2"},
        {"file": str(file), "line": 6, "reason": "not UTF-8"},
        {"file": str(file), "line": 7, "reason": "over the length limit of 100 tokens"},
    ]


def test_too_many_bad_rows_stop_with_counts_and_the_list(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    train = write_tsv(tmp_path / "a.tsv", [*pairs[:8], ("", "b"), ("", "b")])
    validation = write_tsv(tmp_path / "b.tsv", pairs[50:])
    message = data_error(tmp_path, recipe(train, validation=validation, max_rejected_fraction=0.19))
    for part in ("20.00%", "max_rejected_fraction", "19.00%", "2 × empty source", "rejected.jsonl"):
        assert part in message
    assert len((tmp_path / "rejected.jsonl").read_text().splitlines()) == 2
    assert not corpora(tmp_path / "cache")
    prepare(tmp_path, recipe(train, validation=validation, max_rejected_fraction=0.2))  # the limit itself is allowed


def test_nothing_to_train_on(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    validation = write_tsv(tmp_path / "b.tsv", pairs)
    for lines in ([], [("", "b")]):
        train = write_tsv(tmp_path / "a.tsv", lines)
        message = data_error(tmp_path, recipe(train, validation=validation, max_rejected_fraction=1.0))
        assert "no usable pair" in message


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_bad_row_of_a_scored_part_stops(tmp_path: Path, pairs: list[tuple[str, str]], part: str) -> None:
    train, bad = write_tsv(tmp_path / "a.tsv", pairs), write_tsv(tmp_path / "bad.tsv", [*pairs[:4], ("a", " ")])
    message = data_error(tmp_path, recipe(train, **{"validation": train, part: bad}))
    assert message.startswith(f"{tmp_path / 'bad.tsv'}:5: empty target") and part in message


def test_length_limits_hold_for_training_rows_only(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    tokenizer = SubwordTokenizer.train([], 259)  # bytes: lengths are known; a space stands before the text
    lines = [("x" * 9, "y" * 9), ("x" * 10, "y"), ("x", "y" * 10), ("x" * 500, "y")]
    file = write_tsv(tmp_path / "a.tsv", lines)
    folder, rejected = prepare(
        tmp_path,
        recipe(file, validation=file, test=file, max_length=10, tokenizer=tokenizer, max_rejected_fraction=1.0),
    )
    assert read_back(folder, "train") == lines[:1] and [row["line"] for row in rejected] == [2, 3, 4]
    assert read_back(folder, "validation") == read_back(folder, "test") == lines


def test_missing_files_and_damaged_archives(tmp_path: Path) -> None:
    assert "nowhere.tsv" in data_error(tmp_path, recipe(ParallelTextConfig(file=str(tmp_path / "nowhere.tsv"))))
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress(b"a\tb\n" * 1000)[:-9])
    assert str(path) in data_error(tmp_path, recipe(ParallelTextConfig(file=str(path))))


# ---------------------------------------------------------------------------------------------------------------------
# What is set apart
# ---------------------------------------------------------------------------------------------------------------------


def test_distinct_sources_are_set_apart_whole_and_in_any_order(tmp_path: Path, seed: int) -> None:
    sources = sentences(300)
    lines = [(source, f"{source} {copy}") for source in sources for copy in range(random.randint(1, 4))]
    sides = []
    for name in ("a.tsv", "b.tsv"):
        random.shuffle(lines)
        folder, _ = prepare(tmp_path, recipe(write_tsv(tmp_path / name, lines)))
        parts_of_source = defaultdict(set)
        for part in SPLITS:
            for source, _target in read_back(folder, part):
                parts_of_source[source].add(part)
        assert set(parts_of_source) == set(sources) and all(len(parts) == 1 for parts in parts_of_source.values())
        assert sum(len(read_back(folder, part)) for part in SPLITS) == len(lines)
        sides.append({source for source, parts in parts_of_source.items() if parts == {"validation"}})
    assert sides[0] == sides[1]
    assert 0.08 < len(sides[0]) / len(sources) < 0.35  # of the distinct sources: 0.2


def test_a_longer_file_moves_nothing_to_the_other_side(tmp_path: Path, seed: int) -> None:
    lines = [(text, "x") for text in sentences(200)]
    small, large = (
        set(read_back(prepare(tmp_path, recipe(write_tsv(tmp_path / f"{count}.tsv", lines[:count])))[0], "validation"))
        for count in (100, 200)
    )
    assert small == large & set(lines[:100])


# ---------------------------------------------------------------------------------------------------------------------
# The cache
# ---------------------------------------------------------------------------------------------------------------------


def test_the_second_time_nothing_is_tokenised(
    tmp_path: Path, pairs: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe(write_tsv(tmp_path / "a.tsv", [*pairs, ("", "bad")]))
    folder, rejected = prepare(tmp_path, made)

    def not_again(*_: Any) -> None:
        raise AssertionError("tokenised again")

    monkeypatch.setattr(translation_corpus, "tokenize_pairs", not_again)
    monkeypatch.setattr(SubwordTokenizer, "train", not_again)
    assert prepare(tmp_path, made) == (folder, rejected) and len(rejected) == 1


def test_content_and_settings_choose_the_folder(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    train = write_tsv(tmp_path / "a.tsv", pairs)
    standard = recipe(train)
    digests = {standard.digest()}
    changes: dict[str, Any] = {
        "validation": train, "test": train, "source_language": "de", "target_language": "de", "vocab_size": 301,
        "max_length": 99, "num_samples": 7, "validation_fraction": 0.3, "max_rejected_fraction": 0.4,
        "tokenizer": SubwordTokenizer.train(["a"], 270),
        "train": ParallelTextConfig(file=str(tmp_path / "a.tsv"), source_column=1, target_column=0),
    }  # fmt: skip
    for name, value in changes.items():
        digests.add(replace(standard, **{name: value}).digest())
    assert len(digests) == 1 + len(changes)
    assert recipe(train).digest() == standard.digest()
    write_tsv(tmp_path / "a.tsv", [*pairs[:-1], ("changed", "content")])
    assert recipe(train).digest() not in digests
    first, second = (prepare(tmp_path, recipe(write_tsv(tmp_path / "b.tsv", lines)))[0] for lines in (pairs, pairs[1:]))
    assert first != second and first.is_dir() and second.is_dir()


def _make(folder: Path, made: CorpusRecipe, seconds: float, report: Any) -> None:
    """In another process: makes a corpus slowly, and says that it did tokenise."""
    original = translation_corpus.tokenize_pairs

    def slowly(*arguments: Any) -> Any:
        report.put("tokenised")
        time.sleep(seconds)
        return original(*arguments)

    translation_corpus.tokenize_pairs = slowly
    result = prepare_corpus(made, folder / "cache", None, num_processes=1)
    report.put(str(result))


@pytest.mark.parametrize("killed", [False, True])
def test_two_processes_at_once_and_a_killed_one(tmp_path: Path, pairs: list[tuple[str, str]], killed: bool) -> None:
    context = multiprocessing.get_context("fork")
    made = recipe(write_tsv(tmp_path / "a.tsv", pairs))
    first_reports, second_reports = context.Queue(), context.Queue()
    first = context.Process(target=_make, args=(tmp_path, made, 60 if killed else 0.2, first_reports))
    second = context.Process(target=_make, args=(tmp_path, made, 0, second_reports))
    first.start()
    assert first_reports.get(timeout=30) == "tokenised"
    second.start()
    if killed:
        assert first.pid is not None
        assert not [path for path in corpora(tmp_path / "cache") if ".part." not in path.name]
        os.kill(first.pid, signal.SIGKILL)
        # The lock died with its holder: the next one makes the corpus, whole.
        assert second_reports.get(timeout=30) == "tokenised"
    folder = Path(
        next(report for report in iter(lambda: second_reports.get(timeout=30), None) if report != "tokenised")
    )
    for process in (first, second):
        process.join(30)
    if not killed:
        assert {first_reports.get(timeout=5) for _ in range(3)} == {"tokenised", str(folder)}
        assert second_reports.empty()  # it waited, and found what the first had made
    assert corpora(folder.parent) == [folder]
    train, validation = read_back(folder, "train"), read_back(folder, "validation")
    assert sorted(train + validation) == sorted(pairs)


def test_an_error_while_making_leaves_no_folder(
    tmp_path: Path, pairs: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe(write_tsv(tmp_path / "a.tsv", pairs))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

        def interrupted(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(translation_corpus, "tokenize_pairs", interrupted)
        prepare(tmp_path, made)
    assert not corpora(tmp_path / "cache")
    folder, _ = prepare(tmp_path, made)
    assert folder.is_dir()


# ---------------------------------------------------------------------------------------------------------------------
# Rows of tokens
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab_size", [300, 2**16, 2**16 + 1, 250_000])
def test_token_store(tmp_path: Path, seed: int, vocab_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.setattr(TokenStoreWriter, "ROWS_IN_MEMORY", 7)
    lengths = [random.randrange(6) for _ in range(50)]
    rows = [np.random.randint(vocab_size - 3, vocab_size, size=length).astype(np.int32) for length in lengths]
    writer = TokenStoreWriter(tmp_path, "x", vocab_size)
    for row in rows:
        writer.append(row)
    writer.close()
    store = TokenStore(tmp_path, "x", vocab_size)
    assert len(store) == 50 and store.lengths.tolist() == lengths
    for number, row in enumerate(rows):
        assert store[number].tolist() == row.tolist()
    assert (tmp_path / "x.bin").stat().st_size == sum(lengths) * (2 if vocab_size <= 2**16 else 4)
    assert np.iinfo(token_dtype(vocab_size)).max >= vocab_size - 1


def test_an_empty_token_store(tmp_path: Path) -> None:
    TokenStoreWriter(tmp_path, "x", 300).close()
    assert len(TokenStore(tmp_path, "x", 300)) == 0


def test_what_was_counted(tmp_path: Path) -> None:
    train = write_tsv(tmp_path / "train.tsv", [("a house", "x"), ("", "y"), ("a tree", ""), ("", "z")])
    dev = write_tsv(tmp_path / "dev.tsv", [("the sea", "y")])
    folder, rejected = prepare(tmp_path, recipe(train, validation=dev, max_rejected_fraction=1.0))
    counts = {"train": 1, "validation": 1, "test": 0, "rejected: empty source": 2, "rejected: empty target": 1}
    assert row_counts(folder) == counts and len(rejected) == 3


def test_a_line_without_a_space_is_no_endless_work(tmp_path: Path) -> None:
    """Learning merges would take the square of its length."""
    pairs = [(f"house {number}", "maison") for number in range(20)]
    train = write_tsv(tmp_path / "train.tsv", [*pairs, ("x" * 3_000_000, "y")])
    folder, rejected = prepare(tmp_path, recipe(train, validation=write_tsv(tmp_path / "dev.tsv", pairs)))
    assert row_counts(folder)["train"] == 20 and "length limit" in rejected[0]["reason"]


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    train = write_tsv(tmp_path / "train.tsv", [(f"house {number}", "maison") for number in range(20)])
    dead = tmp_path / "cache" / "of-another-recipe.part.abc"
    dead.mkdir(parents=True)
    prepare(tmp_path, recipe(train))
    assert not dead.exists()


def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    """Each process that it starts would import it, and start others in turn."""
    write_tsv(tmp_path / "train.tsv", [(f"house {number}", "maison") for number in range(30)])
    script = tmp_path / "script.py"
    script.write_text(f"""
from transformer_architectures.architectures.vanilla import TransformerDataModule, VanillaDataConfig
from transformer_architectures.tokenization import parallel
from transformer_architectures.datasets.text import pairs
parallel.ROWS_PER_CHUNK = 5
pairs.available_cores = lambda: 2
config = {{"train": {{"file": "{tmp_path}/train.tsv"}}, "cache_dir": "{tmp_path}/cache"}}
TransformerDataModule(VanillaDataConfig.model_validate(config), 300, seed=1, batch_tokens=100).setup()
print("set up")
""")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "set up\n"  # once
