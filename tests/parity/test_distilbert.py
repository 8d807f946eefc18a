"""DistilBERT: the same numbers and gradients as `transformers` gives, config and weights both ways, and whole folders."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from agreement import TOLERANCES
from encoder_families import PARTS, FamilyUnderTest
from tiny_bert import vocabulary
from transformers import (
    BertTokenizerFast,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
)

from transformer_architectures.architectures.bert import BertModelConfig
from transformer_architectures.architectures.bert.distilbert import DISTILBERT
from transformer_architectures.errors import UnknownModelError

TEXTS = ["balo mituka.", "ba", "xx shlo mi ba lo tu ka"]


def config(seed: int, **settings: Any) -> DistilBertConfig:
    draw = random.Random(seed)
    heads = draw.randint(1, 4)
    sizes = {
        "vocab_size": draw.randint(30, 60),
        "dim": heads * draw.choice([4, 6, 8]),
        "n_layers": draw.randint(1, 3),
        "n_heads": heads,
        "hidden_dim": draw.randint(8, 48),
        "max_position_embeddings": draw.randint(30, 40),
        "num_labels": draw.randint(2, 9),
    }
    return DistilBertConfig(**{**sizes, **settings})


FAMILY = FamilyUnderTest(
    DISTILBERT,
    {
        "masked LM": DistilBertForMaskedLM,
        "sequences": DistilBertForSequenceClassification,
        "tokens": DistilBertForTokenClassification,
    },
    config,
)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("settings", [{}, {"activation": "relu", "sinusoidal_pos_embds": True}])
def test_outputs_and_gradients_agree(seed: int, kind: str, dtype: torch.dtype, settings: dict[str, Any]) -> None:
    FAMILY.check_outputs_and_gradients(seed, kind, dtype, **settings)


@pytest.mark.parametrize("kind", PARTS)
def test_maps_go_both_ways(seed: int, tmp_path: Path, kind: str) -> None:
    FAMILY.check_both_ways(seed, kind)
    FAMILY.check_their_reading(seed, kind, tmp_path)


@pytest.mark.parametrize("kind", PARTS)
def test_a_published_folder(seed: int, tmp_path: Path, kind: str) -> None:
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary()))
    FAMILY.check_folder(seed, kind, tmp_path / "model", BertTokenizerFast(str(tmp_path / "vocab.txt")), TEXTS)


def test_what_has_another_form_is_refused(seed: int) -> None:
    model = FAMILY.theirs(seed, "sequences")
    published = model.config.to_dict() | {"architectures": ["DistilBertForSequenceClassification"]}
    weights = model.state_dict()
    for change in ({"activation": "mish"}, {"n_heads": "many"}, {"model_type": "bert"}, {"dim_of_keys": 3}):
        with pytest.raises(UnknownModelError, match=next(iter(change))):
            DISTILBERT.config_to_ours({**published, **change}, weights)
    with pytest.raises(UnknownModelError, match="architectures names none of"):
        DISTILBERT.config_to_ours({**published, "architectures": None}, weights)
    for key, value in (("layer_norm_eps", 1e-5), ("token_types", 2), ("pre_layernorm", True)):
        ours = FAMILY.converted(model, "sequences").config.model_copy(update={key: value})
        with pytest.raises(UnknownModelError, match=f"no DistilBERT: {key} is"):
            DISTILBERT.config_to_theirs(ours, PARTS["sequences"])
    assert BertModelConfig(family="distilbert").token_types == 0
