"""Readers of parallel text: two files, TSV, JSON lines, WMT folders and SGML, the embedded Bible.

Every reader streams. A row is a `Pair`, or a `Rejection` that says which line of which file is bad, and why.
"""

import re
from collections.abc import Iterator
from html import unescape
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field, model_validator

from transformer_architectures.config import StrictModel
from transformer_architectures.datasets.lines import decode, decode_record, is_utf8_text, read_lines, text_format
from transformer_architectures.datasets.rejections import Rejection
from transformer_architectures.datasets.splits import Split
from transformer_architectures.datasets.text.bible import BibleVersion, verse_pairs
from transformer_architectures.errors import DataError


class Pair(NamedTuple):
    """A sentence and its translation, as written in the file."""

    file: str
    line: int
    source: str
    target: str


Row = Pair | Rejection

# File names of the sets that WMT scores with.
EVALUATION_SET = re.compile(r"newstest|newsdiscuss|newssyscomb|news-test")
Place = tuple[str, int]  # a file and a line of it
Column = Annotated[int, Field(ge=0)] | str


class BibleConfig(StrictModel):
    """Which versions of the embedded corpus."""

    source: BibleVersion = "web"
    target: BibleVersion = "darby"


class ParallelTextConfig(StrictModel):
    """The files of parallel text. Exactly one of:

    * ``source`` and ``target``: two files, line by line (``.sgm``: the WMT test sets' segments). A ``*`` in a name matches anything,
      if exactly one file of each side matches, or one pair of files in which it matches the same text on both sides;
    * ``file``: TSV, or JSON lines (``.json``, ``.jsonl``), with the columns or keys of the two sides;
    * ``folder``: all pairs ``<name>.<source language>`` + ``<name>.<target language>`` in it, or those in ``names``;
    * ``bible``: the embedded corpus.

    Any file may be ``.gz``.
    """

    source: str | None = None
    target: str | None = None
    file: str | None = None
    source_column: Column | None = Field(None, description="TSV: a number from 0; JSON lines: a key")
    target_column: Column | None = None
    folder: str | None = None
    names: list[str] | None = None
    bible: BibleConfig | None = None

    @model_validator(mode="after")
    def is_one_form(self) -> "ParallelTextConfig":
        if (self.source is None) != (self.target is None):
            raise ValueError("source and target belong together: give both files")
        forms = [self.source, self.file, self.folder, self.bible]
        if sum(form is not None for form in forms) != 1:
            raise ValueError("give exactly one of: source and target, file, folder, bible")
        if self.file is None and (self.source_column is not None or self.target_column is not None):
            raise ValueError("source_column and target_column belong to file")
        if self.folder is None and self.names is not None:
            raise ValueError("names belongs to folder")
        return self

    @property
    def has_own_splits(self) -> bool:
        """Whether validation and test pairs come with the training source."""
        return self.bible is not None

    def paths(self, source_language: str, target_language: str) -> list[Path]:
        """All files that are read. A cache of the result depends on them."""
        if self.source is not None and self.target is not None:
            return list(matching_files(self.source, self.target))
        if self.file is not None:
            return [Path(self.file)]
        if self.folder is not None:
            pairs = folder_pairs(Path(self.folder), self.names, source_language, target_language)
            return [path for pair in pairs for path in pair]
        return []


def read_pairs(config: ParallelTextConfig, split: Split, source_language: str, target_language: str) -> Iterator[Row]:
    """All rows, in the order of the files. ``split`` matters for the Bible only: files are one split each."""
    if config.bible is not None:
        for left, right in verse_pairs(config.bible.source, config.bible.target, split):
            place = (f"bible {left.book}:{left.chapter}", left.verse)
            yield _checked(place, place, left.text, right.text)
    elif config.file is not None:
        path = Path(config.file)
        yield from _read_json(path, config) if text_format(path) in (".json", ".jsonl") else _read_tsv(path, config)
    elif config.folder is not None:
        for source, target in folder_pairs(Path(config.folder), config.names, source_language, target_language):
            yield from _read_two_files(source, target)
    else:
        assert config.source is not None and config.target is not None
        yield from _read_two_files(*matching_files(config.source, config.target))


def matching_files(source: str, target: str) -> tuple[Path, Path]:
    """The two files that paths with ``*`` match; a path without one is itself.

    WMT's folders hold `newstest2014-deen-src.en.sgm` beside `newstest2014-fren-src.en.sgm`: if several files match, the pair is
    taken in which every ``*`` matches the same text on both sides.

    Raises:
        DataError: no pair of files fits, or several do.
    """
    sources, targets = _fitting(source), _fitting(target)
    pairs = [(left, right) for left in sources for right in targets]
    if len(pairs) > 1:
        pairs = [(left, right) for left, right in pairs if sources[left] == targets[right]]
    if len(pairs) != 1:
        raise DataError(
            f"{source} and {target}: {len(sources)} and {len(targets)} files fit, expected one of each, "
            "or one pair in which every * stands for the same"
        )
    return pairs[0]


def _fitting(pattern: str) -> dict[Path, tuple[str, ...]]:
    """Files that match a pattern, each with the texts that its stars match."""
    path = Path(pattern)
    if "*" not in pattern:
        return {path: ()}
    name = re.compile("(.*)".join(re.escape(piece) for piece in path.name.split("*")))
    matches = {file: name.fullmatch(file.name) for file in sorted(path.parent.glob(path.name))}
    return {file: match.groups() for file, match in matches.items() if match}


def folder_pairs(
    folder: Path, names: list[str] | None, source_language: str, target_language: str
) -> list[tuple[Path, Path]]:
    """Pairs of files ``<name>.<language>`` (or ``.gz``) in a folder, sorted by name.

    WMT's evaluation sets, which may lie in the same folder, are read only if ``names`` has them.

    Raises:
        DataError: no pair, or one of ``names`` is missing.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    pairs = {}
    for source in sorted(folder.iterdir()):
        for ending in (f".{source_language}", f".{source_language}.gz"):
            name = source.name.removesuffix(ending)
            if name == source.name:
                continue
            for target in (folder / f"{name}.{target_language}", folder / f"{name}.{target_language}.gz"):
                if target.is_file():
                    pairs[name] = (source, target)
    training_names = [name for name in sorted(pairs) if not EVALUATION_SET.match(name)]
    missing = set(names or ()) - set(pairs)
    if missing or not (names or training_names):
        wanted = ", ".join(sorted(missing)) or "<name>"
        raise DataError(f"{folder}: no pair of files {wanted}.{source_language} and .{target_language} (plain or .gz)")
    return [pairs[name] for name in (training_names if names is None else names)]


def _read_two_files(source: Path, target: Path) -> Iterator[Row]:
    lines = zip_longest(_segments(source), _segments(target))
    for number, (left, right) in enumerate(lines, start=1):
        if left is None or right is None:
            raise DataError(
                f"{source if left is None else target} ends before line {number}: the two files are not parallel"
            )
        (source_line, source_text), (target_line, target_text) = left, right
        yield _from_bytes((str(source), source_line), (str(target), target_line), source_text, target_text)


def _segments(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines; of an SGML file (WMT's test sets) the text of each ``<seg>`` and the line that it starts in."""
    if text_format(path) != ".sgm":
        yield from enumerate(read_lines(path), start=1)
        return
    content = b"\n".join(read_lines(path))
    line, counted = 1, 0
    for segment in re.finditer(rb"<seg\b[^>]*>(.*?)</seg>", content, flags=re.DOTALL | re.IGNORECASE):
        line, counted = line + content.count(b"\n", counted, segment.start()), segment.start()
        text = decode(segment[1])
        # Bytes that are not UTF-8 are passed on, to be rejected like any other line.
        yield line, segment[1] if text is None else " ".join(unescape(text).split()).encode()


def _read_tsv(path: Path, config: ParallelTextConfig) -> Iterator[Row]:
    source_column, target_column = config.source_column, config.target_column
    source_column = 0 if source_column is None else source_column
    target_column = 1 if target_column is None else target_column
    if isinstance(source_column, str) or isinstance(target_column, str):
        raise DataError(f"{path}: the columns of a TSV file are numbers, counted from 0")
    num_columns = None
    for number, line in enumerate(read_lines(path), start=1):
        fields = line.split(b"\t")
        num_columns = num_columns or max(len(fields), source_column + 1, target_column + 1)
        if len(fields) != num_columns:
            yield Rejection(str(path), number, f"{len(fields)} columns instead of {num_columns}")
        else:
            place = (str(path), number)
            yield _from_bytes(place, place, fields[source_column], fields[target_column])


def _read_json(path: Path, config: ParallelTextConfig) -> Iterator[Row]:
    source_key, target_key = config.source_column, config.target_column
    source_key = "source" if source_key is None else source_key
    target_key = "target" if target_key is None else target_key
    if isinstance(source_key, int) or isinstance(target_key, int):
        raise DataError(f"{path}: the columns of JSON lines are keys, not numbers")
    for number, line in enumerate(read_lines(path), start=1):
        place = (str(path), number)
        record = decode_record(line)
        if isinstance(record, str):
            yield Rejection(*place, record)
            continue
        source, target = record.get(source_key), record.get(target_key)
        if isinstance(source, str) and isinstance(target, str):
            is_text = is_utf8_text(source + target)
            yield _checked(place, place, source, target) if is_text else Rejection(*place, "not UTF-8")
        else:
            yield Rejection(*place, f"no text under the keys {source_key} and {target_key}")


def _from_bytes(source_place: Place, target_place: Place, source: bytes, target: bytes) -> Row:
    left, right = decode(source), decode(target)
    if left is None or right is None:
        return Rejection(*(source_place if left is None else target_place), "not UTF-8")
    return _checked(source_place, target_place, left, right)


def _checked(source_place: Place, target_place: Place, source: str, target: str) -> Row:
    source, target = source.strip(), target.strip()
    if not source:
        return Rejection(*source_place, "empty source")
    if not target:
        return Rejection(*target_place, "empty target")
    return Pair(*source_place, source, target)
