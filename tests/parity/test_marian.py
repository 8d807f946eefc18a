"""Published Marian models: the same numbers, gradients, tokens and translations as `transformers` gives."""

import json
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from agreement import TOLERANCES, Layer, agreeing, assert_gradients_agree, difference, our_gradients, their_gradients
from safetensors.torch import load_file, save_file
from tiny_marian import (
    SOURCE_SYLLABLES,
    TARGET_SYLLABLES,
    made_up_texts,
    random_config,
    random_marian,
    write_marian_folder,
)
from torch import Tensor
from transformers import MarianMTModel
from transformers import MarianTokenizer as TheirTokenizer

from transformer_architectures import load_model
from transformer_architectures.architectures.vanilla.published import (
    config_from_marian,
    config_to_marian,
    marian_weight_map,
    read_marian_folder,
)
from transformer_architectures.architectures.vanilla.transformer import Transformer, VanillaModelConfig
from transformer_architectures.errors import ConfigError, ModelFolderError
from transformer_architectures.generation import GenerationConfig
from transformer_architectures.pretrained.start import read_pretrained
from transformer_architectures.tasks.translation import Translator
from transformer_architectures.tokenization import MarianTokenizer, load_tokenizer


def converted(theirs: MarianMTModel) -> Transformer:
    """The same model as one of ours."""
    config = config_from_marian(theirs.config.to_dict())
    model = Transformer(config)
    model.load_state_dict(marian_weight_map(config).to_ours(theirs.state_dict()))
    return model.eval()


def layers(ours: Transformer, theirs: MarianMTModel) -> list[Layer]:
    """All sub-layers, first to last. Marian's norms come last in each, so their outputs are the sub-layers'."""
    pairs = []
    for index, (block, layer) in enumerate(zip(ours.encoder.blocks, theirs.model.encoder.layers, strict=True)):
        pairs.append(Layer(f"encoder {index} self-attention", block.self_attention, layer.self_attn_layer_norm))
        pairs.append(Layer(f"encoder {index} feed-forward", block.feedforward, layer.final_layer_norm))
    for index, (block, layer) in enumerate(zip(ours.decoder.blocks, theirs.model.decoder.layers, strict=True)):
        pairs.append(Layer(f"decoder {index} self-attention", block.self_attention, layer.self_attn_layer_norm))
        pairs.append(Layer(f"decoder {index} cross-attention", block.cross_attention, layer.encoder_attn_layer_norm))
        pairs.append(Layer(f"decoder {index} feed-forward", block.feedforward, layer.final_layer_norm))
    return pairs


def random_batch(config: VanillaModelConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Sources, their mask, decoder inputs."""
    batch, source, target = random.randint(1, 4), random.randint(1, 12), random.randint(1, 12)
    lengths = torch.randint(1, source + 1, (batch,))
    mask = torch.arange(source) < lengths[:, None]
    source_ids = torch.randint(config.pad_id, (batch, source)).masked_fill(~mask, config.pad_id)
    target_ids = torch.randint(config.pad_id, (batch, target))
    target_ids[:, 0] = config.start_id
    return source_ids, mask, target_ids


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("activation", ["swish", "relu", "gelu", "gelu_new"])
def test_outputs_and_gradients_agree(seed: int, activation: str, dtype: torch.dtype) -> None:
    theirs = random_marian(random_config(seed, activation_function=activation))
    ours = converted(theirs)
    if dtype == torch.float64:  # equal tables: the last digits of fp32 would be seen
        theirs.load_state_dict(marian_weight_map(ours.config).to_theirs(ours.state_dict()))
    ours, theirs = ours.to(dtype), theirs.to(dtype)
    source_ids, mask, target_ids = random_batch(ours.config)
    # `transformers` excludes the start token's vector from what lookups train, and the logits' bias from all training.
    for embedding in (theirs.model.encoder.embed_tokens, theirs.model.decoder.embed_tokens):
        embedding.padding_idx = None
    theirs.final_logits_bias.requires_grad_()

    with agreeing(layers(ours, theirs)):
        logits = ours(source_ids, target_ids, mask)
        their_logits = theirs(input_ids=source_ids, attention_mask=mask.long(), decoder_input_ids=target_ids).logits
    assert difference(logits, their_logits) <= 1

    labels = torch.randint(ours.config.vocab_size, target_ids.shape).flatten()
    for output in (logits, their_logits):
        torch.nn.functional.cross_entropy(output.flatten(0, 1), labels, reduction="sum").backward()
    expected = marian_weight_map(ours.config).to_ours(their_gradients(theirs))
    assert_gradients_agree(our_gradients(ours), expected)


def test_a_difference_is_found_in_its_layer(seed: int) -> None:
    theirs = random_marian(random_config(seed, decoder_layers=2))
    ours = converted(theirs)
    source_ids, mask, target_ids = random_batch(ours.config)
    with torch.no_grad():
        theirs.model.decoder.layers[1].encoder_attn.v_proj.bias.add_(1.0)
    with pytest.raises(AssertionError, match="the first layer that differs is decoder 1 cross-attention"):
        with agreeing(layers(ours, theirs)):
            ours(source_ids, target_ids, mask)
            theirs(input_ids=source_ids, attention_mask=mask.long(), decoder_input_ids=target_ids)


def test_the_map_goes_both_ways_exactly(seed: int) -> None:
    theirs = random_marian(random_config(seed))
    ours = converted(theirs)
    weights = theirs.state_dict()
    weight_map = marian_weight_map(ours.config)
    state = ours.state_dict()
    assert weight_map.to_ours(weights).keys() == state.keys()

    back = weight_map.to_theirs(weight_map.to_ours(weights))
    tables = {name for name in weights if "embed_positions" in name}  # computed here: equal up to the last digit
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights.keys() - tables)
    assert all(torch.allclose(back[name], weights[name], rtol=0, atol=1e-6) for name in tables)
    again = weight_map.to_ours(weight_map.to_theirs(state))
    assert all(torch.equal(again[name], state[name]) for name in state)

    MarianMTModel(theirs.config).load_state_dict(back)  # complete for them, too
    assert config_from_marian(config_to_marian(ours.config)) == ours.config


def test_weights_that_do_not_fit_are_named(seed: int) -> None:
    theirs = random_marian(random_config(seed))
    config = config_from_marian(theirs.config.to_dict())
    weight_map, weights = marian_weight_map(config), dict(theirs.state_dict())

    def refused(message: str, **changes: Tensor | None) -> None:
        changed = {name: tensor for name, tensor in {**weights, **changes}.items() if tensor is not None}
        with pytest.raises(ModelFolderError, match=message):
            weight_map.to_ours(changed)

    layer = "model.encoder.layers.0.fc1.bias"
    refused(f"{layer} is missing", **{layer: None})
    refused("nothing is known of the weight model.more", **{"model.more": torch.zeros(1)})
    refused(
        "nothing is known of the weight model.encoder.layers.7", **{"model.encoder.layers.7.fc1.bias": torch.ones(1)}
    )
    refused("final_logits_bias has shape", final_logits_bias=weights["final_logits_bias"].T)
    refused("lm_head.weight differ", **{"lm_head.weight": weights["lm_head.weight"] + 1})
    table = "model.decoder.embed_positions.weight"
    interleaved = weights[table].unflatten(1, (2, -1)).transpose(1, 2).flatten(1)
    refused(f"{table} is not the table", **{table: interleaved if config.embed_dim > 2 else weights[table] + 1})
    # A file holds a tied matrix once, under any of its names.
    tied = [
        "model.shared.weight",
        "model.encoder.embed_tokens.weight",
        "model.decoder.embed_tokens.weight",
        "lm_head.weight",
    ]
    only = random.choice(tied)
    weight_map.to_ours({name: tensor for name, tensor in weights.items() if name == only or name not in tied})
    refused("model.shared.weight is missing", **dict.fromkeys(tied))
    ours = weight_map.to_ours(weights)
    del ours["output_projection.bias"]
    with pytest.raises(ModelFolderError, match="output_projection.bias is missing"):
        weight_map.to_theirs(ours)


@pytest.mark.parametrize(
    "change",
    [
        {"decoder_attention_heads": 77},
        {"decoder_ffn_dim": 77},
        {"decoder_vocab_size": 77},
        {"share_encoder_decoder_embeddings": False},
        {"tie_word_embeddings": False},
        {"normalize_before": True},
        {"activation_function": "mish"},
        {"d_model": "wide"},
        {"d_model": 15},
        {"model_type": "bart"},
    ],
)
def test_what_the_block_cannot_do_is_refused_in_one_line(seed: int, change: dict[str, Any]) -> None:
    published = random_config(seed, encoder_attention_heads=4, decoder_attention_heads=4).to_dict()
    with pytest.raises(ModelFolderError) as error:
        config_from_marian({**published, **change})
    message = str(error.value)
    assert "\n" not in message and (next(iter(change)) in message or "embed_dim" in message)


def test_a_folder_is_read_as_they_read_it(seed: int, tmp_path: Path) -> None:
    theirs = write_marian_folder(tmp_path, seed)
    found = read_marian_folder(tmp_path)
    config, weights, tokenizer = found.config, found.weights, found.tokenizer
    ours = Transformer(config)
    ours.load_state_dict(weights)
    ours.eval()
    source_ids, mask, target_ids = random_batch(config)
    with torch.no_grad():
        theirs = MarianMTModel.from_pretrained(tmp_path).eval()
        their_logits = theirs(input_ids=source_ids, attention_mask=mask.long(), decoder_input_ids=target_ids).logits
        assert difference(ours(source_ids, target_ids, mask), their_logits) <= 1
    assert tokenizer.vocab_size == config.vocab_size
    assert (tokenizer.pad_id, tokenizer.eos_id) == (config.pad_id, config.eos_id)


def test_a_folder_that_cannot_be_read_says_why_in_one_line(seed: int, tmp_path: Path) -> None:
    write_marian_folder(tmp_path, seed)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def refused(message: str, **changes: bytes | None) -> None:
        for name, content in {**files, "pytorch_model.bin": None, **changes}.items():
            (tmp_path / name).unlink(missing_ok=True)
            if content is not None:
                (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelFolderError, match=message) as error:
            read_marian_folder(tmp_path)
        assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)

    refused("model.safetensors is missing", **{"model.safetensors": None})
    refused("convert it: python -c", **{"model.safetensors": None, "pytorch_model.bin": b"pickle"})
    refused("damaged", **{"model.safetensors": files["model.safetensors"][:-9]})
    refused("config.json cannot be read", **{"config.json": None})
    refused("no JSON", **{"config.json": b"{"})
    refused("source.spm: cannot be read", **{"source.spm": None})
    refused("target.spm is no SentencePiece model", **{"target.spm": b"text"})
    refused("target.spm is no SentencePiece model", **{"target.spm": b"\n\xff\xff"})
    refused("lacks <pad>", **{"vocab.json": b'{"</s>": 0, "<unk>": 1}'})
    refused("does not fit config.json", **{"vocab.json": b'{"</s>": 1, "<unk>": 0, "<pad>": 2}'})


def test_tokens_are_theirs(seed: int, tmp_path: Path) -> None:
    write_marian_folder(tmp_path, seed)
    theirs, ours = TheirTokenizer.from_pretrained(tmp_path), MarianTokenizer.load(tmp_path)
    sources, targets = made_up_texts(seed + 1, SOURCE_SYLLABLES, 50), made_up_texts(seed + 1, TARGET_SYLLABLES, 50)
    sources += ["", " ", "漢字 ba", ">>xxa<< Ba lo.", "a  b\tc"]
    assert ours.encode_batch(sources) == [ids[:-1] for ids in theirs(sources).input_ids]
    target_ids = [ids[:-1] for ids in theirs(text_target=targets).input_ids]
    assert ours.encode_targets(targets) == target_ids
    assert ours.decode_batch(target_ids) == theirs.batch_decode(target_ids, skip_special_tokens=True) == targets
    assert ours.decode_batch([[ours.pad_id, *target_ids[0], ours.eos_id]]) == targets[:1]
    assert ours.encode_batch([]) == ours.decode_batch([]) == []


def test_what_looks_like_a_special_token_is_text(seed: int, tmp_path: Path) -> None:
    write_marian_folder(tmp_path, seed)
    tokenizer = MarianTokenizer.load(tmp_path)
    code = tokenizer.language_ids[">>xxa<<"]
    rows = tokenizer.encode_batch(["</s>", "<pad>", "ba <pad>", ">>nowhere<< ba", "ba >>xxa<<", ">>xxa<< ba"])
    assert not {tokenizer.pad_id, tokenizer.eos_id} & {id for row in rows for id in row}
    assert [row.count(code) for row in rows] == [0, 0, 0, 0, 0, 1] and rows[-1][0] == code


def test_a_saved_tokenizer_is_the_same(seed: int, tmp_path: Path) -> None:
    write_marian_folder(tmp_path / "published", seed)
    tokenizer = MarianTokenizer.load(tmp_path / "published")
    (tmp_path / "saved").mkdir()
    tokenizer.save(tmp_path / "saved")
    loaded = load_tokenizer(tmp_path / "saved")
    assert isinstance(loaded, MarianTokenizer)
    texts = made_up_texts(seed, SOURCE_SYLLABLES, 20)
    for copy in (loaded, pickle.loads(pickle.dumps(tokenizer))):
        assert copy.digest() == tokenizer.digest()
        assert copy.encode_batch(texts) == tokenizer.encode_batch(texts)
    write_marian_folder(tmp_path / "other", seed + 1)
    assert MarianTokenizer.load(tmp_path / "other").digest() != tokenizer.digest()


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0])
def test_beam_search_finds_what_generate_finds(seed: int, tmp_path: Path, length_penalty: float) -> None:
    limit, num_beams = 20, random.randint(2, 5)
    theirs = write_marian_folder(tmp_path, seed, max_position_embeddings=200)
    found = read_marian_folder(tmp_path)
    config, weights, tokenizer = found.config, found.weights, found.tokenizer
    model = Transformer(config)
    model.load_state_dict(weights)
    generation = GenerationConfig(length_penalty=length_penalty, max_length_factor=1e-9, max_length_offset=limit)
    translator = Translator(model.eval(), tokenizer, generation)
    sources = tokenizer.encode_batch(made_up_texts(seed, SOURCE_SYLLABLES, 20))
    rows = [torch.tensor([*source, config.eos_id]) for source in sources]
    source_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=config.pad_id)

    compared = 0
    # A random model seldom ends by itself: the more it wants to, the shorter its outputs.
    for wish_to_end in (2.0, 4.0, 8.0):
        with torch.no_grad():
            for bias in (theirs.final_logits_bias[0], model.output_projection.bias):
                bias[config.eos_id] = wish_to_end
        found = translator.search(sources, num_beams, n_best=1)
        generated = theirs.generate(
            input_ids=source_ids,
            attention_mask=(source_ids != config.pad_id).long(),
            num_beams=num_beams,
            length_penalty=length_penalty,
            max_new_tokens=limit,
            early_stopping=True,  # a sentence is done with as many outputs as beams: the rule of this library
            forced_eos_token_id=None,
            bad_words_ids=[[config.pad_id]],
            return_dict_in_generate=True,
            output_scores=True,
        )
        for (ours,), score, row, their_score in zip(
            found.to_lists(),
            found.scores[:, 0].tolist(),
            generated.sequences[:, 1:].tolist(),
            generated.sequences_scores.tolist(),
            strict=True,
        ):
            if config.eos_id not in row:
                continue  # cut at the limit: here an output that has ended is preferred, there it is not
            compared += 1
            assert score == pytest.approx(their_score, rel=1e-5, abs=1e-5)
            assert ours == row[: row.index(config.eos_id)] or score == pytest.approx(their_score, abs=1e-6)  # a tie
    assert compared >= len(sources) // 4


def fine_tuning_config(folder: Path, pretrained: Path, seed: int, **model: object) -> str:
    """A config for two steps on made-up text."""
    for side, syllables in (("source", SOURCE_SYLLABLES), ("target", TARGET_SYLLABLES)):
        lines = "".join(f"{text}\n" for text in made_up_texts(seed, syllables, 60))
        (folder / f"{side}.txt").write_text(lines, encoding="utf-8")
    sections = {
        "Model": {"architecture": "vanilla", "pretrained": str(pretrained), **model},
        "Training": {
            "seed": seed,
            "max_steps": 2,
            "batch_tokens": 256,
            "learning_rate": 1e-3,
            "warmup_steps": 0,
            "num_threads": 1,
            "device": "cpu",
            "checkpoint_root": str(folder / "runs"),
        },
        "Data": {
            "train": {"source": str(folder / "source.txt"), "target": str(folder / "target.txt")},
            "validation_fraction": 0.2,
            "cache_dir": str(folder / "cache"),
        },
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(sections), encoding="utf-8")  # JSON is YAML
    return str(path)


def test_training_starts_from_a_published_model(seed: int, tmp_path: Path) -> None:
    published = tmp_path / "published"
    write_marian_folder(published, seed)
    config = fine_tuning_config(tmp_path, published, seed, dropout=0.3)
    # In a process of its own: a run sets threads, signals and the active run of MLflow.
    program = "from transformer_architectures.architectures.train import train; "
    program += "from transformer_architectures.architectures.vanilla.training import VANILLA; "
    program += f"train(VANILLA, {config!r}, [], None)"
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    finished_run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert finished_run.returncode == 0, finished_run.stderr
    (finished,) = (tmp_path / "runs" / "vanilla").glob("*/model")
    loaded = load_model(finished, device="cpu")
    assert isinstance(loaded, Translator) and isinstance(loaded.tokenizer, MarianTokenizer)
    assert loaded.model.config.dropout == 0.3
    assert len(loaded.predict(["Ba lo.", "", "Mi tuka."])) == 3
    weights = load_file(published / "model.safetensors")
    moved = (loaded.model.output_projection.weight - weights["model.shared.weight"]).abs()
    assert 0 < moved.max() < 0.1  # two steps from where it started
    # What was fine-tuned can be fine-tuned.
    start = read_pretrained(VanillaModelConfig(pretrained=str(finished)))
    assert isinstance(start.tokenizer, MarianTokenizer)


def test_a_config_that_contradicts_the_published_model_is_refused(seed: int, tmp_path: Path) -> None:
    write_marian_folder(tmp_path, seed)
    with pytest.raises(ConfigError, match="Model: ff_dim: 7 contradicts"):
        read_pretrained(VanillaModelConfig(pretrained=str(tmp_path), ff_dim=7))
    start = read_pretrained(VanillaModelConfig(pretrained=str(tmp_path), activation_dropout=0.2))
    assert start.model_config.activation_dropout == 0.2
    (tmp_path / "config.json").unlink()
    with pytest.raises(ConfigError, match="neither a model folder nor a published Marian model"):
        read_pretrained(VanillaModelConfig(pretrained=str(tmp_path)))


def test_weights_of_other_sizes_than_the_config_says_are_refused(seed: int, tmp_path: Path) -> None:
    write_marian_folder(tmp_path, seed)
    start = read_pretrained(VanillaModelConfig(pretrained=str(tmp_path)))
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.encoder.layers.0.fc1.bias"] = torch.zeros(3)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelFolderError, match="size mismatch for encoder"):
        start.build_model(Transformer)
