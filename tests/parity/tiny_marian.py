"""A tiny random Marian model by `transformers`, and a folder of it as published ones look."""

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from agreement import randomize
from transformers import MarianConfig, MarianMTModel

SOURCE_SYLLABLES = ["ba", "lo", "mi", "tu", "ka", "ro", "din", "é", "œu"]
TARGET_SYLLABLES = ["sh", "ent", "or", "ip", "ñe", "um", "ax", "é"]


def made_up_texts(seed: int, syllables: Sequence[str], number: int = 200) -> list[str]:
    """Sentences of made-up words."""
    draw = random.Random(seed)
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(60)]
    return [" ".join(draw.choices(words, k=draw.randint(1, 9))).capitalize() + "." for _ in range(number)]


def random_config(seed: int, **settings: Any) -> MarianConfig:
    """Sizes, depth and activation by chance."""
    draw = random.Random(seed)
    heads = draw.randint(1, 4)
    ff_dim, vocab_size = draw.randint(8, 48), draw.randint(30, 60)
    sizes = {
        "vocab_size": vocab_size,
        "d_model": heads * draw.choice([4, 6, 8]),
        "encoder_layers": draw.randint(1, 3),
        "decoder_layers": draw.randint(1, 3),
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": ff_dim,
        "decoder_ffn_dim": ff_dim,
        "activation_function": draw.choice(["swish", "relu", "gelu", "gelu_new"]),
        "scale_embedding": draw.random() < 0.5,
        "max_position_embeddings": draw.randint(40, 80),
        "dropout": 0.0,
        **settings,
    }
    padding = sizes["vocab_size"] - 1
    ids = {"pad_token_id": padding, "decoder_start_token_id": padding, "eos_token_id": 0, "forced_eos_token_id": 0}
    return MarianConfig(**sizes, **ids)


def random_marian(config: MarianConfig) -> MarianMTModel:
    """A model whose every weight matters, the bias of the logits included."""
    model = MarianMTModel(config).eval()
    randomize(model)
    with torch.no_grad():
        # The two tables are parameters there, though frozen: they stay what they are.
        for stack in (model.model.encoder, model.model.decoder):
            stack.embed_positions.weight.copy_(stack.embed_positions.create_weight())
        model.final_logits_bias.normal_()
    return model


def sentence_pieces(texts: Sequence[str], vocab_size: int) -> bytes:
    """A SentencePiece model."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=written,
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        character_coverage=1.0,
        minloglevel=2,
    )
    return written.getvalue()


def write_marian_folder(folder: Path, seed: int, **settings: Any) -> MarianMTModel:
    """Writes `config.json`, `model.safetensors` and the tokenizer's files, and gives the model."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {"</s>": 0, "<unk>": 1, ">>xxa<<": 2}
    for name, syllables in (("source.spm", SOURCE_SYLLABLES), ("target.spm", TARGET_SYLLABLES)):
        content = sentence_pieces(made_up_texts(seed, syllables), 50)
        (folder / name).write_bytes(content)
        pieces = sentencepiece.SentencePieceProcessor(model_proto=content)
        for id in range(pieces.get_piece_size()):
            vocabulary.setdefault(pieces.id_to_piece(id), len(vocabulary))
    vocabulary["<pad>"] = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    model = random_marian(random_config(seed, vocab_size=len(vocabulary), **settings))
    model.save_pretrained(folder)
    return model
