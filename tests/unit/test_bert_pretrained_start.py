"""What a BERT training starts from: our folders and published ones, other heads, other classes, and configs that contradict."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from transformer_architectures.architectures.bert import (
    BertForMaskedLM,
    BertForSeqClassification,
    BertForTokenClassification,
    BertModelConfig,
)
from transformer_architectures.architectures.bert.published import bert_weight_map, config_to_bert
from transformer_architectures.errors import ConfigError, ModelFolderError
from transformer_architectures.pretrained.model_folder import write_model_folder
from transformer_architectures.pretrained.start import read_pretrained
from transformer_architectures.tokenization import SubwordTokenizer, WordPieceTokenizer

TOKENIZER = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", *(f"##{c}" for c in "abc")])
TAGS = ("B-x", "I-x", "O")


def config(**options: Any) -> BertModelConfig:
    sizes = {"vocab_size": 20, "embed_dim": 8, "num_heads": 2, "ff_dim": 12, "num_layers": 1, "max_positions": 16}
    return BertModelConfig.model_validate({**sizes, **options})


def lively(model: Any) -> Any:
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def our_folder(
    folder: Path, given: Any, classes: tuple[str, ...] = (), tokenizer: Any = TOKENIZER, **changes: Any
) -> Path:
    content = {"task": "some", "architecture": "bert", "model": given.config.to_folder(), "classes": list(classes)}
    write_model_folder(folder, given.state_dict(), {**content, **changes}, {}, [tokenizer])
    return folder


def published_folder(folder: Path, model: Any, *parts: str, classes: tuple[str, ...] = ()) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config_to_bert(model.config, parts, classes)))
    weights = bert_weight_map(model.config, parts).to_theirs(model.state_dict())
    save_file({name: tensor.clone() for name, tensor in weights.items()}, folder / "model.safetensors")
    TOKENIZER.save(folder)
    return folder


def assert_kept(found: nn.Module, given: nn.Module, new_parts: set[str]) -> None:
    """All weights are the given ones, but those of the new parts, of which no matrix is."""
    expected: dict[str, Tensor] = given.state_dict()
    tied = "masked_lm_head.decoder.weight"
    for name, tensor in found.state_dict().items():
        if name.split(".")[0] not in new_parts:
            assert torch.equal(tensor, expected[name]), name
        elif tensor.dim() > 1 and name != tied and name in expected:
            assert not torch.equal(tensor, expected[name]), name


def test_pretraining_goes_on_with_its_head(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, pre_layernorm in enumerate((True, False)):
        model = lively(BertForMaskedLM(config(pre_layernorm=pre_layernorm)))
        folders = [our_folder(tmp_path / f"ours {number}", model)]
        if not pre_layernorm:
            folders.append(published_folder(tmp_path / "published", model, "masked_lm_head"))
        for folder in folders:
            start = read_pretrained(BertModelConfig(pretrained=str(folder), dropout=0.3))
            found = start.build_model(BertForMaskedLM)
            assert found.config == model.config.model_copy(update={"dropout": 0.3, "pretrained": str(folder)})
            assert_kept(found, model, set())
            assert found.masked_lm_head.decoder.weight is found.backbone.token_embedding.weight
            assert start.tokenizer.digest() == TOKENIZER.digest()
    assert capsys.readouterr().err == ""


def test_another_head_is_dropped_openly(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = lively(BertForMaskedLM(config(pre_layernorm=False)))
    for folder in (
        our_folder(tmp_path / "ours", model),
        published_folder(tmp_path / "published", model, "masked_lm_head"),
    ):
        start = read_pretrained(BertModelConfig(pretrained=str(folder)))
        tagger = start.build_model(BertForTokenClassification, TAGS)
        assert tagger.config.num_labels == 3
        assert_kept(tagger, model, {"token_head"})
        said = capsys.readouterr().err.splitlines()
        assert said == [f"{folder}: not used: masked_lm_head", f"{folder}: drawn anew: token_head"]
        classifier = start.build_model(BertForSeqClassification, ["x", "y"])
        assert_kept(classifier, model, {"sequence_head", "pooler"})
        assert capsys.readouterr().err.splitlines()[1] == f"{folder}: drawn anew: pooler, sequence_head"


def test_a_classifier_of_the_same_classes_is_kept(
    seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = lively(BertForTokenClassification(config(num_labels=3, pre_layernorm=False)))
    shuffled = tuple(random.sample(TAGS, 3))
    token_ids = torch.randint(20, (2, 5))
    for folder in (
        our_folder(tmp_path / "ours", model, shuffled),
        published_folder(tmp_path / "published", model, "token_head", classes=shuffled),
    ):
        start = read_pretrained(BertModelConfig(pretrained=str(folder)))
        assert tuple(start.classes) == shuffled
        found = start.build_model(BertForTokenClassification, TAGS)
        logits, expected = found.eval()(token_ids), model.eval()(token_ids)
        order = [shuffled.index(tag) for tag in TAGS]  # in the data's order, whatever it was before
        torch.testing.assert_close(logits, expected[..., order])
        assert capsys.readouterr().err == ""

        others = start.build_model(BertForTokenClassification, ("B-y", "I-y", "O"))
        assert_kept(others, model, {"token_head"})
        assert capsys.readouterr().err.splitlines() == [
            f"{folder}: not used: token_head",
            f"{folder}: drawn anew: token_head",
        ]
        texts = start.build_model(BertForSeqClassification, TAGS)  # the same names, but of texts
        assert_kept(texts, model, {"sequence_head", "pooler"})
        assert f"{folder}: not used: token_head" in capsys.readouterr().err


def test_numbered_classes_vouch_for_nothing(seed: int, tmp_path: Path) -> None:
    model = lively(BertForSeqClassification(config(num_labels=3, pre_layernorm=False)))
    folder = published_folder(tmp_path / "published", model, "pooler", "sequence_head")
    start = read_pretrained(BertModelConfig(pretrained=str(folder)))
    found = start.build_model(BertForSeqClassification, TAGS)
    assert start.classes == () and found.config.num_labels == 3
    assert_kept(found, model, {"sequence_head"})  # the pooler is kept


def test_the_pooler_is_only_there_where_it_pools(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = lively(BertForSeqClassification(config(pre_layernorm=False)))
    folder = published_folder(tmp_path / "published", model, "pooler")
    found = read_pretrained(BertModelConfig(pretrained=str(folder), pooling="mean")).build_model(
        BertForSeqClassification, ["x", "y"]
    )
    assert found.pooler is None and found.config.pooling == "mean"
    assert f"{folder}: not used: pooler" in capsys.readouterr().err
    masked_lm = read_pretrained(BertModelConfig(pretrained=str(folder))).build_model(BertForMaskedLM)
    assert_kept(masked_lm, model, {"masked_lm_head"})
    assert masked_lm.masked_lm_head.decoder.weight is masked_lm.backbone.token_embedding.weight


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"embed_dim": 32}, "embed_dim: 32 contradicts 8"),
        ({"vocab_size": 21}, "vocab_size: 21 contradicts 20"),
        ({"pre_layernorm": False}, "pre_layernorm: False contradicts True"),
        ({"positions": "sinusoidal"}, "contradicts 'learned'"),
        ({"pretrained": "/nothing"}, "neither a model folder nor a published BERT"),
    ],
)
def test_a_contradiction_is_a_config_error(seed: int, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = our_folder(tmp_path / "ours", BertForMaskedLM(config()))
    with pytest.raises(ConfigError, match=f"Model: .*{message}"):
        read_pretrained(BertModelConfig.model_validate({"pretrained": str(folder), **changes}))
    agreeing = {"pretrained": str(folder), "embed_dim": 8, "num_stacks": 1, "attention_dropout": 0.2, "num_labels": 4}
    assert read_pretrained(BertModelConfig.model_validate(agreeing)).model_config.attention_dropout == 0.2


def test_what_is_no_bert_of_ours_is_refused(seed: int, tmp_path: Path) -> None:
    model = BertForMaskedLM(config())

    def refused(error: type[Exception], message: str, name: str, **changes: Any) -> None:
        folder = our_folder(tmp_path / name, model, **changes)
        with pytest.raises(error, match=message) as caught:
            read_pretrained(BertModelConfig(pretrained=str(folder))).build_model(BertForMaskedLM)
        assert "\n" not in str(caught.value)

    refused(ConfigError, "is a model for some, and no bert", "vit", architecture="vit")
    refused(ModelFolderError, "config.json is damaged", "damaged", model={"embed_dim": "wide"})
    refused(ModelFolderError, "config.json is damaged", "missing", model=None)
    refused(ModelFolderError, "the tokenizer is not that", "subword", tokenizer=SubwordTokenizer.train(["a"], 300))
    refused(ModelFolderError, "the tokenizer is not that", "large", tokenizer=WordPieceTokenizer([*TOKENIZER.tokens, *"ijklm"]))  # fmt: skip
    refused(ModelFolderError, "size mismatch for backbone", "other", model=config(ff_dim=16).to_folder())
    refused(ModelFolderError, "weights do not fit config.json: backbone.enc", "deeper", model=config(num_layers=2).to_folder())  # fmt: skip
