"""Tiny random BERTs by `transformers`, and folders of them as published ones look."""

import random
from pathlib import Path
from typing import Any

from agreement import randomize
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

KINDS: dict[str, type[nn.Module]] = {
    "encoder": BertModel,
    "masked LM": BertForMaskedLM,
    "pre-training": BertForPreTraining,
    "sequences": BertForSequenceClassification,
    "tokens": BertForTokenClassification,
}

SYLLABLES = ["ba", "lo", "mi", "tu", "ka", "ro", "din", "é", "sh", "x"]


def bert_config(seed: int, **settings: Any) -> BertConfig:
    """Sizes and depth by chance."""
    draw = random.Random(seed)
    heads = draw.randint(1, 4)
    return BertConfig(
        **{
            "vocab_size": draw.randint(30, 60),
            "hidden_size": heads * draw.choice([4, 6, 8]),
            "num_hidden_layers": draw.randint(1, 3),
            "num_attention_heads": heads,
            "intermediate_size": draw.randint(8, 48),
            "max_position_embeddings": draw.randint(16, 24),
            "type_vocab_size": draw.randint(1, 3),
            "num_labels": draw.randint(2, 9),
            **settings,
        }
    )


def bert_model(config: BertConfig, kind: str) -> nn.Module:
    """A model whose every weight matters, also that of the padding token, which `transformers` excludes from training."""
    model = KINDS[kind](config).eval()
    randomize(model)
    backbone = model if kind == "encoder" else model.bert
    backbone.embeddings.word_embeddings.padding_idx = None
    return model


def vocabulary() -> list[str]:
    """Special tokens, not in the order of this library, and pieces that cut all made-up words."""
    letters = sorted({letter for syllable in SYLLABLES for letter in syllable if letter != "é"} | {"e"})
    pieces = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *letters]
    return [*pieces, *(f"##{letter}" for letter in letters), "balo", "##mi"]


def write_bert_folder(folder: Path, seed: int, kind: str, **settings: Any) -> nn.Module:
    """Writes ``config.json``, ``model.safetensors`` and ``vocab.txt``, and gives the model."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = vocabulary()
    model = bert_model(bert_config(seed, vocab_size=len(tokens) + random.randint(0, 8), **settings), kind)
    model.save_pretrained(folder)  # type: ignore[operator]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return model
