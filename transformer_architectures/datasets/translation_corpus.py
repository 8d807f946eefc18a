"""A parallel corpus on disk: read once, checked, tokenised, cached under the hash of everything that it depends on."""

import hashlib
import json
import shutil
import unicodedata
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformer_architectures.datasets.bible import bible_path
from transformer_architectures.datasets.cached_folder import cached_folder, file_digest
from transformer_architectures.datasets.parallel_text import Pair, ParallelTextConfig, Row, read_pairs
from transformer_architectures.datasets.rejections import REJECTED, Rejection, RejectionLog
from transformer_architectures.datasets.splitting import Part, hash_position
from transformer_architectures.datasets.token_store import TokenStoreWriter
from transformer_architectures.errors import DataError
from transformer_architectures.tokenization.parallel import TextPair, TokenPair, tokenize_pairs
from transformer_architectures.tokenization.protocol import Tokenizer
from transformer_architectures.tokenization.subword import SubwordTokenizer

FORMAT = 3  # raise it when what is written below changes
COUNTS = "counts.json"
TOKENIZER_PAIRS = 2_000_000  # more text does not change the merges much, and the counts are kept in memory


@dataclass(frozen=True)
class CorpusRecipe:
    """Everything that the tokenised corpus depends on."""

    train: ParallelTextConfig
    validation: ParallelTextConfig | None
    test: ParallelTextConfig | None
    source_language: str
    target_language: str
    vocab_size: int
    max_length: int
    num_samples: int | None
    validation_fraction: float
    max_rejected_fraction: float
    tokenizer: Tokenizer | None = None  # a given one; otherwise it is trained

    def digest(self) -> str:
        """SHA-256 over the settings and over the content of every file that is read."""
        digest = hashlib.sha256(json.dumps(self._settings(), sort_keys=True).encode())
        for path in self.files():
            digest.update(file_digest(path))
        return digest.hexdigest()

    def rows(self, part: Part) -> Iterator[Row]:
        """All rows of a part, before the split by `validation_fraction`."""
        config = (
            self.train
            if self._is_bible()
            else {"train": self.train, "validation": self.validation, "test": self.test}[part]
        )
        if config is not None:
            yield from read_pairs(config, part, self.source_language, self.target_language)

    def splits_train(self) -> bool:
        """Whether validation rows are set apart from the training text."""
        return self.validation is None and not self._is_bible()

    def _is_bible(self) -> bool:
        return self.train.bible is not None

    def _settings(self) -> dict[str, Any]:
        plain = ("source_language", "target_language", "vocab_size", "max_length", "num_samples", "validation_fraction")
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            "format": FORMAT,
            **{name: getattr(self, name) for name in (*plain, "max_rejected_fraction")},
            **{part: None if config is None else config.model_dump(mode="json") for part, config in parts.items()},
            "tokenizer": None if self.tokenizer is None else self.tokenizer.digest(),
        }

    def files(self) -> list[Path]:
        """Every file that is read."""
        if self._is_bible():
            return [bible_path()]
        configs = [config for config in (self.train, self.validation, self.test) if config is not None]
        return [path for config in configs for path in config.paths(self.source_language, self.target_language)]


def prepare_corpus(recipe: CorpusRecipe, cache_dir: Path, rejected_path: Path | None, num_processes: int) -> Path:
    """The folder of the tokenised corpus: made now, or found from an earlier run.

    Two processes that want the same corpus at once: one makes it, the other waits. A folder is there whole or not at all.

    Args:
        rejected_path: gets one JSON line for each rejected training row: file, line, reason.

    Raises:
        DataError: too many rows are bad, a validation or test row is bad, or nothing is left to train on.
    """

    def make(work: Path) -> None:
        try:
            _Maker(recipe, work, num_processes).make()
        finally:  # the list is wanted most where there is too much on it
            if rejected_path is not None and (work / REJECTED).is_file():
                shutil.copyfile(work / REJECTED, rejected_path)

    folder = cached_folder(cache_dir / recipe.digest()[:32], make)
    if rejected_path is not None:
        shutil.copyfile(folder / REJECTED, rejected_path)
    return folder


def row_counts(folder: Path) -> dict[str, int]:
    """Rows of each part of a corpus, and of each reason for which training rows were rejected (``rejected: <reason>``)."""
    counts: dict[str, int] = json.loads((folder / COUNTS).read_text(encoding="utf-8"))
    return counts


@dataclass
class _Maker:
    """Writes one corpus folder."""

    recipe: CorpusRecipe
    folder: Path
    num_processes: int
    accepted: int = 0

    def make(self) -> None:
        with (self.folder / REJECTED).open("w", encoding="utf-8") as file:
            rejections = RejectionLog(file)
            evaluation: dict[Part, list[Pair]] = {"validation": self._validation(), "test": self._given("test")}
            tokenizer = self.recipe.tokenizer or self._train_tokenizer()
            tokenizer.save(self.folder)
            self._write_train(tokenizer, rejections)
        self._check(rejections)
        counts: dict[str, int] = {"train": self.accepted, **{part: len(pairs) for part, pairs in evaluation.items()}}
        counts |= {f"rejected: {reason}": count for reason, count in rejections.reasons.most_common()}
        (self.folder / COUNTS).write_text(json.dumps(counts), encoding="utf-8")
        for part, pairs in evaluation.items():
            lines = [json.dumps([pair.source, pair.target], ensure_ascii=False) for pair in pairs]
            (self.folder / f"{part}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            texts = (TextPair(pair.source, pair.target) for pair in pairs)
            with PairWriter(self.folder, part, tokenizer.vocab_size) as writer:
                for tokens in tokenize_pairs(texts, tokenizer, self.num_processes):
                    writer.append(tokens)

    def _write_train(self, tokenizer: Tokenizer, rejections: RejectionLog) -> None:
        limit = self.recipe.max_length
        waiting: deque[Pair] = deque()  # pairs on their way through the tokenizer, to be named if they are too long

        def texts() -> Iterator[TextPair]:
            for pair in self._train_pairs(rejections):
                waiting.append(pair)
                yield TextPair(pair.source, pair.target)

        with PairWriter(self.folder, "train", tokenizer.vocab_size) as writer:
            for tokens in tokenize_pairs(texts(), tokenizer, self.num_processes):
                pair = waiting.popleft()
                if max(len(tokens.source), len(tokens.target)) > limit:
                    rejections.add(Rejection(pair.file, pair.line, f"over the length limit of {limit} tokens"))
                else:
                    writer.append(tokens)
                    self.accepted += 1

    def _train_tokenizer(self) -> SubwordTokenizer:
        num_bytes = sum(path.stat().st_size * (3 if path.suffix == ".gz" else 1) for path in self.recipe.files())
        num_pairs = num_bytes // 200  # 200 bytes are a short pair: rather too many than too few
        if self.recipe.num_samples is not None:
            num_pairs = min(num_pairs, self.recipe.num_samples)
        every = max(1, num_pairs // TOKENIZER_PAIRS)
        pairs = (pair for number, pair in enumerate(self._train_pairs()) if number % every == 0)
        return SubwordTokenizer.train(
            (text for pair in pairs for text in (pair.source, pair.target)), self.recipe.vocab_size
        )

    def _train_pairs(self, rejections: RejectionLog | None = None) -> Iterator[Pair]:
        """What is trained on; what is rejected goes to ``rejections``, where they are given."""
        for part, row in self._split_rows():
            if isinstance(row, Rejection):
                if rejections is not None:
                    rejections.add(row)
            elif part == "train":
                yield row

    def _validation(self) -> list[Pair]:
        if not self.recipe.splits_train():
            return self._given("validation")
        return [row for part, row in self._split_rows() if part == "validation" and isinstance(row, Pair)]

    def _given(self, part: Part) -> list[Pair]:
        """A part that is scored: a row that cannot be used would make the score another one than it seems."""
        pairs = []
        for row in self.recipe.rows(part):
            if isinstance(row, Rejection):
                raise DataError(f"{row.file}:{row.line}: {row.reason}; every row of the {part} part is scored, mend it")
            pairs.append(row)
        return pairs

    def _split_rows(self) -> Iterator[tuple[Part, Row]]:
        """Rows of the training text, up to `num_samples` that can be read, each with the part that it belongs to."""
        num_train = 0
        for row in self.recipe.rows("train"):
            if isinstance(row, Pair) and self.recipe.splits_train() and self._is_set_apart(row.source):
                yield "validation", row
                continue
            if num_train == self.recipe.num_samples:
                return
            num_train += isinstance(row, Pair)
            yield "train", row

    def _is_set_apart(self, source: str) -> bool:
        """By the hash of the sentence: all rows with the same source fall on the same side, in any order of any file."""
        return hash_position(unicodedata.normalize("NFC", source)) < self.recipe.validation_fraction

    def _check(self, rejections: RejectionLog) -> None:
        if not self.accepted:
            raise DataError("no usable pair is left to train on" + rejections.summary())
        rejections.check(self.accepted, self.recipe.max_rejected_fraction, "training rows")


class PairWriter:
    """Writes both sides of a part."""

    def __init__(self, folder: Path, part: Part, vocab_size: int) -> None:
        self.sides = [TokenStoreWriter(folder, f"{part}.{side}", vocab_size) for side in ("source", "target")]

    def append(self, tokens: TokenPair) -> None:
        """Adds one pair."""
        for side, ids in zip(self.sides, tokens, strict=True):
            side.append(ids)

    def __enter__(self) -> "PairWriter":
        return self

    def __exit__(self, *_: object) -> None:
        for side in self.sides:
            side.close()


__all__ = ["CorpusRecipe", "prepare_corpus", "row_counts"]
