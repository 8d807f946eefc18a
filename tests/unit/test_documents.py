"""Text to pre-train on: documents of sentences from files and the Bible, what is rejected and set apart, and the store on disk."""

import gzip
import json
import time
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from transformer_architectures.datasets.rejections import Rejection, RejectionLog
from transformer_architectures.datasets.text import document_corpus
from transformer_architectures.datasets.text.bible import split_of_chapter, verses
from transformer_architectures.datasets.text.document_corpus import (
    DocumentsRecipe,
    document_counts,
    joined,
    prepare_documents,
    validation_stretch,
)
from transformer_architectures.datasets.text.document_store import DocumentStore, DocumentStoreWriter
from transformer_architectures.datasets.text.documents import (
    Document,
    DocumentsConfig,
    ExactDocumentsConfig,
    read_documents,
)
from transformer_architectures.datasets.text.sentences import split_sentences
from transformer_architectures.errors import DataError
from transformer_architectures.tokenization import SubwordTokenizer, load_tokenizer
from transformer_architectures.tokenization.parallel import tokenize_texts


def write(path: Path, content: bytes) -> str:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def read(part: Any = "train", **config: Any) -> list[Document | Rejection]:
    return list(read_documents(DocumentsConfig.model_validate(config), part))


# ---------------------------------------------------------------------------------------------------------------------
# Sentences
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two!  Three?", ["One.", "Two!", "Three?"]),
        ('He said, "Go!" Then he went.', ['He said, "Go!"', "Then he went."]),
        ("It is, e.g. this, and 3.5 metres", ["It is, e.g. this, and 3.5 metres"]),
        ("Wait... what? “Yes.” 42 is it…  Été", ["Wait... what?", "“Yes.”", "42 is it…", "Été"]),
        ("第一句。第二句！「三。」四", ["第一句。", "第二句！", "「三。」", "四"]),
        ("no mark at all", ["no mark at all"]),
        (" \t\u00a0", []),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@settings(deadline=None)
@given(st.text(st.sampled_from("aB.!? \"'é。」\u3000\n\u200b"), max_size=40))
def test_cutting_into_sentences_loses_white_space_at_most(text: str) -> None:
    sentences = split_sentences(text)
    assert "".join("".join(sentences).split()) == "".join(text.split())
    assert all(sentence and sentence == sentence.strip() for sentence in sentences)


@pytest.mark.parametrize("text", [".", "。", ". ", "a. ", '."', "。」", "." + "'" * 9, " "])
def test_long_rows_of_marks_take_no_square_of_time(text: str) -> None:
    long_text = text * (400_000 // len(text)) + "x"
    begun = time.process_time()
    split_sentences(long_text)
    assert time.process_time() - begun < 5  # the square would be hours


# ---------------------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_blocks_and_lines(tmp_path: Path, gz: str) -> None:
    content = "\ufeff\n\nOne. Two.\r\nThree\n \t\u00a0\n\nFour\n\n\n".encode()
    file = write(tmp_path / f"a.txt{gz}", content)
    assert read(files=[file]) == [
        Document(file, 3, ("One.", "Two.", "Three"), 2),
        Document(file, 7, ("Four",), 1),
    ]
    assert read(files=[file], document="line") == [
        Document(file, 3, ("One.", "Two."), 1),
        Document(file, 4, ("Three",), 1),
        Document(file, 7, ("Four",), 1),
    ]


def test_several_files_in_order_and_stars_sorted(tmp_path: Path) -> None:
    names = [write(tmp_path / name, name.encode()) for name in ("b.txt", "c.txt.gz", "a.txt")]
    found = read(files=[names[0], str(tmp_path / "*.txt")])
    assert [row.sentences for row in found if isinstance(row, Document)] == [("b.txt",), ("a.txt",), ("b.txt",)]
    config = DocumentsConfig(files=[str(tmp_path / "*.gz"), names[2]])
    assert [path.name for path in config.paths()] == ["c.txt.gz", "a.txt"]
    with pytest.raises(DataError, match="no such file"):
        read(files=[str(tmp_path / "*.xml")])
    with pytest.raises(DataError, match="missing"):
        read(files=[str(tmp_path / "missing.txt")])


def test_a_document_does_not_go_on_in_the_next_file(tmp_path: Path) -> None:
    files = [write(tmp_path / name, b"text") for name in ("a.txt", "b.txt")]
    assert len(read(files=files)) == 2


def test_a_bad_line_is_named_and_ends_the_document(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", b"one\ntwo\n\xff\xfe bad\nthree\n\n\xff\n")
    assert read(files=[file]) == [
        Document(file, 1, ("one", "two"), 2),
        Rejection(file, 3, "not UTF-8"),
        Document(file, 4, ("three",), 1),
        Rejection(file, 6, "not UTF-8"),
    ]


def test_text_is_normalised(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "e\u0301te\u0301 \u1100\u1161".encode())
    [document] = read(files=[file])
    assert isinstance(document, Document) and document.sentences == ("été \uac00",)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(["", " ", "One. Two", "three", "Four. ", "\u2028"]), max_size=12))
def test_documents_against_a_plain_reading(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    file = write(tmp_path_factory.mktemp("documents") / "a.txt", "\n".join(lines).encode())
    blocks: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            blocks[-1] += split_sentences(line)
        else:
            blocks.append([])
    assert [list(row.sentences) for row in read(files=[file]) if isinstance(row, Document)] == [b for b in blocks if b]
    by_line = read(files=[file], document="line")
    assert [row.line for row in by_line] == [number for number, line in enumerate(lines, start=1) if line.strip()]


@pytest.mark.parametrize(
    "config",
    [
        {}, {"files": []}, {"bible": []}, {"files": ["a"], "bible": ["web"]}, {"bible": ["web", "web"]}, {"bible": ["niv"]},
        {"bible": ["web"], "document": "line"}, {"files": ["a"], "document": "page"},
    ],
)  # fmt: skip
def test_configs_that_say_nothing_or_two_things(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DocumentsConfig.model_validate(config)


def test_the_bible_is_chapters_of_verses() -> None:
    found = {part: read(part, bible=["web", "kjv"]) for part in ("train", "validation", "test")}
    assert {part: len(rows) for part, rows in found.items()} == {
        "train": 2 * 1126,
        "validation": 2 * 23,
        "test": 2 * 40,
    }
    first = found["train"][0]
    assert isinstance(first, Document) and first.file == "bible web 1:1" and len(first.sentences) == 31
    assert first.sentences[0] == "In the beginning God created the heavens and the earth."
    verses_of_part = [
        verse.text
        for version in ("web", "kjv")
        for verse in verses(version)
        if split_of_chapter(verse.book, verse.chapter) == "test"
    ]
    assert [text for row in found["test"] if isinstance(row, Document) for text in row.sentences] == verses_of_part


# ---------------------------------------------------------------------------------------------------------------------
# On disk
# ---------------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.lists(st.integers(0, 299), max_size=4), max_size=4), max_size=6))
def test_the_store_gives_back_what_has_tokens(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[list[int]]]
) -> None:
    folder = tmp_path_factory.mktemp("store")
    with DocumentStoreWriter(folder, "x", 300) as writer:
        for document in documents:
            writer.append(np.array(row, dtype=np.int32) for row in document)
    store = DocumentStore(folder, "x", 300)
    kept = [sentences for document in documents if (sentences := [row for row in document if row])]
    assert len(store) == len(kept)
    found = [
        [store.sentences[row].tolist() for row in range(*bounds)]
        for bounds in zip(store.first_sentences[:-1], store.first_sentences[1:])
    ]
    assert found == kept
    assert store.tokens.tolist() == [token for document in kept for row in document for token in row]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_texts_are_tokenised_in_order(num_processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformer_architectures.tokenization.parallel.ROWS_PER_CHUNK", 4)
    tokenizer = SubwordTokenizer.train(["text"], 280)
    texts = [f"text {number}" for number in range(19)]
    found = tokenize_texts(iter(texts), tokenizer, num_processes)
    assert tokenizer.decode_batch([row.tolist() for row in found]) == texts


TOKENIZER = SubwordTokenizer.train(["something"], 280)


def prepare(tmp_path: Path, recipe: DocumentsRecipe) -> tuple[Path, list[dict[str, Any]]]:
    """The folder, and what was rejected."""
    rejected = tmp_path / "rejected.jsonl"
    folder = prepare_documents(recipe, TOKENIZER, tmp_path / "cache", rejected, num_processes=1)
    return folder, [json.loads(line) for line in rejected.read_text(encoding="utf-8").splitlines()]


def read_back(folder: Path, part: str) -> list[tuple[str, ...]]:
    tokenizer = load_tokenizer(folder)
    store = DocumentStore(folder, part, tokenizer.vocab_size)
    texts = tokenizer.decode_batch([store.sentences[row].tolist() for row in range(len(store.sentences))])
    bounds = store.first_sentences.tolist()
    return [tuple(texts[start:end]) for start, end in zip(bounds[:-1], bounds[1:], strict=True)]


def files_config(tmp_path: Path, name: str, documents: list[str], **changes: Any) -> DocumentsConfig:
    return DocumentsConfig(files=[write(tmp_path / name, "\n\n".join(documents).encode())], **changes)


def test_all_parts_and_counts(tmp_path: Path) -> None:
    configs = {
        part: files_config(tmp_path, f"{part}.txt", [f"{part} A. B", "C"]) for part in ("train", "validation", "test")
    }
    folder, rejected = prepare(tmp_path, DocumentsRecipe(**configs))
    for part in configs:
        assert read_back(folder, part) == [(f"{part} A.", "B"), ("C",)]
    assert document_counts(folder) == {"train": 2, "validation": 2, "test": 2} and not rejected


def test_documents_are_set_apart_by_their_text(tmp_path: Path, seed: int) -> None:
    texts = [f"Été {number}. It says {number * seed}." for number in range(300)]
    recipe = DocumentsRecipe(files_config(tmp_path, "a.txt", texts), validation_fraction=0.3)
    folder, _ = prepare(tmp_path, recipe)
    train, validation = read_back(folder, "train"), read_back(folder, "validation")
    assert sorted(train + validation) == sorted(tuple(split_sentences(text)) for text in texts)
    assert validation and train and read_back(folder, "test") == []
    # Another order, and copies in another Unicode form: everything stays on its side.
    again = [unicodedata.normalize("NFD", text) for text in texts[::-1]] + texts
    other, _ = prepare(tmp_path, DocumentsRecipe(files_config(tmp_path, "b.txt", again), validation_fraction=0.3))
    assert set(read_back(other, "validation")) == set(validation) and other != folder
    assert [sentence for document in train for sentence in document] == list(recipe.training_sentences())


def test_first_samples_only(tmp_path: Path) -> None:
    train = files_config(tmp_path, "a.txt", [f"text {number}" for number in range(9)])
    held_out = files_config(tmp_path, "b.txt", ["x", "y"])
    folder, _ = prepare(tmp_path, DocumentsRecipe(train, held_out, num_samples=4))
    assert read_back(folder, "train") == [(f"text {number}",) for number in range(4)]
    assert len(read_back(folder, "validation")) == 2


def test_bad_lines_are_listed_and_too_many_are_an_error(tmp_path: Path) -> None:
    content = b"\n".join([b"good"] * 8 + [b"\xff", b"", b"\xfe"])
    train = DocumentsConfig(files=[write(tmp_path / "a.txt", content)])
    recipe = DocumentsRecipe(train, files_config(tmp_path, "b.txt", ["x"]), max_rejected_fraction=0.2)
    folder, rejected = prepare(tmp_path, recipe)
    assert [(row["line"], row["reason"]) for row in rejected] == [(9, "not UTF-8"), (11, "not UTF-8")]
    assert document_counts(folder)["rejected: not UTF-8"] == 2
    with pytest.raises(DataError, match="20.00% of the training lines .* 19.00%"):
        prepare(tmp_path, DocumentsRecipe(train, recipe.validation, max_rejected_fraction=0.19))
    assert len((tmp_path / "rejected.jsonl").read_text().splitlines()) == 2


def test_a_bad_line_of_a_part_that_is_scored_stops_the_run(tmp_path: Path) -> None:
    train = files_config(tmp_path, "a.txt", ["x"])
    bad = DocumentsConfig(files=[write(tmp_path / "b.txt", b"fine\n\xff\n")])
    for parts in ({"validation": bad}, {"validation": train, "test": bad}):
        with pytest.raises(DataError, match=r"b\.txt:2: not UTF-8"):
            prepare(tmp_path, DocumentsRecipe(train, **parts))


def test_no_document_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no document"):
        prepare(tmp_path, DocumentsRecipe(files_config(tmp_path, "a.txt", ["", " "])))


def test_the_cache_knows_what_it_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, held_out = files_config(tmp_path, "a.txt", ["x", "y"]), files_config(tmp_path, "b.txt", ["z"])
    recipe = DocumentsRecipe(train, held_out)
    folder, _ = prepare(tmp_path, recipe)
    with monkeypatch.context() as patch:
        patch.setattr(document_corpus, "tokenize_texts", None)
        assert prepare(tmp_path, recipe)[0] == folder
    assert prepare(tmp_path, DocumentsRecipe(train, held_out, num_samples=1))[0] != folder
    by_line = train.model_copy(update={"document": "line"})
    assert prepare(tmp_path, DocumentsRecipe(by_line, held_out))[0] != folder
    write(tmp_path / "b.txt", b"another")
    assert prepare(tmp_path, recipe)[0] != folder
    other = SubwordTokenizer.train(["else"], 290)
    assert prepare_documents(recipe, other, tmp_path / "cache", None, 1) != prepare(tmp_path, recipe)[0]


def test_the_bible_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = [verse for verse in verses("web") if verse.chapter <= 30 and verse.book in (1, 2, 5)]
    monkeypatch.setattr("transformer_architectures.datasets.text.bible.verses", lambda version: few)
    folder, rejected = prepare(tmp_path, DocumentsRecipe(DocumentsConfig(bible=["web"])))
    counts = document_counts(folder)
    assert all(counts.values()) and sum(counts.values()) == 90 and not rejected
    for part in ("train", "validation", "test"):
        kept = [verse.text for verse in few if split_of_chapter(verse.book, verse.chapter) == part]
        assert [text for document in read_back(folder, part) for text in document] == kept


def test_rejections_are_counted_once(tmp_path: Path) -> None:
    """Validation documents are set apart in a second reading of the same file."""
    train = DocumentsConfig(files=[write(tmp_path / "a.txt", b"\xff\n" + b"\n\n".join(b"d%d" % n for n in range(50)))])
    log = RejectionLog()
    recipe = DocumentsRecipe(train, validation_fraction=0.5)
    documents = [*recipe.documents("train", log), *recipe.documents("validation", log)]
    assert len(documents) == 50 and len(log) == 1


# ---------------------------------------------------------------------------------------------------------------------
# Exact text, lines and files
# ---------------------------------------------------------------------------------------------------------------------

CODE = "\ufeffdef f():\r\n\treturn 1\n\n\n  # e\u0301\n\u2028x = 2"


def texts(rows: list[Document | Rejection]) -> list[str]:
    return ["".join(row.sentences) for row in rows if isinstance(row, Document)]


@pytest.mark.parametrize("name", ["a.py", "a.py.gz"])
def test_exact_text_is_that_of_the_file(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name, CODE.encode())
    (document,) = read(files=[file], text="exact", document="file")
    assert isinstance(document, Document) and (document.line, document.num_lines) == (1, 6)
    assert "".join(document.sentences) == CODE.removeprefix("\ufeff")
    assert document.sentences[:3] == ("def f():\r\n", "\treturn 1\n", "\n")


def test_exact_lines_and_blocks_leave_out_what_divides_them(tmp_path: Path) -> None:
    file = write(tmp_path / "a.py", CODE.encode())
    lines = read(files=[file], text="exact", document="line")
    assert texts(lines) == ["def f():", "\treturn 1", "  # e\u0301", "\u2028x = 2"]
    assert [row.line for row in lines if isinstance(row, Document)] == [1, 2, 5, 6]
    blocks = read(files=[file], text="exact", document="block")
    assert texts(blocks) == ["def f():\r\n\treturn 1", "  # e\u0301\n\u2028x = 2"]


def test_sentences_of_a_file(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", b"One. Two.\n\nThree.\n")
    assert read(files=[file], document="file") == [Document(file, 1, ("One.", "Two.", "Three."), 2)]


def test_a_bad_line_ends_an_exact_document(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", b"a\n\n b\n\xff\nc\n")
    found = read(files=[file], text="exact", document="file")
    assert texts(found) == ["a\n\n b\n", "c\n"] and found[1] == Rejection(file, 4, "not UTF-8")


def test_long_files_and_lines_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformer_architectures.datasets.text.documents.MAX_DOCUMENT", 10)
    monkeypatch.setattr("transformer_architectures.datasets.text.documents.MAX_LINE", 4)
    text = "abcdefg\nhi\njklmnopqrst\nu"
    found = read(files=[write(tmp_path / "a.txt", text.encode())], text="exact", document="file")
    assert texts(found) == ["abcdefg\nhi\n", "jklmnopqrst\n", "u"]
    assert all(len(piece) <= 4 for row in found if isinstance(row, Document) for piece in row.sentences)


def test_exact_text_of_the_bible_has_a_verse_a_line() -> None:
    chapter, *_ = read("validation", bible=["web"], text="exact")
    assert isinstance(chapter, Document) and all(verse.endswith("\n") for verse in chapter.sentences)
    as_sentences = read("validation", bible=["web"])[0]
    assert isinstance(as_sentences, Document)
    assert [verse.strip() for verse in chapter.sentences if verse.strip()] == list(as_sentences.sentences)


def test_settings_of_before_have_the_digests_of_before(tmp_path: Path) -> None:
    """Caches and runs of configs without ``text`` stay valid."""
    config = DocumentsConfig(files=["a.txt"])
    assert config.model_dump(mode="json") == {"bible": None, "files": ["a.txt"], "document": "block"}
    assert DocumentsConfig(files=["a.txt"], text="sentences") == config
    exact = ExactDocumentsConfig(files=["a.txt"])
    assert exact.model_dump(mode="json") == {"bible": None, "files": ["a.txt"], "text": "exact", "document": "file"}
    other = ExactDocumentsConfig(files=["a.txt"], text="sentences").model_dump(mode="json")
    assert other["text"] == "sentences"  # not its default: it must be read back


# ---------------------------------------------------------------------------------------------------------------------
# Validation text of few documents
# ---------------------------------------------------------------------------------------------------------------------


def divided(tmp_path: Path, contents: list[str], fraction: float, **form: Any) -> dict[str, list[str]]:
    """The text of each training and validation document."""
    files = [write(tmp_path / f"{number}.txt", text.encode()) for number, text in enumerate(contents)]
    form = {"text": "exact", "document": "file", **form}
    recipe = DocumentsRecipe(DocumentsConfig.model_validate({"files": files, **form}), validation_fraction=fraction)
    return {split: ["".join(row.sentences) for row in recipe.documents(split)] for split in ("train", "validation")}


def novel(number: int, num_lines: int) -> str:
    return "".join(f"Book {number}, line {line}\n" for line in range(num_lines))


@pytest.mark.parametrize("num_lines", [2, 3, 50, 5_000])
def test_a_single_file_gives_one_stretch_to_validation(tmp_path: Path, seed: int, num_lines: int) -> None:
    text = novel(seed, num_lines)
    parts = divided(tmp_path, [text], 0.1)
    (stretch,) = parts["validation"]
    before, behind = text.split(stretch)
    assert [part for part in (before, behind) if part] == parts["train"]
    assert abs(stretch.count("\n") - max(1, 0.1 * num_lines)) <= max(1, 0.01 * num_lines)
    assert parts == divided(tmp_path, [text], 0.1)


def test_long_files_are_divided_and_short_ones_go_whole(tmp_path: Path, seed: int) -> None:
    long, short = [novel(number, 2_000) for number in range(4)], [novel(100 + number, 20) for number in range(60)]
    parts = divided(tmp_path, [*long, *short], 0.1)
    for text in long:
        inside = [part for part in parts["validation"] if part in text]
        assert len(inside) == 1 and 0.08 < len(inside[0]) / len(text) < 0.12
    whole = {split: set(of_split) & set(short) for split, of_split in parts.items()}
    assert whole["train"] | whole["validation"] == set(short) and not whole["train"] & whole["validation"]
    # Where the stretches are follows from each text: another file moves none.
    fewer = divided(tmp_path, [long[2], *short[:7]], 0.1)
    assert set(fewer["validation"]) <= set(parts["validation"])
    # Not always at the end.
    assert any(not text.endswith(part) for text in long for part in parts["validation"] if part in text)


@settings(deadline=None)
@given(st.lists(st.text("ab\n", min_size=1, max_size=9), min_size=1, max_size=30), st.floats(0.001, 0.999))
def test_a_stretch_is_never_empty_nor_all(pieces: list[str], fraction: float) -> None:
    found = validation_stretch(tuple(pieces), fraction)
    assert 0 <= found.start <= found.stop <= len(pieces)
    assert 0 < len(found) < len(pieces) or len(pieces) == 1 and not found
    text = sum(map(len, pieces))
    size = sum(map(len, pieces[found.start : found.stop]))
    assert abs(size - fraction * text) <= 2 * max(map(len, pieces))


def test_files_of_sentences_are_divided_too(tmp_path: Path) -> None:
    text = " ".join(f"Sentence {number}." for number in range(500))
    parts = divided(tmp_path, [text], 0.1, text="sentences")
    assert len(parts["train"]) == 2 and len(parts["validation"]) == 1
    assert "".join([parts["train"][0], *parts["validation"], parts["train"][1]]) == text.replace(". ", ".")


def test_blocks_and_lines_go_whole_however_long(tmp_path: Path) -> None:
    for document in ("block", "line"):
        parts = divided(tmp_path, ["\n".join([novel(1, 900)] * 3).replace("\n", " ") + "\n"], 0.1, document=document)
        assert sorted(map(len, parts.values())) == [0, 1]


@settings(deadline=None)
@given(st.lists(st.text("ab\n", min_size=1, max_size=9), max_size=30))
def test_joined_pieces_are_the_text(pieces: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document_corpus, "MAX_PIECE", 10)
        found = joined(tuple(pieces))
    assert "".join(found) == "".join(pieces) and all(len(piece) <= 10 for piece in found)


def test_exact_documents_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_corpus, "AT_ONCE", 30)
    monkeypatch.setattr(document_corpus, "MAX_PIECE", 12)
    contents = ["  a\r\n\tb\n" * 4, "\n\nc\n"]
    files = [write(tmp_path / f"{number}.py", text.encode()) for number, text in enumerate(contents)]
    train = DocumentsConfig(files=files, text="exact", document="file")
    folder, _ = prepare(tmp_path, DocumentsRecipe(train, files_config(tmp_path, "b.txt", ["x"])))
    assert ["".join(document) for document in read_back(folder, "train")] == contents
    store = DocumentStore(folder, "train", TOKENIZER.vocab_size)
    assert store.num_bytes().sum() == sum(map(len, contents)) and len(store.num_bytes()) == len(store.sentences)
    assert max(store.num_bytes()) <= 12 and document_counts(folder)["train"] == 2
    start, second, end = store.first_tokens.tolist()
    assert (start, end) == (0, len(store.tokens)) and TOKENIZER.decode(store.tokens[second:].tolist()) == contents[1]
