"""Documents to pre-train on: packed rows, masked."""

import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

from transformer_architectures.architectures.bert.data_config import BertDataConfig
from transformer_architectures.architectures.bert.rows import TokenRow, TransformerDataset
from transformer_architectures.architectures.bert.trained_tokenizer import part_settings, trained_tokenizer
from transformer_architectures.architectures.bert.windowed_text import WindowedText
from transformer_architectures.datasets.document_corpus import DocumentsRecipe, document_counts, prepare_documents
from transformer_architectures.datasets.document_store import DocumentStore, DocumentStoreWriter
from transformer_architectures.datasets.documents import DocumentsConfig
from transformer_architectures.datasets.masking import DynamicMasking, MaskingConfig
from transformer_architectures.datasets.packing import PackedRows, pack_documents
from transformer_architectures.datasets.parts_recipe import PARTS
from transformer_architectures.processes import available_cores
from transformer_architectures.tokenization import WordPieceTokenizer

NO_WORDS = np.empty(0, dtype=np.int64)  # what words there are is of no interest here


@dataclass(frozen=True)
class MaskedRows(TransformerDataset):
    """Packed rows of documents, masked anew in every epoch."""

    store: DocumentStore
    rows: PackedRows
    masking: DynamicMasking
    tokenizer: WordPieceTokenizer
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TokenRow:
        row = self.rows.row(index, self.store.tokens, self.tokenizer.cls_id, self.tokenizer.sep_id)
        masked = self.masking(row.input_ids, self.epoch, index)
        weights = np.array(row.segment_lengths, dtype=np.float32) / len(row.input_ids)
        text = WindowedText(masked.input_ids, row.segment_lengths, NO_WORDS, weights)
        return TokenRow(text, masked.positions, masked.labels)

    def at(self, epoch: int) -> "MaskedRows":
        """With the masks of that epoch."""
        return replace(self, epoch=epoch)

    @property
    def lengths(self) -> Int[np.ndarray, "rows"]:
        """Tokens of each row."""
        return self.rows.row_lengths


@dataclass(frozen=True)
class DocumentParts:
    """Documents on disk, packed into rows."""

    folder: Path
    tokenizer: WordPieceTokenizer
    datasets: dict[str, TransformerDataset]

    def row_counts(self) -> dict[str, int]:
        """Documents and packed rows of each part, and lines of each reason for which training text was rejected."""
        packed = {f"packed rows: {part}": len(dataset) for part, dataset in self.datasets.items()}
        return {**document_counts(self.folder), **packed}

    @property
    def digest(self) -> str:
        """Of settings, content of the files and tokenizer."""
        return self.folder.name


def read_documents(
    config: BertDataConfig,
    vocab_size: int,
    seed: int,
    tokenizer: WordPieceTokenizer | None,
    rejected_path: Path | None,
) -> DocumentParts:
    """Documents of all parts, tokenised and packed; validation and test rows with one fixed set of masks.

    Raises:
        DataError: a file is missing or bad, or too many lines are.
    """
    recipe = DocumentsRecipe(**part_settings(config))
    if tokenizer is None:
        tokenizer = trained_tokenizer(config, vocab_size, recipe, recipe.training_sentences())
    cache_dir = Path(config.cache_dir).expanduser()
    folder = prepare_documents(recipe, tokenizer, cache_dir, rejected_path, available_cores())
    masking = dynamic_masking(config.masking, seed, tokenizer)
    datasets: dict[str, TransformerDataset] = {}
    for part in PARTS:
        store = DocumentStore(folder, part, tokenizer.vocab_size)
        rows = pack_documents(store, config.max_length)
        if rows.num_cut_sentences:
            count = f"{rows.num_cut_sentences:,}"
            print(f"{part}: {count} sentences longer than a row were cut into pieces", file=sys.stderr)
        datasets[part] = MaskedRows(store, rows, masking if part == "train" else masking.for_validation(), tokenizer)
    return DocumentParts(folder, tokenizer, datasets)


def masked_rows_of_file(
    path: Path, tokenizer: WordPieceTokenizer, max_length: int, masking: MaskingConfig
) -> MaskedRows:
    """A text file to be scored, a document up to each empty line, with the masks that validation has.

    Raises:
        DataError: a line is bad, or there is no text.
    """
    documents = DocumentsConfig.model_validate({"files": [str(path)]})
    recipe = DocumentsRecipe(train=documents, validation=documents, max_rejected_fraction=0.0)
    with tempfile.TemporaryDirectory() as folder:
        with DocumentStoreWriter(Path(folder), "test", tokenizer.vocab_size) as writer:
            for document in recipe.documents("validation"):
                writer.append(np.array(ids, dtype=np.int64) for ids in tokenizer.encode_batch(document.sentences))
        store = DocumentStore(Path(folder), "test", tokenizer.vocab_size)
    rows = pack_documents(store, max_length)
    return MaskedRows(store, rows, dynamic_masking(masking, 0, tokenizer).for_validation(), tokenizer)


def dynamic_masking(config: MaskingConfig, seed: int, tokenizer: WordPieceTokenizer) -> DynamicMasking:
    """The masking of a tokenizer's tokens."""
    return DynamicMasking(config, seed, tokenizer.mask_id, special_tokens(tokenizer), tokenizer.continues_word())


def special_tokens(tokenizer: WordPieceTokenizer) -> Bool[np.ndarray, "vocab"]:
    """Of each token id, whether it is special."""
    is_special = np.zeros(tokenizer.vocab_size, dtype=bool)
    is_special[list(tokenizer.special_ids)] = True
    return is_special


__all__ = ["DocumentParts", "MaskedRows", "masked_rows_of_file", "read_documents", "special_tokens"]
