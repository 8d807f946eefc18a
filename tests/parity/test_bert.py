"""Published BERTs: the same numbers and gradients as `transformers` gives, of encoder and heads, and folders both ways."""

import json
import pickle
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from agreement import TOLERANCES, Layer, agreeing, assert_gradients_agree, difference, our_gradients, their_gradients
from minilm import minilm_folder
from safetensors.torch import load_file, save_file
from tiny_bert import KINDS, bert_config, bert_model, write_bert_folder
from torch import Tensor, nn
from transformers import BertModel, BertTokenizer

from transformer_architectures.architectures.bert import (
    Bert,
    BertForMaskedLM,
    BertForSeqClassification,
    BertForTokenClassification,
    BertModelConfig,
)
from transformer_architectures.architectures.bert.published import (
    PublishedBert,
    bert_weight_map,
    config_from_bert,
    config_to_bert,
    is_bert_folder,
    parts_of,
    read_bert_folder,
)
from transformer_architectures.errors import ModelFolderError

OURS: dict[str, type[nn.Module]] = {
    "encoder": BertForSeqClassification,  # without labels: its output is the pooler's
    "masked LM": BertForMaskedLM,
    "sequences": BertForSeqClassification,
    "tokens": BertForTokenClassification,
}
PARTS = {"encoder": ["pooler"], "masked LM": ["masked_lm_head"], "sequences": ["pooler", "sequence_head"], "tokens": ["token_head"]}  # fmt: skip


def converted(theirs: nn.Module, kind: str) -> Any:
    """The same model as one of ours."""
    published, weights = theirs.config.to_dict() | {"architectures": [KINDS[kind].__name__]}, theirs.state_dict()
    config = config_from_bert(published, weights)
    assert parts_of(published["architectures"], weights) == PARTS[kind]
    model = OURS[kind](config)
    model.load_state_dict(bert_weight_map(config, PARTS[kind]).to_ours(weights))
    return model.eval()


def layers(ours: Bert, theirs: Any) -> list[Layer]:
    """First to last. Their norms come last in each sub-layer."""
    pairs = [Layer("embeddings", ours.embedding_norm, theirs.embeddings)]
    for index, (block, layer) in enumerate(zip(ours.encoder.blocks, theirs.encoder.layer, strict=True)):
        pairs.append(Layer(f"attention {index}", block.self_attention, layer.attention.output))
        pairs.append(Layer(f"feed-forward {index}", block.feedforward, layer.output))
    return pairs


def random_inputs(config: BertModelConfig) -> dict[str, Tensor]:
    """Padded sequences (by their names for the arguments), token types, and positions that do not begin at 0."""
    batch, length = random.randint(1, 4), random.randint(1, 12)
    lengths = torch.randint(1, length + 1, (batch,))
    inputs = {
        "input_ids": torch.randint(config.vocab_size, (batch, length)),
        "attention_mask": (torch.arange(length) < lengths[:, None]).long(),
        "token_type_ids": torch.randint(config.token_types, (batch, length)),
        "position_ids": torch.randint(config.max_positions, (batch, length)),
    }
    left_out = random.sample(["attention_mask", "token_type_ids", "position_ids"], k=random.randint(0, 3))
    return {name: tensor for name, tensor in inputs.items() if name not in left_out}


def of_ours(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {{"input_ids": "token_ids"}.get(name, name): tensor for name, tensor in inputs.items()}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("settings", [{}, {"hidden_act": "gelu_new", "layer_norm_eps": 1e-2}, {"hidden_act": "relu"}])
def test_outputs_and_gradients_agree(seed: int, settings: dict[str, Any], kind: str, dtype: torch.dtype) -> None:
    theirs: Any = bert_model(bert_config(seed, **settings), kind)
    ours = converted(theirs, kind).to(dtype)
    theirs = theirs.to(dtype)
    inputs = random_inputs(ours.config)
    with agreeing(layers(ours.backbone, theirs if kind == "encoder" else theirs.bert)):
        output, their_output = ours(**of_ours(inputs)), theirs(**inputs)
    logits = their_output.pooler_output if kind == "encoder" else their_output.logits
    if kind == "masked LM":
        logits = logits.flatten(0, 1)
    assert difference(output, logits) <= 1
    if kind == "encoder":
        assert difference(ours.backbone(**of_ours(inputs)), their_output.last_hidden_state) <= 1

    direction = torch.randn_like(logits)
    for result in (output, logits):
        (result * direction).sum().backward()
    expected = bert_weight_map(ours.config, PARTS[kind]).to_ours(their_gradients(theirs) | tied_gradients(theirs, kind))
    assert_gradients_agree(our_gradients(ours), expected)


def tied_gradients(theirs: Any, kind: str) -> dict[str, Tensor]:
    """Those of weights with several names, under each of them: gradients are found under one."""
    if kind != "masked LM":
        return {}
    return {
        "cls.predictions.decoder.weight": theirs.bert.embeddings.word_embeddings.weight.grad,
        "cls.predictions.decoder.bias": theirs.cls.predictions.decoder.bias.grad,
        "cls.predictions.bias": theirs.cls.predictions.decoder.bias.grad,
    }


def test_a_difference_is_found_in_its_layer(seed: int) -> None:
    theirs: Any = bert_model(bert_config(seed, num_hidden_layers=2), "tokens")
    ours = converted(theirs, "tokens")
    with torch.no_grad():
        theirs.bert.encoder.layer[1].attention.self.value.bias.add_(1.0)
    with pytest.raises(AssertionError, match="the first layer that differs is attention 1"):
        with agreeing(layers(ours.backbone, theirs.bert)):
            inputs = random_inputs(ours.config)
            ours(**of_ours(inputs)), theirs(**inputs)


def test_only_masked_places_give_the_same_loss_and_gradient(seed: int) -> None:
    """Their loss over all logits, ours over those of labelled positions."""
    theirs: Any = bert_model(bert_config(seed), "masked LM")
    ours = converted(theirs, "masked LM")
    inputs = random_inputs(ours.config)
    labels = torch.randint(ours.config.vocab_size, inputs["input_ids"].shape)
    labels[torch.rand(labels.shape) < 0.6] = -100
    labels[0, 0] = 7
    rows = (labels.flatten() != -100).nonzero().squeeze(1)
    logits = ours(**of_ours(inputs), labeled_positions=rows)
    loss = torch.nn.functional.cross_entropy(logits, labels.flatten()[rows])
    their_loss = theirs(**inputs, labels=labels).loss
    assert difference(loss, their_loss) <= 1
    loss.backward()
    their_loss.backward()
    expected = bert_weight_map(ours.config, PARTS["masked LM"]).to_ours(
        their_gradients(theirs) | tied_gradients(theirs, "masked LM")
    )
    assert_gradients_agree(our_gradients(ours), expected)


@pytest.mark.parametrize("kind", OURS)
def test_the_map_goes_both_ways_exactly(seed: int, kind: str) -> None:
    theirs: Any = bert_model(bert_config(seed), kind)
    ours = converted(theirs, kind)
    weight_map, weights = bert_weight_map(ours.config, PARTS[kind]), theirs.state_dict()
    state = ours.state_dict()
    assert weight_map.to_ours(weights).keys() == state.keys()
    back = weight_map.to_theirs(state)
    assert back.keys() == weights.keys() and all(torch.equal(back[name], weights[name]) for name in weights)
    config = config_to_bert(ours.config, PARTS[kind])
    assert config_from_bert(config, back) == ours.config


@pytest.mark.parametrize("kind", OURS)
def test_transformers_reads_what_we_write(seed: int, tmp_path: Path, kind: str) -> None:
    ours = converted(bert_model(bert_config(seed, classifier_dropout=0.3), kind), kind)
    names = [f"class {index}" for index in range(ours.config.num_labels)]
    (tmp_path / "config.json").write_text(json.dumps(config_to_bert(ours.config, PARTS[kind], names)))
    weights = bert_weight_map(ours.config, PARTS[kind]).to_theirs(ours.state_dict())
    save_file({name: tensor.clone() for name, tensor in weights.items()}, tmp_path / "model.safetensors")
    theirs, report = KINDS[kind].from_pretrained(tmp_path, output_loading_info=True)  # type: ignore[attr-defined]
    assert not report["missing_keys"] and not report["unexpected_keys"]
    inputs = random_inputs(ours.config)
    output = theirs.eval()(**inputs)
    expected = output.pooler_output if kind == "encoder" else output.logits
    assert difference(ours(**of_ours(inputs)), expected.flatten(0, 1) if kind == "masked LM" else expected) <= 1
    if names:
        assert theirs.config.id2label == dict(enumerate(names))


def loaded(published: PublishedBert, kind: type[nn.Module], *parts: str) -> Any:
    """A model of ours with some parts of a folder."""
    wanted = {"backbone", *parts}
    model = kind(published.config)
    weights = {name: tensor for name, tensor in published.weights.items() if name.split(".")[0] in wanted}
    model.load_state_dict(weights)
    return model.eval()


def test_a_pretraining_checkpoint_is_read_part_by_part(seed: int, tmp_path: Path) -> None:
    """As the first published BERTs: with pooler and next-sentence head, and gamma and beta for weight and bias."""
    theirs: Any = write_bert_folder(tmp_path, seed, "pre-training", num_labels=0)
    weights = load_file(tmp_path / "model.safetensors")
    weights["bert.embeddings.position_ids"] = torch.arange(theirs.config.max_position_embeddings)[None]
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in weights.items()
    }
    assert old.keys() != weights.keys()
    save_file(old, tmp_path / "model.safetensors")
    published = read_bert_folder(tmp_path)
    assert published.left_out == ("next-sentence head",) and published.classes == ()
    masked_lm = loaded(published, BertForMaskedLM, "masked_lm_head")
    pooled = loaded(published, BertForSeqClassification, "pooler")
    inputs = random_inputs(published.config)
    output = theirs(**inputs)
    assert difference(masked_lm(**of_ours(inputs)), output.prediction_logits.flatten(0, 1)) <= 1
    assert difference(pooled(**of_ours(inputs)), theirs.bert(**inputs).pooler_output) <= 1

    weights["bert.embeddings.position_ids"] += 1
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelFolderError, match="bert.embeddings.position_ids is not the table"):
        read_bert_folder(tmp_path)


@pytest.mark.parametrize("has_prefix", [False, True])
def test_an_encoder_with_or_without_the_prefix_and_pooler(seed: int, tmp_path: Path, has_prefix: bool) -> None:
    theirs: Any = write_bert_folder(tmp_path, seed, "encoder")
    weights = load_file(tmp_path / "model.safetensors")
    has_pooler = random.random() < 0.5
    kept = {name: tensor for name, tensor in weights.items() if has_pooler or not name.startswith("pooler")}
    save_file({"bert." * has_prefix + name: tensor for name, tensor in kept.items()}, tmp_path / "model.safetensors")
    published = read_bert_folder(tmp_path)
    assert {name.split(".")[0] for name in published.weights} == {"backbone", *(["pooler"] if has_pooler else [])}
    ours = Bert(published.config).eval()
    ours.load_state_dict(
        {k.removeprefix("backbone."): v for k, v in published.weights.items() if k.startswith("backbone.")}
    )
    inputs = random_inputs(published.config)
    assert difference(ours(**of_ours(inputs)), theirs(**inputs).last_hidden_state) <= 1


def test_classes_have_their_names(seed: int, tmp_path: Path) -> None:
    names = {0: "O", 1: "B-PER", 2: "I-PER"}
    ids = {name: index for index, name in names.items()}
    write_bert_folder(tmp_path, seed, "tokens", num_labels=3, id2label=names, label2id=ids)
    assert read_bert_folder(tmp_path).classes == ("O", "B-PER", "I-PER")
    write_bert_folder(tmp_path, seed, "sequences", num_labels=3)
    published = read_bert_folder(tmp_path)
    assert published.classes == () and published.config.num_labels == 3


def test_what_our_model_cannot_be_is_refused_in_one_line(seed: int, tmp_path: Path) -> None:
    write_bert_folder(tmp_path, seed, "masked LM")
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    published = json.loads(files["config.json"])

    def refused(message: str, **changes: bytes | None) -> None:
        for name, content in {**files, "pytorch_model.bin": None, "added_tokens.json": None, **changes}.items():
            (tmp_path / name).unlink(missing_ok=True)
            if content is not None:
                (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelFolderError, match=message) as error:
            read_bert_folder(tmp_path)
        assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)

    def refused_config(message: str, **changes: Any) -> None:
        refused(message, **{"config.json": json.dumps({**published, **changes}).encode()})

    refused_config("hidden_act mish", hidden_act="mish")
    refused_config("position_embedding_type relative_key", position_embedding_type="relative_key")
    refused_config("is_decoder is true", is_decoder=True)
    refused_config("add_cross_attention is true", add_cross_attention=True)
    refused_config("pruned_heads", pruned_heads={"0": [1]})
    refused_config("tie_word_embeddings is false", tie_word_embeddings=False)
    refused_config("hidden_size", hidden_size="wide")
    refused_config("impossible: embed_dim", num_attention_heads=77)
    refused_config("model_type roberta", model_type="roberta")
    refused_config("BertForQuestionAnswering is not one of", architectures=["BertForQuestionAnswering"])
    refused_config(r"encoder.layer.\d+.* is missing", num_hidden_layers=78)
    refused_config("tokenizer has", vocab_size=7)
    refused("model.safetensors is missing", **{"model.safetensors": None})
    refused("damaged", **{"model.safetensors": files["model.safetensors"][:-9]})
    refused("vocab.txt cannot be read", **{"vocab.txt": None})
    refused(r"lacks \[MASK\]", **{"vocab.txt": files["vocab.txt"].replace(b"[MASK]", b"[mask]")})
    refused("adds the token 'new'", **{"added_tokens.json": b'{"new": 99, "[PAD]": 0}'})
    assert is_bert_folder(tmp_path)

    weights = load_file(tmp_path / "model.safetensors")
    save_file({**weights, "classifier.weight": torch.ones(2, 3)}, tmp_path / "model.safetensors")
    refused("none of BertForSequenceClassification", **{"model.safetensors": (tmp_path / "model.safetensors").read_bytes()})  # fmt: skip
    save_file({**weights, "bert.more": torch.ones(2)}, tmp_path / "model.safetensors")
    refused("nothing is known of the weight bert.more", **{"model.safetensors": (tmp_path / "model.safetensors").read_bytes()})  # fmt: skip
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    assert not is_bert_folder(tmp_path) and not is_bert_folder(tmp_path / "nowhere")


def test_what_transformers_cannot_be_is_refused() -> None:
    published = {"vocab_size": 30, "embed_dim": 4, "num_heads": 2, "pre_layernorm": False}
    for message, parts, changes in (
        ("pre_layernorm is True", [], {"pre_layernorm": True}),
        ("positions is sinusoidal", [], {"positions": "sinusoidal"}),
        ("activation_dropout", [], {"activation_dropout": 0.5}),
        ("token_types is 0", [], {"token_types": 0}),
        ("pooling is mean", ["sequence_head"], {"pooling": "mean"}),
    ):
        with pytest.raises(ModelFolderError, match=message):
            config_to_bert(BertModelConfig.model_validate({**published, **changes}), parts)


def test_a_pickle_is_not_read_but_how_to_convert_it_is_said(seed: int, tmp_path: Path) -> None:
    theirs: Any = write_bert_folder(tmp_path, seed, random.choice([*KINDS]))
    safe, pickled = tmp_path / "model.safetensors", tmp_path / "pytorch_model.bin"
    before = read_bert_folder(tmp_path)
    safe.unlink()

    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "harm",))

    pickled.write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(ModelFolderError, match="convert it: python -c") as error:
        read_bert_folder(tmp_path)
    assert not (tmp_path / "harm").exists()

    torch.save(theirs.state_dict(), pickled)  # tied weights are in it under all their names
    code = str(error.value).split('python -c "')[1].removesuffix('"')
    subprocess.run([sys.executable, "-c", code], check=True)
    after = read_bert_folder(tmp_path)
    assert after.config == before.config and after.weights.keys() == before.weights.keys()
    assert all(torch.equal(after.weights[name], tensor) for name, tensor in before.weights.items())


SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "In the beginning God created the heavens and the earth.",
    "Dr. Müller's naïve café-owner paid €1,234.56 (not $99!) on 3rd March, 1987.",
    "She sells sea shells by the sea shore; the shells she sells are surely seashells.",
    "I can't believe it's not butter — can you?",
    "E = mc² and π ≈ 3.14159",
    "北京 is the capital of China, 東京 of Japan.",
    "Visit https://www.example.org/a?b=c#d or write to someone@example.org.",
    "WHY ARE YOU SHOUTING AT ME???",
    "👩‍👩‍👧‍👦 family, 🇫🇷 flag, and a lone emoji 🙂.",
    "שלום עולם and مرحبا بالعالم",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "def f(x): return x ** 2  # squares",
    "Yes.",
    "",
    "The the THE tHe.",
    "Ångström, Straße, İstanbul, coöperate, résumé.",
    "To be, or not to be, that is the question: Whether 'tis nobler in the mind to suffer " * 3,
    "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20",
    "\u200bzero\u200bwidth\ufeff and \x07control\x00 signs",
    "[MASK] and [SEP] are text here",
]


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)], ids=str)
def test_hidden_states_of_the_real_weights_are_theirs(dtype: torch.dtype) -> None:
    published = read_bert_folder(minilm_folder())
    assert published.config == BertModelConfig(
        vocab_size=30522, embed_dim=384, num_heads=12, ff_dim=1536, num_layers=6, attention_dropout=0.1, pre_layernorm=False
    )  # fmt: skip
    ours = loaded(published, BertForSeqClassification, "pooler").to(dtype)
    theirs = BertModel.from_pretrained(minilm_folder()).eval().to(dtype)
    tokenizer = BertTokenizer.from_pretrained(minilm_folder(), split_special_tokens=True)
    rows = published.tokenizer.encode_batch(SENTENCES)
    assert rows == [tokenizer(text, add_special_tokens=False, padding=False).input_ids for text in SENTENCES]

    framed = [[published.tokenizer.cls_id, *row, published.tokenizer.sep_id] for row in rows]
    longest = max(map(len, framed))
    token_ids = torch.tensor([row + [published.tokenizer.pad_id] * (longest - len(row)) for row in framed])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in framed])
    real = mask.bool()
    # What stands behind a text is nobody's: there both lose digits by fp32, each in its own way. In fp64 all must agree.
    compared = layers(ours.backbone, theirs) if dtype == torch.float64 else []
    with torch.no_grad():
        with agreeing(compared):
            output = theirs(input_ids=token_ids, attention_mask=mask)
            hidden_states = ours.backbone(token_ids, mask)
        assert difference(hidden_states[real], output.last_hidden_state[real]) <= 1
        assert difference(ours(token_ids, mask), output.pooler_output) <= 1
        for row, states in random.sample(list(zip(framed, hidden_states, strict=True)), k=5):  # alone, without padding
            assert difference(ours.backbone(torch.tensor([row]))[0], states[: len(row)]) <= 1
