"""Documents on disk: read once, checked, tokenised, cached under the hash of everything that they depend on."""

import hashlib
import json
import shutil
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path

import numpy as np
from jaxtyping import Int

from transformer_architectures.datasets.cached_folder import cached_folder
from transformer_architectures.datasets.rejections import REJECTED, Rejection, RejectionLog, all_usable
from transformer_architectures.datasets.splits import SPLITS, Split, hash_position, text_key
from transformer_architectures.datasets.text.document_store import DocumentStoreWriter
from transformer_architectures.datasets.text.documents import Document, DocumentsConfig, read_documents
from transformer_architectures.datasets.text.sources import TextRecipe
from transformer_architectures.errors import DataError
from transformer_architectures.tokenization.parallel import tokenize_texts
from transformer_architectures.tokenization.protocol import Tokenizer

COUNTS = "counts.json"
MIN_STRETCH = 1_000  # characters of a stretch that is worth validating on
MAX_PIECE = 2**18  # characters of exact text that are tokenised as one
AT_ONCE = 2**24  # characters of exact text that are tokenised together


@dataclass(frozen=True)
class DocumentsRecipe(TextRecipe[DocumentsConfig]):
    """Everything that the documents of the three splits depend on.

    Without validation files, documents are set apart from the training files in one of two ways:

    * A block or a line goes as a whole to one side, by the hash of its text.
    * A file may be the only one, or one of few long ones (a novel, a dump). So of each file that is alone, or so long that
      ``validation_fraction`` of it has `MIN_STRETCH` characters, one contiguous stretch of whole lines (or sentences) is set apart,
      and what is before and after it are two training documents. The place of the stretch follows from the hash of the text (the end
      of a file is often a licence or an index). Shorter files go as a whole to one side, by hash.

    In both, equal texts are divided in the same way, and no change of a file list moves any other document, unless a file is alone.
    """

    def documents(self, split: Split, rejections: RejectionLog | None = None) -> Iterator[Document]:
        """The documents of a split. Rejections of the training text go to ``rejections``, if given.

        Raises:
            DataError: a file cannot be read, or a line of a split that is scored is bad.
        """
        if split == "train":
            yield from islice(self._train(False, rejections), self.num_samples)
        elif split == "validation" and self.splits_train():
            yield from self._train(True)
        elif (config := self.source_of(split)) is not None:
            yield from all_usable(read_documents(config, split), f"line of the {split} split")

    def training_sentences(self) -> Iterator[str]:
        """The texts that a tokenizer may be trained on."""
        return (piece for document in self.documents("train") for piece in self.pieces("train", document))

    def pieces(self, split: Split, document: Document) -> tuple[str, ...]:
        """What is tokenised one by one: sentences, or exact text in as few pieces as `MAX_PIECE` allows, cut between lines."""
        return joined(document.sentences) if self.is_exact(split) else document.sentences

    def is_exact(self, split: Split) -> bool:
        """Whether the text of a split is exactly that of its files."""
        return (self.source_of(split) or self.train).text == "exact"

    def _train(self, is_set_apart: bool, rejections: RejectionLog | None = None) -> Iterator[Document]:
        is_alone = self.train.files is not None and len(self.train.paths()) == 1
        for row in read_documents(self.train, "train"):
            if isinstance(row, Rejection):
                if rejections is not None:
                    rejections.add(row)
            elif self.splits_train() and self.train.document == "file" and self._is_divided(row, is_alone):
                stretch = validation_stretch(row.sentences, self.validation_fraction)
                yield from _inside(row, stretch) if is_set_apart else _outside(row, stretch)
            elif self.sets_apart(text_key("\n".join(row.sentences))) == is_set_apart:
                yield row

    def _is_divided(self, document: Document, is_alone: bool) -> bool:
        return is_alone or sum(map(len, document.sentences)) * self.validation_fraction >= MIN_STRETCH


def validation_stretch(pieces: tuple[str, ...], fraction: float) -> range:
    """Which consecutive pieces of a document are set apart: about ``fraction`` of its characters, at a place by hash, but never all."""
    ends = list(accumulate(map(len, pieces)))
    wanted = fraction * ends[-1]
    place = hash_position(f"stretch {text_key(''.join(pieces))}") * (ends[-1] - wanted)
    first = bisect_left(ends, place) if place else 0
    last = bisect_left(ends, (ends[first - 1] if first else 0) + wanted)
    if last - first + 1 == len(pieces):
        first += 1
    return range(first, last + 1)


def joined(pieces: tuple[str, ...]) -> tuple[str, ...]:
    """Consecutive pieces joined, up to `MAX_PIECE` characters."""
    found: list[list[str]] = [[]]
    size = 0
    for piece in pieces:
        if size + len(piece) > MAX_PIECE and found[-1]:
            found.append([])
            size = 0
        found[-1].append(piece)
        size += len(piece)
    return tuple("".join(of_one) for of_one in found)


def _inside(document: Document, stretch: range) -> Iterator[Document]:
    if stretch:
        yield _stretch_of(document, stretch)


def _outside(document: Document, stretch: range) -> Iterator[Document]:
    for rest in (range(stretch.start), range(stretch.stop, len(document.sentences))):
        if rest:
            yield _stretch_of(document, rest)


def _stretch_of(document: Document, pieces: range) -> Document:
    """Some consecutive pieces; of lines, each is counted in about one of the stretches."""
    count, total = document.num_lines, len(document.sentences)
    num_lines = count * pieces.stop // total - count * pieces.start // total
    return document._replace(sentences=document.sentences[pieces.start : pieces.stop], num_lines=num_lines)


def prepare_documents(
    recipe: DocumentsRecipe, tokenizer: Tokenizer, cache_dir: Path, rejected_path: Path | None, num_processes: int
) -> Path:
    """The folder of the tokenised documents (a `DocumentStore` for each split, and the tokenizer): made now, or found in the cache.

    Args:
        rejected_path: gets one JSON line for each rejected training line: file, line, reason.

    Raises:
        DataError: too many lines are bad, one of a validation or test split is, or nothing is left to train on.
    """

    def make(work: Path) -> None:
        try:
            _write(work, recipe, tokenizer, num_processes)
        finally:  # the list is needed most if there is too much on it
            if rejected_path is not None and (work / REJECTED).is_file():
                shutil.copyfile(work / REJECTED, rejected_path)

    key = hashlib.sha256(f"{recipe.digest()} {tokenizer.digest()}".encode()).hexdigest()
    folder = cached_folder(cache_dir / f"documents-{key[:32]}", make)
    if rejected_path is not None:
        shutil.copyfile(folder / REJECTED, rejected_path)
    return folder


def document_counts(folder: Path) -> dict[str, int]:
    """Documents of each split, and lines of each reason for which training text was rejected (``rejected: <reason>``)."""
    return json.loads((folder / COUNTS).read_text(encoding="utf-8"))


def _write(folder: Path, recipe: DocumentsRecipe, tokenizer: Tokenizer, num_processes: int) -> None:
    tokenizer.save(folder)
    counts: dict[str, int] = {}
    with (folder / REJECTED).open("w", encoding="utf-8") as file:
        rejections = RejectionLog(file)
        num_lines = 0
        for split in SPLITS:
            counts[split], lines = _write_split(folder, split, recipe, rejections, tokenizer, num_processes)
            num_lines += lines if split == "train" else 0
    if not counts["train"]:
        raise DataError("no document is left to train on" + rejections.summary())
    rejections.check(num_lines, recipe.max_rejected_fraction, "training lines")
    counts |= {f"rejected: {reason}": count for reason, count in rejections.reasons.most_common()}
    (folder / COUNTS).write_text(json.dumps(counts), encoding="utf-8")


def _write_split(
    folder: Path,
    split: Split,
    recipe: DocumentsRecipe,
    rejections: RejectionLog,
    tokenizer: Tokenizer,
    num_processes: int,
) -> tuple[int, int]:
    """Returns how many documents, and of how many lines, there were."""
    waiting: deque[list[int]] = deque()  # UTF-8 bytes of each piece of the documents that are being tokenised
    num_documents = num_lines = 0

    def pieces() -> Iterator[str]:
        nonlocal num_documents, num_lines
        for document in recipe.documents(split, rejections):
            of_document = recipe.pieces(split, document)
            waiting.append([len(piece.encode()) for piece in of_document])
            num_documents += 1
            num_lines += document.num_lines
            yield from of_document

    if recipe.is_exact(split):
        tokenized = _tokenize_long_texts(pieces(), tokenizer)
    else:
        tokenized = tokenize_texts(pieces(), tokenizer, num_processes)
    with DocumentStoreWriter(folder, split, tokenizer.vocab_size) as writer:
        for first in tokenized:
            num_bytes = waiting.popleft()
            writer.append([first, *islice(tokenized, len(num_bytes) - 1)], num_bytes)
    return num_documents, num_lines


def _tokenize_long_texts(texts: Iterator[str], tokenizer: Tokenizer) -> Iterator[Int[np.ndarray, "_"]]:
    """Token ids of each text; a limited number of characters at once, in the tokenizer's own threads."""
    group: list[str] = []
    size = 0
    for text in texts:
        group.append(text)
        size += len(text)
        if size >= AT_ONCE:
            yield from (np.array(ids, dtype=np.int32) for ids in tokenizer.encode_batch(group))
            group, size = [], 0
    yield from (np.array(ids, dtype=np.int32) for ids in tokenizer.encode_batch(group))
