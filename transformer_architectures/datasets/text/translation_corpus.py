"""A parallel corpus on disk: read once, checked, tokenised, cached under the hash of everything that it depends on."""

import hashlib
import json
import shutil
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformer_architectures.datasets.cached_folder import cached_folder, file_digest
from transformer_architectures.datasets.rejections import REJECTED, Rejection, RejectionLog, all_usable
from transformer_architectures.datasets.splits import Split, SplitsRecipe, text_key
from transformer_architectures.datasets.text.bible import bible_path
from transformer_architectures.datasets.text.parallel_text import Pair, ParallelTextConfig, Row, read_pairs
from transformer_architectures.datasets.text.token_store import TokenStoreWriter
from transformer_architectures.datasets.text.trained_tokenizer import BPE
from transformer_architectures.errors import DataError
from transformer_architectures.tokenization.parallel import TextPair, TokenPair, tokenize_pairs
from transformer_architectures.tokenization.protocol import Tokenizer

FORMAT = 3  # raise it when what is written below changes
COUNTS = "counts.json"
TOKENIZER_PAIRS = 2_000_000  # more text does not change the merges much, and the counts are kept in memory


@dataclass(frozen=True, kw_only=True)
class CorpusRecipe(SplitsRecipe[ParallelTextConfig]):
    """Everything that the tokenised corpus depends on; an example's key is its source.

    Attributes:
        vocab_size: of the tokenizer that is trained on the training pairs, unless ``tokenizer`` is given.
        max_length: tokens on a side of a training pair; longer ones are rejected.
        num_samples: the first training pairs are used, long ones counted.
    """

    source_language: str
    target_language: str
    vocab_size: int
    max_length: int
    tokenizer: Tokenizer | None = None

    def digest(self) -> str:
        """SHA-256 over the settings and over the content of every file that is read."""
        return self._digest(self._settings())

    def tokenizer_digest(self) -> str:
        """The same over what the trained tokenizer depends on."""
        unused = ("max_length", "max_rejected_fraction", "tokenizer")
        return self._digest({name: value for name, value in self._settings().items() if name not in unused})

    def rows(self, split: Split) -> Iterator[Row]:
        """All rows of a split, before validation pairs are set apart."""
        source = self.source_of(split)
        if source is not None:
            yield from read_pairs(source, split, self.source_language, self.target_language)

    def files(self) -> list[Path]:
        """Every file that is read."""
        if self.train.has_own_splits:
            return [bible_path()]
        return [path for source in self.sources() for path in source.paths(self.source_language, self.target_language)]

    def _settings(self) -> dict[str, Any]:
        plain = ("source_language", "target_language", "vocab_size", "max_length", "num_samples", "validation_fraction")
        sources = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            "format": FORMAT,
            **{name: getattr(self, name) for name in (*plain, "max_rejected_fraction")},
            **{split: None if source is None else source.model_dump(mode="json") for split, source in sources.items()},
            "tokenizer": None if self.tokenizer is None else self.tokenizer.digest(),
        }

    def _digest(self, settings: dict[str, Any]) -> str:
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for of_file in self._file_digests:
            digest.update(of_file)
        return digest.hexdigest()

    @cached_property
    def _file_digests(self) -> tuple[bytes, ...]:
        return tuple(map(file_digest, self.files()))


def prepare_corpus(recipe: CorpusRecipe, cache_dir: Path, rejected_path: Path | None, num_processes: int) -> Path:
    """The folder of the tokenised corpus: made now, or found from an earlier run.

    If two processes want the same corpus at once, one makes it and the other waits. A folder is complete or does not exist.

    Args:
        rejected_path: gets one JSON line for each rejected training row: file, line, reason.

    Raises:
        DataError: too many rows are bad, a validation or test row is bad, or nothing is left to train on.
    """

    def make(work: Path) -> None:
        try:
            _Maker(recipe, work, cache_dir, num_processes).make()
        finally:  # the list is needed most if there is too much on it
            if rejected_path is not None and (work / REJECTED).is_file():
                shutil.copyfile(work / REJECTED, rejected_path)

    folder = cached_folder(cache_dir / recipe.digest()[:32], make)
    if rejected_path is not None:
        shutil.copyfile(folder / REJECTED, rejected_path)
    return folder


def row_counts(folder: Path) -> dict[str, int]:
    """Rows of each split of a corpus, and of each reason for which training rows were rejected (``rejected: <reason>``)."""
    return json.loads((folder / COUNTS).read_text(encoding="utf-8"))


@dataclass
class _Maker:
    """Writes one corpus folder."""

    recipe: CorpusRecipe
    folder: Path
    cache_dir: Path
    num_processes: int
    accepted: int = 0

    def make(self) -> None:
        with (self.folder / REJECTED).open("w", encoding="utf-8") as file:
            rejections = RejectionLog(file)
            evaluation: dict[Split, list[Pair]] = {
                "validation": self._validation(),
                "test": self._scored("test"),
            }
            tokenizer = self.recipe.tokenizer or self._trained_tokenizer()
            tokenizer.save(self.folder)
            self._write_train(tokenizer, rejections)
        self._check(rejections)
        counts: dict[str, int] = {"train": self.accepted, **{split: len(pairs) for split, pairs in evaluation.items()}}
        counts |= {f"rejected: {reason}": count for reason, count in rejections.reasons.most_common()}
        (self.folder / COUNTS).write_text(json.dumps(counts), encoding="utf-8")
        for split, pairs in evaluation.items():
            lines = [json.dumps([pair.source, pair.target], ensure_ascii=False) for pair in pairs]
            (self.folder / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            texts = (TextPair(pair.source, pair.target) for pair in pairs)
            with PairWriter(self.folder, split, tokenizer.vocab_size) as writer:
                for tokens in tokenize_pairs(texts, tokenizer, self.num_processes):
                    writer.append(tokens)

    def _write_train(self, tokenizer: Tokenizer, rejections: RejectionLog) -> None:
        limit = self.recipe.max_length
        waiting: deque[Pair] = deque()  # pairs that are being tokenised, to be named if they are too long

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

    def _trained_tokenizer(self) -> Tokenizer:
        recipe = self.recipe
        return BPE.trained(self.cache_dir, recipe.tokenizer_digest(), self._tokenizer_texts(), recipe.vocab_size)

    def _tokenizer_texts(self) -> Iterator[str]:
        num_bytes = sum(path.stat().st_size * (3 if path.suffix == ".gz" else 1) for path in self.recipe.files())
        num_pairs = num_bytes // 200  # 200 bytes are a short pair: rather too many than too few
        if self.recipe.num_samples is not None:
            num_pairs = min(num_pairs, self.recipe.num_samples)
        every = max(1, num_pairs // TOKENIZER_PAIRS)
        pairs = (pair for number, pair in enumerate(self._train_pairs()) if number % every == 0)
        yield from (text for pair in pairs for text in (pair.source, pair.target))

    def _train_pairs(self, rejections: RejectionLog | None = None) -> Iterator[Pair]:
        """The training pairs; rejected rows go to ``rejections``, if given."""
        for split, row in self._split_rows():
            if isinstance(row, Rejection):
                if rejections is not None:
                    rejections.add(row)
            elif split == "train":
                yield row

    def _validation(self) -> list[Pair]:
        if not self.recipe.splits_train():
            return self._scored("validation")
        return [row for split, row in self._split_rows() if split == "validation" and isinstance(row, Pair)]

    def _scored(self, split: Split) -> list[Pair]:
        return list(all_usable(self.recipe.rows(split), f"row of the {split} split"))

    def _split_rows(self) -> Iterator[tuple[Split, Row]]:
        """Rows of the training text, up to `num_samples` that can be read, each with its split."""
        num_train, splits_train = 0, self.recipe.splits_train()
        for row in self.recipe.rows("train"):
            if isinstance(row, Pair) and splits_train and self.recipe.sets_apart(text_key(row.source)):
                yield "validation", row
                continue
            if num_train == self.recipe.num_samples:
                return
            num_train += isinstance(row, Pair)
            yield "train", row

    def _check(self, rejections: RejectionLog) -> None:
        if not self.accepted:
            raise DataError("no usable pair is left to train on" + rejections.summary())
        rejections.check(self.accepted, self.recipe.max_rejected_fraction, "training rows")


class PairWriter:
    """Writes both sides of a split."""

    def __init__(self, folder: Path, split: Split, vocab_size: int) -> None:
        self.sides = [TokenStoreWriter(folder, f"{split}.{side}", vocab_size) for side in ("source", "target")]

    def append(self, tokens: TokenPair) -> None:
        """Adds one pair."""
        for side, ids in zip(self.sides, tokens, strict=True):
            side.append(ids)

    def __enter__(self) -> "PairWriter":
        return self

    def __exit__(self, *_: object) -> None:
        for side in self.sides:
            side.close()
