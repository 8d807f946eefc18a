"""Masked language models that are compared in training: ``build(size) -> (model, loss, how its batches look)``.

All see the same masked sentences and compute the same model: learned positions, exact GELU, four times as wide feed-forward layers,
tied output matrix, dropout 0.1 but none on attention weights (which would keep peers from torch's fused kernel).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_architectures.architectures.bert import (
    BertForMaskedLM,
    BertModelConfig,
    LabeledBatch,
    TransformerDataCollator,
)
from transformer_architectures.datasets.text.packed_batches import TokenRow
from transformer_architectures.datasets.text.windowed_text import WindowedText
from transformer_architectures.kernels.cross_entropy import linear_cross_entropy
from transformer_architectures.tasks.masked_language_model import masked_features

DROPOUT, MAX_LENGTH, IGNORED_LABEL, PAD = 0.1, 512, -100, 0


@dataclass(frozen=True)
class Size:
    """Layers, width and heads."""

    name: str
    layers: int
    dim: int
    heads: int
    vocab: int = 8000


class MaskedSentence(NamedTuple):
    """Token ids with masks in them; where these are, and what stood there."""

    ids: np.ndarray
    positions: np.ndarray
    labels: np.ndarray


Form = Callable[[list[MaskedSentence]], Any]
Built = tuple[nn.Module, Callable[[Any], Tensor], Form]


def packed(sentences: list[MaskedSentence]) -> LabeledBatch:
    """One behind the other."""
    share, no_words = np.ones(1, dtype=np.float32), np.empty(0, dtype=np.int64)
    rows = [
        TokenRow(WindowedText(ids, (len(ids),), no_words, share), positions, labels)
        for ids, positions, labels in sentences
    ]
    return TransformerDataCollator(PAD)(list(enumerate(rows)))


def padded(sentences: list[MaskedSentence]) -> dict[str, Tensor]:
    """To the longest, as the collators of `transformers` do it."""
    longest = max(len(sentence.ids) for sentence in sentences)
    input_ids = torch.full((len(sentences), longest), PAD)
    labels = torch.full((len(sentences), longest), IGNORED_LABEL)
    attention_mask = torch.zeros(len(sentences), longest, dtype=torch.long)
    for row, sentence in enumerate(sentences):
        input_ids[row, : len(sentence.ids)] = torch.from_numpy(sentence.ids)
        attention_mask[row, : len(sentence.ids)] = 1
        labels[row, sentence.positions] = torch.from_numpy(sentence.labels)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def ours(size: Size) -> Built:
    """This library, as `MaskedLanguageModelTask` trains it."""
    config = BertModelConfig(
        vocab_size=size.vocab,
        embed_dim=size.dim,
        num_heads=size.heads,
        ff_dim=4 * size.dim,
        num_layers=size.layers,
        dropout=DROPOUT,
        max_positions=MAX_LENGTH,
    )
    model = BertForMaskedLM(config)

    def loss(batch: LabeledBatch) -> Tensor:
        decoder = model.masked_lm_head.decoder
        features = masked_features(model, batch)
        return linear_cross_entropy(features, decoder.weight, decoder.bias, batch.labels, 0.0) / batch.num_labels

    return model, loss, packed


def hugging_face(size: Size) -> Built:
    """`transformers`, which projects all tokens to the vocabulary."""
    from transformers import BertConfig
    from transformers import BertForMaskedLM as TheirBertForMaskedLM

    model = TheirBertForMaskedLM(
        BertConfig(
            vocab_size=size.vocab,
            hidden_size=size.dim,
            num_attention_heads=size.heads,
            intermediate_size=4 * size.dim,
            num_hidden_layers=size.layers,
            hidden_dropout_prob=DROPOUT,
            attention_probs_dropout_prob=0.0,
            max_position_embeddings=MAX_LENGTH,
        )
    )
    return model, lambda batch: model(**batch).loss, padded


class TorchBert(nn.Module):
    """`torch.nn.TransformerEncoder` between embeddings and the head of ours, which sees the masked tokens only."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(size.vocab, size.dim), nn.Embedding(MAX_LENGTH, size.dim)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.norm, self.dropout = nn.LayerNorm(size.dim), nn.Dropout(DROPOUT)
        layer = nn.TransformerEncoderLayer(
            size.dim, size.heads, 4 * size.dim, DROPOUT, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, size.layers, nn.LayerNorm(size.dim), enable_nested_tensor=False)
        for block in self.encoder.layers:
            block.self_attn.dropout = 0.0  # type: ignore[union-attr]
            block.dropout.p = 0.0  # type: ignore[union-attr, assignment]  # inside the feed-forward layer: others have none there
        self.transform, self.head_norm = nn.Linear(size.dim, size.dim), nn.LayerNorm(size.dim)
        self.bias = nn.Parameter(torch.zeros(size.vocab))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
        states = self.tokens(input_ids) + self.positions.weight[: input_ids.shape[1]]
        padding = None if bool(attention_mask.all()) else attention_mask == 0
        states = self.encoder(self.dropout(self.norm(states)), src_key_padding_mask=padding)
        is_asked = labels != IGNORED_LABEL
        features = self.head_norm(F.gelu(self.transform(states[is_asked])))
        return F.cross_entropy(F.linear(features, self.tokens.weight, self.bias), labels[is_asked])


def torch_encoder(size: Size) -> Built:
    """`torch.nn.TransformerEncoder`."""
    model = TorchBert(size)
    return model, lambda batch: model(**batch), padded


SYSTEMS: dict[str, Callable[[Size], Built]] = {
    "transformer_architectures": ours,
    "transformers BertForMaskedLM": hugging_face,
    "torch.nn.TransformerEncoder": torch_encoder,
}
