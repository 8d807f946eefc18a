"""Documents for a language model: config and data module."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import AliasChoices, Field, model_validator

from transformer_architectures.config import StrictModel
from transformer_architectures.datasets.data_module import DataConfig, DataModule
from transformer_architectures.datasets.loading import Collate, Loading
from transformer_architectures.datasets.splits import SPLITS
from transformer_architectures.datasets.text.document_corpus import (
    DocumentsRecipe,
    document_counts,
    joined,
    prepare_documents,
)
from transformer_architectures.datasets.text.document_store import DocumentStore, DocumentStoreWriter
from transformer_architectures.datasets.text.documents import DocumentForm, ExactDocumentsConfig, TextForm
from transformer_architectures.datasets.text.examples import document_examples
from transformer_architectures.datasets.text.language_model_rows import (
    LanguageModelBatch,
    LanguageModelCollator,
    LanguageModelRows,
    bytes_of_tokens,
)
from transformer_architectures.datasets.text.trained_tokenizer import BPE, TokenizerKind
from transformer_architectures.samplers import TokenBudgetBatchSampler
from transformer_architectures.tokenization import Tokenizer, load_tokenizer
from transformer_architectures.utils.processes import available_cores

TOKENIZERS: dict[str, TokenizerKind[Any]] = {"bpe": BPE}  # that are trained, by the names that a config uses


class LanguageModelSourceConfig(StrictModel):
    """The files of one split."""

    documents: ExactDocumentsConfig


class LanguageModelDataConfig(DataConfig):
    """Which documents are read, and how long the rows are that they are cut into."""

    train: LanguageModelSourceConfig
    validation: LanguageModelSourceConfig | None = None
    test: LanguageModelSourceConfig | None = None
    num_samples: int | None = Field(None, ge=1, description="train on the first n documents")
    context_length: int = Field(
        256, ge=1, validation_alias=AliasChoices("context_length", "max_length"), description="tokens of a row"
    )
    documents_apart: bool = Field(False, description="attention does not cross the end of a document")
    tokenizer: str = Field("bpe", description="bpe, which is trained; or the folder or file of a tokenizer")

    @model_validator(mode="after")
    def splits_fit(self) -> "LanguageModelDataConfig":
        if self.train.documents.has_own_splits and (self.validation or self.test):
            raise ValueError("the bible has its own validation and test chapters: leave those two out")
        return self

    def sources(self) -> dict[str, Any]:
        """The sources of a `DocumentsRecipe`."""
        declared = {"train": self.train, "validation": self.validation, "test": self.test}
        return {split: None if source is None else source.documents for split, source in declared.items()}


class LanguageModelDataModule(DataModule[LanguageModelDataConfig, LanguageModelRows, LanguageModelBatch]):
    """Everything between the `Data:` section of a language model and its batches.

    Args:
        vocab_size: of the tokenizer that is trained on the training split, unless one is given.
        batch_tokens: tokens of a batch at most.
        tokenizer: that of `Model.pretrained`; otherwise the one that the config names, or a new one.
        seed, loading, rejected_path: see `DataModule`.
    """

    def __init__(
        self,
        config: LanguageModelDataConfig,
        vocab_size: int,
        *,
        seed: int,
        batch_tokens: int,
        tokenizer: Tokenizer | None = None,
        loading: Loading = Loading(),
        rejected_path: Path | None = None,
    ) -> None:
        super().__init__(config, seed=seed, loading=loading, rejected_path=rejected_path)
        self.vocab_size, self.batch_tokens = vocab_size, batch_tokens
        if tokenizer is None and config.tokenizer not in TOKENIZERS:
            path = Path(config.tokenizer)
            tokenizer = load_tokenizer(path.parent if path.is_file() else path)
        self.given_tokenizer = tokenizer

    def setup(self) -> None:
        """See `DataModule.setup`."""
        config = self.config
        recipe = DocumentsRecipe(**config.sources(), **config.amounts())
        tokenizer = self.given_tokenizer
        if tokenizer is None:
            kind, texts = TOKENIZERS[config.tokenizer], recipe.training_sentences()
            tokenizer = kind.trained(config.cache_path, recipe.digest(), texts, self.vocab_size, config)
        self.tokenizer: Tokenizer = tokenizer
        self.folder = prepare_documents(recipe, tokenizer, config.cache_path, self.rejected_path, available_cores())
        self._datasets = {
            split: rows_over(
                DocumentStore(self.folder, split, tokenizer.vocab_size),
                tokenizer,
                config.context_length,
                counts_bytes=split != "train",
            )
            for split in map(str, SPLITS)
        }
        self.check_validation()
        self.sampler = TokenBudgetBatchSampler(self.dataset("train").lengths[:, None], self.batch_tokens, self.seed)

    def row_counts(self) -> dict[str, int]:
        """Documents and rows of each split, and lines of each reason for which training text was rejected."""
        rows = {f"rows: {split}": len(dataset) for split, dataset in self._datasets.items()}
        return {**document_counts(self.folder), **rows}

    @property
    def digest(self) -> str:
        """See `DataModule.digest`."""
        return self.folder.name

    def collator(self) -> Collate:
        """Makes batches of rows."""
        return LanguageModelCollator(self.tokenizer.pad_id, self.config.documents_apart)

    def evaluation_sampler(self, dataset: LanguageModelRows) -> TokenBudgetBatchSampler:
        """Longest rows first."""
        return TokenBudgetBatchSampler(dataset.lengths[:, None], self.batch_tokens, self.seed, shuffle=False)


def rows_over(
    store: DocumentStore, tokenizer: Tokenizer, context_length: int, counts_bytes: bool = True
) -> LanguageModelRows:
    """The rows of stored documents, divided by the tokenizer's begin and end tokens."""
    begin_id = getattr(tokenizer, "bos_id", None)
    return LanguageModelRows(
        store,
        context_length,
        tokenizer.eos_id if begin_id is None else begin_id,
        tokenizer.eos_id,
        *((store.num_bytes(), bytes_of_tokens(tokenizer)) if counts_bytes else ()),
    )


def language_model_rows_of_file(
    path: Path, tokenizer: Tokenizer, context_length: int, text: TextForm = "exact", document: DocumentForm = "file"
) -> LanguageModelRows:
    """The rows of a text file to be scored.

    Raises:
        DataError: the file cannot be read, or a line is not UTF-8.
    """
    with tempfile.TemporaryDirectory() as folder:
        with DocumentStoreWriter(Path(folder), "test", tokenizer.vocab_size) as writer:
            for found in document_examples(path, text, document):
                pieces = joined(found.sentences) if text == "exact" else found.sentences
                encoded = [np.array(ids, dtype=np.int64) for ids in tokenizer.encode_batch(pieces)]
                writer.append(encoded, [len(piece.encode()) for piece in pieces])
        return rows_over(DocumentStore(Path(folder), "test", tokenizer.vocab_size), tokenizer, context_length)
