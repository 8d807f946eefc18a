"""Documents to pre-train an encoder on: packed rows, masked."""

import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from transformer_architectures.datasets.splits import SPLITS
from transformer_architectures.datasets.text.data_config import EncoderDataConfig
from transformer_architectures.datasets.text.document_corpus import DocumentsRecipe, document_counts, prepare_documents
from transformer_architectures.datasets.text.document_store import DocumentStore, DocumentStoreWriter
from transformer_architectures.datasets.text.examples import document_examples
from transformer_architectures.datasets.text.packed_batches import TokenDataset, TokenRow
from transformer_architectures.datasets.text.packing import PackedRows, pack_documents
from transformer_architectures.datasets.text.token_masking import DynamicMasking, MaskingConfig
from transformer_architectures.datasets.text.trained_tokenizer import TokenizerKind
from transformer_architectures.datasets.text.windowed_text import EncoderTokenizer, WindowedText, special_tokens_of
from transformer_architectures.utils.processes import available_cores

NO_WORDS = np.empty(0, dtype=np.int64)  # words do not matter here


@dataclass(frozen=True)
class MaskedRows(TokenDataset):
    """Packed rows of documents, masked anew in every epoch."""

    store: DocumentStore
    rows: PackedRows
    masking: DynamicMasking
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> TokenRow:
        row = self.rows.row(index, self.store.tokens)
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
class DocumentSplits:
    """The splits of a set of documents, on disk, packed into rows."""

    folder: Path
    tokenizer: Any
    datasets: dict[str, TokenDataset]

    def row_counts(self) -> dict[str, int]:
        """Documents and packed rows of each split, and lines of each reason for which training text was rejected."""
        packed = {f"packed rows: {split}": len(dataset) for split, dataset in self.datasets.items()}
        return {**document_counts(self.folder), **packed}

    @property
    def digest(self) -> str:
        """Of settings, content of the files and tokenizer."""
        return self.folder.name


def read_masked_rows(
    config: EncoderDataConfig,
    kind: TokenizerKind[Any],
    vocab_size: int,
    seed: int,
    tokenizer: EncoderTokenizer | None,
    rejected_path: Path | None,
) -> DocumentSplits:
    """Documents of all splits, tokenised and packed; validation and test rows with one fixed set of masks.

    Args:
        tokenizer: a given one; otherwise one of this ``kind`` is trained on the training split.

    Raises:
        DataError: a file is missing or bad, or too many lines are.
    """
    recipe = DocumentsRecipe(**config.sources(), **config.amounts())
    if tokenizer is None:
        tokenizer = kind.trained(config.cache_path, recipe.digest(), recipe.training_sentences(), vocab_size, config)
    folder = prepare_documents(recipe, tokenizer, config.cache_path, rejected_path, available_cores())
    masking = dynamic_masking(config.masking, seed, tokenizer)
    datasets: dict[str, TokenDataset] = {}
    for split in SPLITS:
        store = DocumentStore(folder, split, tokenizer.vocab_size)
        rows = pack_documents(store, config.max_length, special_tokens_of(tokenizer))
        if rows.num_cut_sentences and not recipe.is_exact(split):
            count = f"{rows.num_cut_sentences:,}"
            print(f"{split}: {count} sentences longer than a row were cut into pieces", file=sys.stderr)
        datasets[split] = MaskedRows(store, rows, masking if split == "train" else masking.for_validation())
    return DocumentSplits(folder, tokenizer, datasets)


def masked_rows_of_file(path: Path, tokenizer: EncoderTokenizer, max_length: int, masking: MaskingConfig) -> MaskedRows:
    """A text file to be scored, a document up to each empty line, with the masks that validation has.

    Raises:
        DataError: a line is bad, or there is no text.
    """
    with tempfile.TemporaryDirectory() as folder:
        with DocumentStoreWriter(Path(folder), "test", tokenizer.vocab_size) as writer:
            for document in document_examples(path):
                writer.append(np.array(ids, dtype=np.int64) for ids in tokenizer.encode_batch(document.sentences))
        store = DocumentStore(Path(folder), "test", tokenizer.vocab_size)
    rows = pack_documents(store, max_length, special_tokens_of(tokenizer))
    return MaskedRows(store, rows, dynamic_masking(masking, 0, tokenizer).for_validation())


def dynamic_masking(config: MaskingConfig, seed: int, tokenizer: EncoderTokenizer) -> DynamicMasking:
    """The masking of a tokenizer's tokens."""
    return DynamicMasking(config, seed, tokenizer.mask_id, special_tokens(tokenizer), tokenizer.continues_word())


def special_tokens(tokenizer: EncoderTokenizer) -> Bool[np.ndarray, "vocab"]:
    """Of each token id, whether it is special."""
    is_special = np.zeros(tokenizer.vocab_size, dtype=bool)
    is_special[list(tokenizer.special_ids)] = True
    return is_special
