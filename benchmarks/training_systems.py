"""The systems that are compared in training, each built as its users build it: ``build(size) -> (model, loss)``.

All get the same batches, the same optimizer and the same vocabulary; ``loss(batch)`` is their own, with label smoothing 0.1
where they have it. A system's own padding masks are what its documentation shows.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_architectures.architectures.vanilla import LabeledBatch, Transformer, VanillaModelConfig
from transformer_architectures.architectures.vanilla.data import IGNORED_LABEL
from transformer_architectures.kernels.cross_entropy import linear_cross_entropy

PAD, BOS, EOS = 0, 1, 2
DROPOUT, SMOOTHING, MAX_LENGTH = 0.1, 0.1, 512


@dataclass(frozen=True)
class Size:
    """Layers of encoder and of decoder, and their widths."""

    name: str
    layers: int
    dim: int
    heads: int
    ff_dim: int
    vocab: int = 6000


Loss = Callable[[LabeledBatch], Tensor]
Built = tuple[nn.Module, Loss]


def ours(size: Size) -> Built:
    """This library."""
    model = Transformer(
        VanillaModelConfig(
            vocab_size=size.vocab,
            embed_dim=size.dim,
            num_heads=size.heads,
            ff_dim=size.ff_dim,
            num_layers=size.layers,
            dropout=DROPOUT,
            max_length=MAX_LENGTH,
        )
    )

    def loss(batch: LabeledBatch) -> Tensor:
        states = model.forward_features(batch.source_ids, batch.target_ids, batch.source_mask).flatten(0, 1)
        labels = batch.labels.flatten()
        rows = (labels != IGNORED_LABEL).nonzero().squeeze(1)
        weight = model.output_projection.weight
        return linear_cross_entropy(states[rows], weight, None, labels[rows], SMOOTHING) / batch.num_labels

    return model, loss


def marian(size: Size) -> Built:
    """`transformers` MarianMT with its default attention; its loss has no label smoothing, which spares it work."""
    from transformers import MarianConfig, MarianMTModel

    model = MarianMTModel(
        MarianConfig(
            vocab_size=size.vocab,
            d_model=size.dim,
            encoder_layers=size.layers,
            decoder_layers=size.layers,
            encoder_attention_heads=size.heads,
            decoder_attention_heads=size.heads,
            encoder_ffn_dim=size.ff_dim,
            decoder_ffn_dim=size.ff_dim,
            dropout=DROPOUT,
            activation_function="relu",
            scale_embedding=True,
            max_position_embeddings=MAX_LENGTH,
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=EOS,
            decoder_start_token_id=BOS,
        )
    )

    def loss(batch: LabeledBatch) -> Tensor:
        output = model(
            input_ids=batch.source_ids,
            attention_mask=batch.source_mask.long(),
            decoder_input_ids=batch.target_ids,
            labels=batch.labels,
        )
        return output.loss  # type: ignore[no-any-return]

    return model, loss


class TorchTranslator(nn.Module):
    """`torch.nn.Transformer` with embeddings, positions and a tied output, after torch's translation tutorial."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size.vocab, size.dim)
        nn.init.normal_(self.embedding.weight, std=size.dim**-0.5)
        angles = torch.arange(MAX_LENGTH)[:, None] / 10000 ** (torch.arange(0, size.dim, 2) / size.dim)
        self.register_buffer("positions", torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1))
        self.dropout = nn.Dropout(DROPOUT)
        self.transformer = nn.Transformer(
            size.dim, size.heads, size.layers, size.layers, size.ff_dim, DROPOUT, batch_first=True, norm_first=True
        )
        self.scale = math.sqrt(size.dim)

    def embed(self, ids: Tensor) -> Tensor:
        positions: Tensor = self.positions[: ids.shape[1]]  # type: ignore[index]
        return self.dropout(self.embedding(ids) * self.scale + positions)  # type: ignore[no-any-return]

    def forward(self, source_ids: Tensor, source_is_padding: Tensor, target_ids: Tensor) -> Tensor:
        causal = nn.Transformer.generate_square_subsequent_mask(target_ids.shape[1], dtype=torch.bool)
        decoded = self.transformer(
            self.embed(source_ids),
            self.embed(target_ids),
            tgt_mask=causal,
            src_key_padding_mask=source_is_padding,
            memory_key_padding_mask=source_is_padding,
            tgt_is_causal=True,
        )
        return F.linear(decoded, self.embedding.weight)


def torch_transformer(size: Size) -> Built:
    """`torch.nn.Transformer`."""
    model = TorchTranslator(size)

    def loss(batch: LabeledBatch) -> Tensor:
        logits = model(batch.source_ids, ~batch.source_mask, batch.target_ids)
        return F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), label_smoothing=SMOOTHING)

    return model, loss


def x_transformers(size: Size) -> Built:
    """`x-transformers` XTransformer; its wrapper shifts the targets itself, and has no label smoothing."""
    from x_transformers import XTransformer

    stack: dict[str, Any] = {
        "num_tokens": size.vocab,
        "max_seq_len": MAX_LENGTH,
        "depth": size.layers,
        "heads": size.heads,
        "attn_dim_head": size.dim // size.heads,
        "ff_mult": size.ff_dim / size.dim,
        "attn_flash": True,
        "attn_dropout": DROPOUT,
        "ff_dropout": DROPOUT,
        "emb_dropout": DROPOUT,
    }
    prefixed = {f"{side}_{key}": value for side in ("enc", "dec") for key, value in stack.items()}
    model = XTransformer(dim=size.dim, tie_token_emb=True, ignore_index=IGNORED_LABEL, pad_value=PAD, **prefixed)

    def loss(batch: LabeledBatch) -> Tensor:
        targets = torch.cat([batch.target_ids[:, :1], batch.labels], dim=1)
        return model(batch.source_ids, targets, mask=batch.source_mask)  # type: ignore[no-any-return]

    return model, loss


def joeynmt(size: Size) -> Built:
    """JoeyNMT, pre-norm, everything tied."""
    from joeynmt.model import build_model
    from joeynmt.vocabulary import Vocabulary

    special = SimpleNamespace(
        unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>", sep_token=None, lang_tags=[]
    )
    # Joey's own order is unk, pad, bos, eos.
    special.unk_id, special.pad_id, special.bos_id, special.eos_id = range(4)
    vocabulary = Vocabulary([f"t{number}" for number in range(4, size.vocab)], special)
    stack: dict[str, Any] = {
        "type": "transformer",
        "num_layers": size.layers,
        "num_heads": size.heads,
        "embeddings": {"embedding_dim": size.dim, "scale": True, "dropout": DROPOUT},
        "hidden_size": size.dim,
        "ff_size": size.ff_dim,
        "dropout": DROPOUT,
        "layer_norm": "pre",
    }
    config = {"tied_embeddings": True, "tied_softmax": True, "encoder": stack, "decoder": dict(stack)}
    config |= {"initializer": "xavier_uniform", "embed_initializer": "xavier_uniform"}
    model = build_model(config, vocabulary, vocabulary)
    model.loss_function = ("crossentropy", SMOOTHING)
    # Our ids 0, 1, 2 (pad, start, end) as Joey numbers them; 3 stands for its unknown word.
    to_joey = torch.arange(size.vocab)
    to_joey[:4] = torch.tensor([1, 2, 3, 0])

    def loss(batch: LabeledBatch) -> Tensor:
        is_label = batch.labels != IGNORED_LABEL
        total, _, _, _ = model(
            return_type="loss",
            src=to_joey[batch.source_ids],
            src_length=batch.source_mask.sum(dim=1),
            src_mask=batch.source_mask[:, None],
            trg_input=to_joey[batch.target_ids],
            trg=to_joey[batch.labels.where(is_label, torch.tensor(PAD))],
            trg_mask=is_label[:, None],
        )
        return total / batch.num_labels  # type: ignore[no-any-return]

    return model, loss


SYSTEMS: dict[str, Callable[[Size], Built]] = {
    "transformer_architectures": ours,
    "transformers MarianMT": marian,
    "torch.nn.Transformer": torch_transformer,
    "x-transformers": x_transformers,
    "JoeyNMT": joeynmt,
}
