"""RoBERTa: the same numbers and gradients as `transformers` gives, config, weights and tokenizer both ways, and whole folders."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from agreement import TOLERANCES
from encoder_families import PARTS, FamilyUnderTest
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoTokenizer,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    RobertaForTokenClassification,
    RobertaModel,
    RobertaTokenizerFast,
)

from transformer_architectures.architectures.bert import BertModelConfig
from transformer_architectures.architectures.bert.published import BERT
from transformer_architectures.architectures.bert.roberta import ROBERTA
from transformer_architectures.datasets.text.windowed_text import special_tokens_of
from transformer_architectures.errors import UnknownModelError
from transformer_architectures.pretrained.published_folder import read_published_folder
from transformer_architectures.tokenization import JsonTokenizer, load_tokenizer, read_tokenizer

TEXTS = ["The river, the house.", "a house", "  spaces\nand 3 lines… ", "naïve café 東京 🙂"]


def config(seed: int, **settings: Any) -> RobertaConfig:
    draw = random.Random(seed)
    heads = draw.randint(1, 4)
    sizes = {
        "vocab_size": draw.randint(30, 60),
        "hidden_size": heads * draw.choice([4, 6, 8]),
        "num_hidden_layers": draw.randint(1, 3),
        "num_attention_heads": heads,
        "intermediate_size": draw.randint(8, 48),
        "max_position_embeddings": draw.randint(18, 30) if "vocab_size" not in settings else 130,
        "type_vocab_size": 1,
        "num_labels": draw.randint(2, 9),
    }
    return RobertaConfig(**{**sizes, **settings})


FAMILY = FamilyUnderTest(
    ROBERTA,
    {
        "masked LM": RobertaForMaskedLM,
        "sequences": RobertaForSequenceClassification,
        "tokens": RobertaForTokenClassification,
    },
    config,
)


def their_tokenizer(folder: Path, **settings: Any) -> RobertaTokenizerFast:
    """As published: `vocab.json` and `merges.txt`, with its five tokens in its order."""
    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(["the river and the house by the river"] * 9, vocab_size=290, special_tokens=special)
    folder.mkdir(exist_ok=True)
    trained.save_model(str(folder))
    return RobertaTokenizerFast.from_pretrained(str(folder), **settings)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("settings", [{}, {"layer_norm_eps": 1e-2, "type_vocab_size": 2}])
def test_outputs_and_gradients_agree(seed: int, kind: str, dtype: torch.dtype, settings: dict[str, Any]) -> None:
    FAMILY.check_outputs_and_gradients(seed, kind, dtype, **settings)


@pytest.mark.parametrize("kind", PARTS)
def test_maps_go_both_ways(seed: int, tmp_path: Path, kind: str) -> None:
    FAMILY.check_both_ways(seed, kind)
    FAMILY.check_their_reading(seed, kind, tmp_path)


@pytest.mark.parametrize("kind", PARTS)
def test_a_published_folder(seed: int, tmp_path: Path, kind: str) -> None:
    FAMILY.check_folder(seed, kind, tmp_path / "model", their_tokenizer(tmp_path / "tokenizer"), TEXTS)


def test_the_untrained_pooler_of_an_encoder_is_left_out(seed: int, tmp_path: Path) -> None:
    RobertaModel(config(seed, vocab_size=300)).save_pretrained(tmp_path)
    their_tokenizer(tmp_path / "tokenizer").save_pretrained(tmp_path)
    found = read_published_folder(tmp_path, [ROBERTA.published], BertModelConfig)
    assert found.left_out == ("pooler",) and {name.split(".")[0] for name in found.weights} == {"backbone"}


def test_tokens_are_theirs(seed: int, tmp_path: Path) -> None:
    for prefix_space in (False, True):
        theirs = their_tokenizer(tmp_path / "parts", add_prefix_space=prefix_space)
        theirs.save_pretrained(tmp_path / "whole")
        ours: Any = read_tokenizer(tmp_path / "whole")
        for text in TEXTS:
            assert ours.encode(text) == theirs(text, add_special_tokens=False).input_ids
            assert [*ours.prefix_ids, *ours.encode(text), *ours.suffix_ids] == theirs(text).input_ids
        assert (ours.pad_id, ours.mask_id) == (theirs.pad_token_id, theirs.mask_token_id)
        words = [["the", "river", "東京"], ["a"], []]
        spaced = their_tokenizer(tmp_path / "parts", add_prefix_space=True)
        for row, found in zip(words, ours.encode_words(words), strict=True):
            expected = spaced(row, is_split_into_words=True, add_special_tokens=False)
            assert found.ids == expected.input_ids and found.word_ids == expected.word_ids()
    (masked,) = ours.encode_with_masks(["the <mask> house <s>"])
    assert masked.ids.count(ours.mask_id) == 1 and 0 not in masked.ids
    assert masked.offsets[masked.ids.index(ours.mask_id)] == (4, 10)


def test_a_tokenizer_is_trained_as_theirs_is_made(seed: int, tmp_path: Path) -> None:
    texts = ["The river and the house by the river.", "x" * 1000] * 5
    ours = JsonTokenizer.train(iter(texts), 300)
    assert ours.digest() == JsonTokenizer.train(iter(texts), 300).digest()
    assert special_tokens_of(ours) == ((0,), (2,)) and (ours.pad_id, ours.mask_id) == (1, 4)
    for text in ("the river <s>", "naïve 東京"):
        assert ours.decode(ours.encode(text)) == text
    ours.save(tmp_path)
    again: Any = load_tokenizer(tmp_path)
    assert isinstance(again, JsonTokenizer) and again.digest() == ours.digest()
    theirs = AutoTokenizer.from_pretrained(str(tmp_path))
    assert theirs("the river").input_ids == [0, *ours.encode("the river"), 2]


def test_what_has_another_form_is_refused(seed: int) -> None:
    model = FAMILY.theirs(seed, "masked LM")
    published, weights = model.config.to_dict(), model.state_dict()
    for change in ({"hidden_act": "relu"}, {"pad_token_id": 0}, {"is_decoder": True}, {"model_type": "bert"}):
        with pytest.raises(UnknownModelError, match=next(iter(change))):
            ROBERTA.config_to_ours({**published, **change}, weights)
    ours = FAMILY.converted(model, "masked LM")
    with pytest.raises(UnknownModelError, match="no BERT: "):
        BERT.config_to_theirs(ours.config, ["masked_lm_head"])
    with pytest.raises(UnknownModelError, match="no RoBERTa: .*position_offset"):
        ROBERTA.config_to_theirs(BertModelConfig(pre_layernorm=False), ["masked_lm_head"])
