"""Documents on disk: read once, checked, tokenised, cached under the hash of everything that they depend on."""

import hashlib
import json
import shutil
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from transformer_architectures.datasets.cached_folder import cached_folder
from transformer_architectures.datasets.document_store import DocumentStoreWriter
from transformer_architectures.datasets.documents import Document, DocumentsConfig, read_documents
from transformer_architectures.datasets.parts_recipe import PARTS, PartsRecipe
from transformer_architectures.datasets.rejections import REJECTED, Rejection, RejectionLog
from transformer_architectures.datasets.splitting import Part
from transformer_architectures.errors import DataError
from transformer_architectures.tokenization.parallel import tokenize_texts
from transformer_architectures.tokenization.protocol import Tokenizer

COUNTS = "counts.json"


@dataclass(frozen=True)
class DocumentsRecipe(PartsRecipe[DocumentsConfig]):
    """Everything that the documents of the three parts depend on; a row is a document."""

    def documents(self, part: Part, rejections: RejectionLog | None = None) -> Iterator[Document]:
        """The documents of a part. What is rejected of the training text goes to ``rejections``, where they are given.

        Raises:
            DataError: a file cannot be read, or a line of a part that is scored is bad.
        """
        if part == "train":
            yield from islice(self._train(False, rejections), self.num_samples)
        elif part == "validation" and self.splits_train():
            yield from self._train(True)
        elif (config := self.config_of(part)) is not None:
            for row in read_documents(config, part):
                if isinstance(row, Rejection):
                    raise DataError(
                        f"{row.file}:{row.line}: {row.reason}; all text of the {part} part is scored, mend it"
                    )
                yield row

    def training_sentences(self) -> Iterator[str]:
        """What a tokenizer may be trained on."""
        return (sentence for document in self.documents("train") for sentence in document.sentences)

    def _train(self, is_set_apart: bool, rejections: RejectionLog | None = None) -> Iterator[Document]:
        for row in read_documents(self.train, "train"):
            if isinstance(row, Rejection):
                if rejections is not None:
                    rejections.add(row)
            elif self.sets_apart("\n".join(row.sentences)) == is_set_apart:
                yield row


def prepare_documents(
    recipe: DocumentsRecipe, tokenizer: Tokenizer, cache_dir: Path, rejected_path: Path | None, num_processes: int
) -> Path:
    """The folder of the tokenised documents (a `DocumentStore` for each part, and the tokenizer): made now, or found in the cache.

    Args:
        rejected_path: gets one JSON line for each rejected training line: file, line, reason.

    Raises:
        DataError: too many lines are bad, one of a validation or test part is, or nothing is left to train on.
    """

    def make(work: Path) -> None:
        try:
            _write(work, recipe, tokenizer, num_processes)
        finally:  # the list is wanted most where there is too much on it
            if rejected_path is not None and (work / REJECTED).is_file():
                shutil.copyfile(work / REJECTED, rejected_path)

    key = hashlib.sha256(f"{recipe.digest()} {tokenizer.digest()}".encode()).hexdigest()
    folder = cached_folder(cache_dir / f"documents-{key[:32]}", make)
    if rejected_path is not None:
        shutil.copyfile(folder / REJECTED, rejected_path)
    return folder


def document_counts(folder: Path) -> dict[str, int]:
    """Documents of each part, and lines of each reason for which training text was rejected (``rejected: <reason>``)."""
    counts: dict[str, int] = json.loads((folder / COUNTS).read_text(encoding="utf-8"))
    return counts


def _write(folder: Path, recipe: DocumentsRecipe, tokenizer: Tokenizer, num_processes: int) -> None:
    tokenizer.save(folder)
    counts: dict[str, int] = {}
    with (folder / REJECTED).open("w", encoding="utf-8") as file:
        rejections = RejectionLog(file)
        num_lines = 0
        for part in PARTS:
            documents = recipe.documents(part, rejections)
            counts[part], lines = _write_part(folder, part, documents, tokenizer, num_processes)
            num_lines += lines if part == "train" else 0
    if not counts["train"]:
        raise DataError("no document is left to train on" + rejections.summary())
    rejections.check(num_lines, recipe.max_rejected_fraction, "training lines")
    counts |= {f"rejected: {reason}": count for reason, count in rejections.reasons.most_common()}
    (folder / COUNTS).write_text(json.dumps(counts), encoding="utf-8")


def _write_part(
    folder: Path, part: Part, documents: Iterator[Document], tokenizer: Tokenizer, num_processes: int
) -> tuple[int, int]:
    """Returns how many documents, and of how many lines, there were."""
    waiting: deque[int] = deque()  # the number of sentences of documents that are on their way through the tokenizer
    num_documents = num_lines = 0

    def sentences() -> Iterator[str]:
        nonlocal num_documents, num_lines
        for document in documents:
            waiting.append(len(document.sentences))
            num_documents += 1
            num_lines += document.num_lines
            yield from document.sentences

    tokenized = tokenize_texts(sentences(), tokenizer, num_processes)
    with DocumentStoreWriter(folder, part, tokenizer.vocab_size) as writer:
        for first in tokenized:
            writer.append([first, *islice(tokenized, waiting.popleft() - 1)])
    return num_documents, num_lines


__all__ = ["DocumentsRecipe", "document_counts", "prepare_documents"]
