"""Vision Transformers of timm and `transformers`: the same numbers and gradients, and folders of either kind, both ways."""

import json
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from agreement import TOLERANCES, Layer, agreeing, assert_gradients_agree, difference, our_gradients, their_gradients
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from tiny_vit import (
    TIMM_FORMS,
    names_in_files,
    timm_config,
    timm_model,
    transformers_config,
    transformers_model,
    write_timm_folder,
)
from torch import Tensor, nn
from transformers import ViTForImageClassification, ViTModel

from transformer_architectures.architectures.vit import VisionTransformerForImageClassification, VitModelConfig
from transformer_architectures.architectures.vit.published import (
    config_from_timm,
    config_from_transformers,
    config_to_timm,
    config_to_transformers,
    is_vit_folder,
    read_vit_folder,
    timm_weight_map,
    transformers_weight_map,
)
from transformer_architectures.architectures.vit.published_timm import ARCHITECTURE
from transformer_architectures.errors import ModelFolderError
from transformer_architectures.positions import resize_grid


def from_folder(folder: Path) -> VisionTransformerForImageClassification:
    """A published folder as one of our models."""
    found = read_vit_folder(folder)
    config, weights = found.config, found.weights
    model = VisionTransformerForImageClassification(config)
    model.load_state_dict(weights)
    return model.eval()


def random_images(config: VitModelConfig, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(random.randint(1, 4), config.num_channels, *config.height_and_width, dtype=dtype)


def computed_positions(config: VitModelConfig, block: int) -> int | None:
    """How many a block of ours gives, of a classifier: the last one of the class token only."""
    return 1 if config.pooling == "cls" and block == config.num_layers - 1 else None


def timm_layers(ours: VisionTransformerForImageClassification, theirs: Any) -> list[Layer]:
    """First to last."""
    pairs = [Layer("patches", ours.backbone.patch_embedding, theirs.patch_embed)]
    for index, (block, layer) in enumerate(zip(ours.backbone.encoder.blocks, theirs.blocks, strict=True)):
        computed = computed_positions(ours.config, index)
        pairs.append(Layer(f"attention {index}", block.self_attention.attention.output, layer.attn.proj, computed))
        pairs.append(Layer(f"feed-forward {index}", block.feedforward.output, layer.mlp.fc2, computed))
        pairs.append(Layer(f"block {index}", block, layer, computed))
    return [
        *pairs,
        Layer("final norm", ours.backbone, theirs.norm, computed),
        Layer("norm of the head", ours.norm, theirs.fc_norm),
    ]


def transformers_layers(ours: VisionTransformerForImageClassification, theirs: Any) -> list[Layer]:
    """First to last, of a `ViTModel`."""
    pairs = [Layer("patches", ours.backbone.patch_embedding, theirs.embeddings.patch_embeddings)]
    for index, (block, layer) in enumerate(zip(ours.backbone.encoder.blocks, theirs.layers, strict=True)):
        computed = computed_positions(ours.config, index)
        pairs.append(Layer(f"attention {index}", block.self_attention.attention.output, layer.attention, computed))
        pairs.append(Layer(f"feed-forward {index}", block.feedforward.output, layer.mlp, computed))
        pairs.append(Layer(f"block {index}", block, layer, computed))
    return [*pairs, Layer("final norm", ours.backbone, theirs.layernorm, computed)]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("form", TIMM_FORMS)
def test_outputs_and_gradients_are_those_of_timm(seed: int, tmp_path: Path, form: str, dtype: torch.dtype) -> None:
    theirs = timm_model(seed, **TIMM_FORMS[form])
    write_timm_folder(tmp_path, theirs)
    ours, theirs = from_folder(tmp_path).to(dtype), theirs.to(dtype)
    images = random_images(ours.config, dtype)
    with agreeing(timm_layers(ours, theirs)):
        logits, their_logits = ours(images), theirs(images)
    assert difference(logits, their_logits) <= 1
    with torch.no_grad():
        assert difference(ours.backbone(images), theirs.forward_features(images)) <= 1  # all tokens

    direction = torch.randn_like(logits)
    for output in (logits, their_logits):
        (output * direction).sum().backward()
    expected = timm_weight_map(ours.config).to_ours(their_gradients(theirs))
    assert_gradients_agree(our_gradients(ours), expected)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("kind", [ViTForImageClassification, ViTModel])
@pytest.mark.parametrize("settings", [{}, {"image_size": [12, 20]}, {"layer_norm_eps": 1e-2, "hidden_act": "gelu_new"}])
def test_outputs_and_gradients_are_those_of_transformers(
    seed: int, tmp_path: Path, settings: dict[str, Any], kind: type[nn.Module], dtype: torch.dtype
) -> None:
    theirs: Any = transformers_model(transformers_config(seed, **settings), kind)
    theirs.save_pretrained(tmp_path)
    ours, theirs = from_folder(tmp_path).to(dtype), theirs.to(dtype)
    assert ours.config.layer_norm_eps == theirs.config.layer_norm_eps  # 1e-12 by default: not that of timm
    images = random_images(ours.config, dtype)
    backbone = theirs.vit if kind is ViTForImageClassification else theirs
    with agreeing(transformers_layers(ours, backbone)):
        output, their_output = ours(images), theirs(pixel_values=images)
    their_logits = their_output.logits if kind is ViTForImageClassification else their_output.pooler_output
    assert difference(output, their_logits) <= 1
    with torch.no_grad():
        assert difference(ours.backbone(images), backbone(pixel_values=images).last_hidden_state) <= 1  # all tokens

    direction = torch.randn_like(output)
    for logits in (output, their_logits):
        (logits * direction).sum().backward()
    expected = transformers_weight_map(ours.config).to_ours(names_in_files(their_gradients(theirs)))
    assert_gradients_agree(our_gradients(ours), expected)


def test_a_difference_is_found_in_its_layer(seed: int, tmp_path: Path) -> None:
    theirs: Any = timm_model(seed, depth=2)
    write_timm_folder(tmp_path, theirs)
    ours = from_folder(tmp_path)
    with torch.no_grad():
        theirs.blocks[1].attn.qkv.bias.add_(1.0)
    with pytest.raises(AssertionError, match="the first layer that differs is attention 1"):
        with agreeing(timm_layers(ours, theirs)):
            images = random_images(ours.config)
            ours(images), theirs(images)


@pytest.mark.parametrize("form", TIMM_FORMS)
def test_timm_reads_what_we_write(seed: int, tmp_path: Path, form: str) -> None:
    write_timm_folder(tmp_path / "theirs", timm_model(seed, **TIMM_FORMS[form]))
    ours = from_folder(tmp_path / "theirs")
    weights = timm_weight_map(ours.config).to_theirs(ours.state_dict())
    published = load_file(tmp_path / "theirs" / "model.safetensors")
    assert weights.keys() == published.keys() and all(torch.equal(weights[name], published[name]) for name in weights)

    config = config_to_timm(ours.config)
    assert config_from_timm(config, weights) == ours.config
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "config.json").write_text(json.dumps(config))
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "ours" / "model.safetensors")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True).eval()
    images = random_images(ours.config)
    assert difference(ours(images), theirs(images)) <= 1


@pytest.mark.parametrize("kind", [ViTForImageClassification, ViTModel])
def test_transformers_reads_what_we_write(seed: int, tmp_path: Path, kind: Any) -> None:
    transformers_model(transformers_config(seed, layer_norm_eps=1e-5), kind).save_pretrained(tmp_path / "theirs")
    ours = from_folder(tmp_path / "theirs")
    weights = transformers_weight_map(ours.config).to_theirs(ours.state_dict())
    published = load_file(tmp_path / "theirs" / "model.safetensors")
    assert weights.keys() == published.keys() and all(torch.equal(weights[name], published[name]) for name in weights)

    config = config_to_transformers(ours.config)
    assert config_from_transformers(config, weights) == ours.config
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "config.json").write_text(json.dumps(config))
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "ours" / "model.safetensors")
    theirs, report = kind.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    images = random_images(ours.config)
    output = theirs.eval()(pixel_values=images)
    assert difference(ours(images), output.logits if kind is ViTForImageClassification else output.pooler_output) <= 1


def test_a_table_is_resized_as_timm_resizes_it(seed: int) -> None:
    for _ in range(20):
        old, new = [(random.randint(1, 9), random.randint(1, 9)) for _ in range(2)]
        num_prefix, embed_dim = random.randint(0, 3), random.randint(2, 8)
        table = torch.randn(num_prefix + old[0] * old[1], embed_dim)
        expected = resample_abs_pos_embed(table[None], list(new), list(old), num_prefix_tokens=num_prefix)[0]
        assert torch.equal(resize_grid(table, old, new, num_prefix), expected)
        half = table.to(torch.bfloat16)
        expected = resample_abs_pos_embed(half[None], list(new), list(old), num_prefix_tokens=num_prefix)[0]
        assert torch.equal(resize_grid(half, old, new, num_prefix), expected)


@pytest.mark.parametrize("form", ["cls", "registers", "registers without positions", "not square"])
def test_a_model_is_converted_to_another_size_as_by_timm(seed: int, tmp_path: Path, form: str) -> None:
    theirs: Any = timm_model(seed, **TIMM_FORMS[form])
    write_timm_folder(tmp_path, theirs)
    ours = from_folder(tmp_path)
    height, width = 4 * random.randint(1, 7), 4 * random.randint(1, 7)
    ours.convert_image_size(height, width)
    theirs.set_input_size((height, width))
    images = random_images(ours.config)
    assert images.shape[2:] == (height, width) and difference(ours(images), theirs(images)) <= 1
    write_timm_folder(tmp_path, theirs)
    assert read_vit_folder(tmp_path).config == ours.config


@pytest.mark.slow
def test_every_name_of_timm_that_is_known_is_known_right() -> None:
    """Its heads, activation, epsilon, and all its weights, for each size that timm publishes."""
    names = [name for name in timm.list_models() if ARCHITECTURE.fullmatch(name)]
    assert len(names) > 25
    declined = []
    for name in names:
        theirs: Any = timm.create_model(name, device="meta")
        weights = theirs.state_dict()
        published = {"architecture": name, "pretrained_cfg": {"input_size": theirs.default_cfg["input_size"]}}
        try:
            config = config_from_timm(published, weights)
            converted = timm_weight_map(config).to_ours(weights)
        except ModelFolderError as error:
            assert any(f"the weight {part}" in str(error) for part in ("norm_pre", "blocks.0.ls1", "blocks.0.attn"))
            declined.append(name)
            continue
        with torch.device("meta"):
            ours = VisionTransformerForImageClassification(config)
        shapes = {key: tensor.shape for key, tensor in ours.state_dict().items()}
        assert shapes == {key: tensor.shape for key, tensor in converted.items()}, name
        block, pooling = theirs.blocks[0], {"cls": "token", "mean": "avg"}[config.pooling]
        assert (config.num_heads, config.layer_norm_eps) == (block.attn.num_heads, block.norm1.eps), name
        assert (config.activation, pooling) == (type(block.mlp.act).__name__.lower(), theirs.global_pool), name
    assert len(declined) < len(names) / 4, declined


def test_what_our_model_cannot_be_is_refused_in_one_line(seed: int, tmp_path: Path) -> None:
    write_timm_folder(tmp_path / "timm", timm_model(seed))
    transformers_model(transformers_config(seed), ViTModel).save_pretrained(tmp_path / "transformers")

    def refused(kind: str, message: str, change: dict[str, Any]) -> None:
        folder = tmp_path / kind
        published = (folder / "config.json").read_text()
        (folder / "config.json").write_text(json.dumps({**json.loads(published), **change}))
        with pytest.raises(ModelFolderError, match=message) as error:
            read_vit_folder(folder)
        assert "\n" not in str(error.value) and str(folder) in str(error.value)
        (folder / "config.json").write_text(published)

    arguments = timm_config(tmp_path / "timm")["model_args"]
    refused("timm", "model_args has init_values", {"model_args": {**arguments, "init_values": 1e-5}})
    refused("timm", "act_layer quick_gelu", {"model_args": {**arguments, "act_layer": "quick_gelu"}})
    refused("timm", "global_pool map", {"model_args": {**arguments, "global_pool": "map"}})
    refused("timm", "num_heads", {"model_args": {**arguments, "num_heads": 77}})
    refused("timm", "do not fit images of 400 × 4 pixels", {"model_args": {**arguments, "img_size": [400, 4]}})
    refused("timm", "how large images are", {"model_args": {"num_heads": 1}, "pretrained_cfg": None})
    refused("timm", "vit_base_patch16_clip_224", {"architecture": "vit_base_patch16_clip_224"})
    refused("timm", "architecture resnet18", {"architecture": "resnet18"})
    refused("transformers", "qkv_bias is false", {"qkv_bias": False})
    refused("transformers", "hidden_act mish", {"hidden_act": "mish"})
    refused("transformers", r"patch_size \[4, 2\] is no square", {"patch_size": [4, 2]})
    refused("transformers", "pooler_act relu", {"pooler_act": "relu"})
    refused("transformers", "pooler_output_size 7", {"pooler_output_size": 7})
    refused("transformers", "hidden_size", {"hidden_size": "wide"})
    refused("transformers", r"encoder.layer.\d+.* is missing", {"num_hidden_layers": 78})
    refused("transformers", "model_type bert", {"model_type": "bert"})

    assert is_vit_folder(tmp_path / "timm") and is_vit_folder(tmp_path / "transformers")
    (tmp_path / "timm" / "config.json").write_text('{"architecture": "resnet18"}')
    assert not is_vit_folder(tmp_path / "timm") and not is_vit_folder(tmp_path)

    ours = VitModelConfig(pooling="mean", pooler=True)
    with pytest.raises(ModelFolderError, match="pooler"):
        config_to_timm(ours)
    with pytest.raises(ModelFolderError, match="layer_norm_eps"):
        config_to_timm(VitModelConfig(layer_norm_eps=1e-5))
    with pytest.raises(ModelFolderError, match="pooling is mean"):
        config_to_transformers(ours)
    with pytest.raises(ModelFolderError, match="a pooler or a head"):
        config_to_transformers(VitModelConfig(pooler=True))


def test_a_pickle_is_not_read_but_how_to_convert_it_is_said(seed: int, tmp_path: Path) -> None:
    if random.random() < 0.5:
        write_timm_folder(tmp_path, timm_model(seed))
    else:
        transformers_model(transformers_config(seed), ViTModel).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    published = load_file(weights)
    weights.unlink()
    with pytest.raises(ModelFolderError, match="model.safetensors is missing"):
        read_vit_folder(tmp_path)

    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "harm",))

    pickled = tmp_path / "pytorch_model.bin"
    pickled.write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(ModelFolderError, match="convert it: python -c") as error:
        read_vit_folder(tmp_path)
    assert not (tmp_path / "harm").exists()

    torch.save(published, pickled)
    code = str(error.value).split('python -c "')[1].removesuffix('"')
    subprocess.run([sys.executable, "-c", code], check=True)
    assert all(torch.equal(tensor, published[name]) for name, tensor in load_file(weights).items())
    from_folder(tmp_path)
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(ModelFolderError, match="model.safetensors is damaged"):
        read_vit_folder(tmp_path)


def test_a_published_folder_of_the_older_form(seed: int, tmp_path: Path) -> None:
    """Without ``model_args``: the name alone says how many heads there are."""
    theirs = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=3).eval()
    write_timm_folder(tmp_path, theirs)
    published = timm_config(tmp_path)
    del published["model_args"]
    (tmp_path / "config.json").write_text(json.dumps(published))
    ours = from_folder(tmp_path)
    assert ours.config == VitModelConfig(
        num_layers=1, num_labels=3, class_token=True, norm_after_pooling=False, prefix_positions=True
    )
    images = random_images(ours.config)
    assert difference(ours(images), theirs(images)) <= 1
