"""The `Data:` section of an encoder's tasks. The form of the training text decides which task it is."""

from typing import Any, Literal

from pydantic import Field, model_validator

from transformer_architectures.config import StrictModel
from transformer_architectures.datasets.data_module import DataConfig
from transformer_architectures.datasets.text.documents import DocumentsConfig
from transformer_architectures.datasets.text.labeled_text import LabeledTextConfig
from transformer_architectures.datasets.text.sources import SourceConfig
from transformer_architectures.datasets.text.tagged_text import TaggedTextConfig
from transformer_architectures.datasets.text.token_masking import MaskingConfig

Kind = Literal["documents", "texts", "tags"]


class TextSourceConfig(StrictModel):
    """The files of one split. Exactly one of:

    * ``documents``: plain text, to pre-train on;
    * ``texts``: texts with labels, to classify;
    * ``tags``: words with tags, to tag.
    """

    documents: DocumentsConfig | None = None
    texts: LabeledTextConfig | None = None
    tags: TaggedTextConfig | None = None

    @model_validator(mode="after")
    def is_one_form(self) -> "TextSourceConfig":
        if sum(form is not None for form in (self.documents, self.texts, self.tags)) != 1:
            raise ValueError("give exactly one of: documents, texts, tags")
        return self

    @property
    def kind(self) -> Kind:
        """Which of the three it is."""
        if self.documents is not None:
            return "documents"
        return "texts" if self.texts is not None else "tags"

    @property
    def source(self) -> SourceConfig:
        """The one that is given."""
        source = self.documents or self.texts or self.tags
        assert source is not None
        return source


class EncoderDataConfig(DataConfig):
    """Which texts are read, how they are cut into windows, and where the work is kept."""

    train: TextSourceConfig
    validation: TextSourceConfig | None = None
    test: TextSourceConfig | None = None
    num_samples: int | None = Field(
        None, ge=1, description="train on the first n documents, or on n labelled rows, chosen by hash"
    )
    max_length: int = Field(128, ge=4, description="tokens of a window, special ones included")
    stride: int | None = Field(
        None, ge=1, description="tokens from window to window of a long text; half of one unless given"
    )
    masking: MaskingConfig = MaskingConfig()
    tokenizer: str | None = Field(
        None,
        description="wordpiece (the default) or bpe, which are trained; or a vocab.txt, a tokenizer.json or their folder",
    )
    lowercase: bool = Field(True, description="of a tokenizer that is trained")

    @model_validator(mode="after")
    def splits_fit(self) -> "EncoderDataConfig":
        others = [source for source in (self.validation, self.test) if source is not None]
        if any(source.kind != self.train.kind for source in others):
            raise ValueError(f"validation and test must be {self.train.kind}, as train is")
        if self.train.source.has_own_splits and others:
            raise ValueError("the bible has its own validation and test chapters: leave those two out")
        given = self.model_fields_set
        if self.train.kind == "documents" and "stride" in given:
            raise ValueError("stride belongs to texts and tags: documents are packed into rows")
        if self.train.kind != "documents" and "masking" in given:
            raise ValueError("masking belongs to documents")
        if self.tokenizer == "bpe" and "lowercase" in given:
            raise ValueError("lowercase belongs to tokenizer: wordpiece; bpe keeps all letters")
        if self.tokenizer not in (None, "wordpiece") and "lowercase" in given:
            raise ValueError("lowercase belongs to a tokenizer that is trained, not to one that is given")
        if self.stride is not None and self.stride > self.max_length - 2:
            raise ValueError(f"stride must be at most max_length - 2, {self.max_length - 2}, or text would be left out")
        return self

    @property
    def window_stride(self) -> int:
        """Tokens from the beginning of a window to that of the next."""
        return max(1, (self.max_length - 2) // 2) if self.stride is None else self.stride

    def sources(self) -> dict[str, Any]:
        """The sources of a `TextRecipe`."""
        declared = {"train": self.train, "validation": self.validation, "test": self.test}
        return {split: None if source is None else source.source for split, source in declared.items()}
