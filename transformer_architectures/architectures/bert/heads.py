"""What each head gives for a packed batch: one row of logits for each thing that has a label."""

import torch
from jaxtyping import Float
from torch import Tensor

from transformer_architectures.architectures.bert.data import LabeledBatch
from transformer_architectures.architectures.bert.transformer import (
    BertForMaskedLM,
    BertForSeqClassification,
    BertForTokenClassification,
)


def masked_features(model: BertForMaskedLM, batch: LabeledBatch) -> Float[Tensor, "labels embed_dim"]:
    """What the decoder of the masked LM sees at the masked tokens."""
    return model.forward_features(**batch.inputs, labeled_positions=batch.positions)


def word_logits(model: BertForTokenClassification, batch: LabeledBatch) -> Float[Tensor, "labels classes"]:
    """Of each word, at its first sub-word."""
    states: Tensor = model.backbone(**batch.inputs)
    logits: Tensor = model.token_head(model.classifier_dropout(states[0].index_select(0, batch.positions)))
    return logits


def text_logits(model: BertForSeqClassification, batch: LabeledBatch) -> Float[Tensor, "texts classes"]:
    """Of each text: the mean of its windows' logits, every sub-word with the same weight."""
    of_segments = model(**batch.inputs).float()
    weighted = of_segments * batch.weight_of_segment[:, None]
    pooled = torch.zeros(len(batch.indices), of_segments.shape[1], device=weighted.device)
    return pooled.index_add(0, batch.text_of_segment, weighted)


__all__ = ["masked_features", "text_logits", "word_logits"]
