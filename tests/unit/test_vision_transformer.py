"""The Vision Transformer: sizes, wrong images, other sizes, checkpoints, and that it compiles whole."""

import copy
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from transformer_architectures.architectures.vit import (
    VisionTransformer,
    VisionTransformerForImageClassification,
    VitModelConfig,
)
from transformer_architectures.architectures.vit.transformer import PatchEmbedding
from transformer_architectures.attention import record_attention
from transformer_architectures.errors import UsageError

FORMS: list[dict[str, Any]] = [
    {},
    {"pooling": "mean"},
    {"pooling": "mean", "class_token": True, "norm_after_pooling": False},
    {"num_registers": 3, "prefix_positions": False},
    {"positions": "sincos", "num_registers": 1, "pooler": True},
]


def config(**options: Any) -> VitModelConfig:
    sizes = {"image_size": (8, 12), "patch_size": 4, "num_labels": 5, "embed_dim": 16, "num_heads": 2, "ff_dim": 24}
    return VitModelConfig.model_validate({**sizes, "num_layers": 2, **options})


def tiny(**options: Any) -> VisionTransformerForImageClassification:
    return VisionTransformerForImageClassification(config(**options))


def random_images(model: VisionTransformerForImageClassification, batch: int = 3) -> Tensor:
    return torch.randn(batch, model.config.num_channels, *model.config.height_and_width)


@pytest.mark.parametrize(
    "embed_dim, num_heads, expected", [(192, 3, 5_717_416), (384, 6, 22_050_664), (768, 12, 86_567_656)]
)
def test_published_parameter_counts(embed_dim: int, num_heads: int, expected: int) -> None:
    """Ti, S and B at 224 / 16 with 1,000 classes."""
    with torch.device("meta"):
        model = VisionTransformerForImageClassification(
            VitModelConfig(embed_dim=embed_dim, num_heads=num_heads, ff_dim=4 * embed_dim)
        )
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    assert sum(model.parameter_groups().values()) == expected
    assert sum(model.backbone.parameter_groups().values()) == expected - 1000 * (embed_dim + 1)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_tokens_and_labels(seed: int, form: dict[str, Any]) -> None:
    model = tiny(**form)
    images = random_images(model)
    assert model(images).shape == (3, 5)
    num_tokens = 6 + model.config.num_prefix
    assert VisionTransformer(model.config)(images).shape == (3, num_tokens, 16)
    model(images).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in model.parameters())
    features = tiny(**form, num_labels=0)
    features.load_state_dict({name: weight for name, weight in model.state_dict().items() if "head" not in name})
    assert torch.equal(features(images), model.forward_features(images))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_company_changes_nothing(seed: int, form: dict[str, Any]) -> None:
    model = tiny(**form).double().eval()
    images = random_images(model).double()
    alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(model(images), alone, rtol=0, atol=1e-10)


def test_patches_are_a_convolution_in_any_memory_layout(seed: int) -> None:
    size, channels = random.randint(1, 5), random.randint(1, 4)
    embedding = PatchEmbedding(channels, 7, size)
    torch.nn.init.normal_(embedding.weight)
    torch.nn.init.normal_(embedding.bias)
    images = torch.randn(2, channels, 3 * size, 2 * size)
    expected = F.conv2d(images, embedding.weight, embedding.bias, stride=size).flatten(2).transpose(1, 2)
    for layout in (torch.contiguous_format, torch.channels_last):
        found = embedding(images.to(memory_format=layout))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_a_image_of_the_wrong_size_is_an_error_that_helps(seed: int) -> None:
    model = tiny()
    with pytest.raises(UsageError, match=r"16 × 8 .* 8 × 12.*convert_image_size\(16, 8\)"):
        model(torch.randn(1, 3, 16, 8))
    with pytest.raises(UsageError, match=r"12 × 8"):  # as many patches, standing otherwise
        model.backbone(torch.randn(1, 3, 12, 8))
    with pytest.raises(UsageError, match="1 channels, but the model is for 3"):
        model(torch.randn(1, 1, 8, 12))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_another_size_fits_and_is_in_checkpoint_and_config(seed: int, form: dict[str, Any]) -> None:
    model = tiny(**form).eval()
    before = copy.deepcopy(model)
    images = random_images(model)
    model.convert_image_size(8, 12)
    assert torch.equal(model(images), before(images)) and model.config == before.config

    height, width = 4 * random.randint(1, 6), 4 * random.randint(1, 6)
    model.convert_image_size(height, width)
    assert model.config.height_and_width == model.backbone.config.height_and_width == (height, width)
    assert model.config == config(**form, image_size=(height, width))
    other = VisionTransformerForImageClassification(VitModelConfig.model_validate(model.config.to_folder())).eval()
    other.load_state_dict(model.state_dict())
    images = random_images(model)
    assert torch.equal(other(images), model(images))
    for wrong in ((6, 8), (8, 6), (0, 4), (-4, 4)):
        with pytest.raises(UsageError, match="patches of 4 × 4"):
            model.convert_image_size(*wrong)


def test_a_larger_image_is_seen_as_the_same_one(seed: int) -> None:
    """Of an image of one colour, each patch of an enlarged one has nearly the position of the one it comes from."""
    model = tiny(image_size=32, num_layers=1, embed_dim=32, positions="sincos").eval()
    colour = torch.randn(1, 3, 1, 1)
    small = model.backbone(colour.expand(1, 3, 32, 32))[0, 1:].view(8, 8, 32)
    model.convert_image_size(64, 64)
    large = model.backbone(colour.expand(1, 3, 64, 64))
    centres = large[0, 1:].view(8, 2, 8, 2, 32).mean(dim=(1, 3))
    assert F.cosine_similarity(small.flatten(0, 1), centres.flatten(0, 1)).min() > 0.95


def test_checkpoints_hold_the_convolution_and_single_projections(seed: int) -> None:
    model = tiny(num_registers=2)
    state = model.state_dict()
    assert state["backbone.patch_embedding.weight"].shape == (16, 3, 4, 4)
    assert state["backbone.encoder.blocks.0.self_attention.attention.query.weight"].shape == (16, 16)
    assert not any("query_key_value" in name for name in state)
    other = tiny(num_registers=2)
    other.load_state_dict(state)
    images = random_images(model)
    assert torch.equal(other(images), model(images))


def test_initial_weights(seed: int) -> None:
    model = tiny(embed_dim=128, num_heads=2, ff_dim=256, image_size=32, num_registers=4, pooling="mean", num_labels=200)
    state = model.state_dict()
    for name, weight in state.items():
        if name.endswith("bias"):
            assert not weight.any(), name
        elif "norm" in name:
            assert bool((weight == 1).all()), name
        else:
            std = {"patch_embedding": 48**-0.5, "registers": 1e-6}.get(name.split(".")[1], 0.02)
            assert float(weight.std()) == pytest.approx(std, rel=0.2), name
    torch.manual_seed(seed)
    first, second = tiny(), tiny()
    torch.manual_seed(seed)
    assert torch.equal(tiny().head.weight, first.head.weight)  # type: ignore[arg-type]
    assert not torch.equal(second.head.weight, first.head.weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_estimated_flops_are_those_that_torch_counts(seed: int, form: dict[str, Any]) -> None:
    """Forward and backward; torch counts matrix products only."""
    model = tiny(**form, ff_dim=64, embed_dim=64, image_size=24)
    with FlopCounterMode(display=False) as counter:
        model(random_images(model, batch=1)).sum().backward()
    assert model.estimate_flops() == counter.get_total_flops()


def test_attention_can_be_recorded(seed: int) -> None:
    model = tiny(num_registers=1).eval()
    name = "backbone.encoder.blocks.1.self_attention.attention"
    with record_attention(model, [name]) as attention:
        model(random_images(model))
    (weights,) = attention[name]
    assert weights.shape == (3, 2, 8, 8)


def test_declarations_that_do_not_fit_are_refused() -> None:
    for options, reason in (
        ({"embed_dim": 15}, "divisible by num_heads"),
        ({"image_size": (8, 10)}, "width 10"),
        ({"image_size": 0}, "image_size"),
        ({"image_size": ["8", 12]}, "image_size"),
        ({"pooling": "cls", "class_token": False}, "class token"),
        ({"positions": "sincos", "embed_dim": 6}, "sincos"),
        ({"positions": "sincos", "prefix_positions": True}, "prefix_positions"),
        ({"stochastic_depth": 1.0}, "stochastic_depth"),
        ({"architecture": "vanilla"}, "architecture"),
    ):
        with pytest.raises(ValidationError, match=reason):
            config(**options)
    assert config(image_size=[8, 8]) == config(image_size=8) and config(num_layers=3) != config()
    assert VitModelConfig.model_validate({"num_stacks": 3}).num_layers == 3
    folder = config(pretrained="/some/where").to_folder()
    assert "pretrained" not in folder and VitModelConfig.model_validate(folder) == config()


def test_stochastic_depth_grows_through_the_model(seed: int) -> None:
    model = tiny(num_layers=4, stochastic_depth=0.3)
    rates = [block.feedforward.residual.stochastic_depth for block in model.backbone.encoder.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])
    images = random_images(model, batch=40)
    assert not torch.equal(model(images), model(images))
    assert torch.equal(model.eval()(images), model(images))


COMPILE = """
import torch
from transformer_architectures.architectures.vit import VisionTransformerForImageClassification, VitModelConfig

model = VisionTransformerForImageClassification(VitModelConfig.model_validate({config}))
compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="aot_eager")
images = torch.randn(3, 3, *model.config.height_and_width)
compiled(images).sum().backward()
assert all(parameter.grad is not None for parameter in model.parameters())
model.eval()
with torch.no_grad():
    torch.testing.assert_close(compiled(images), model(images), rtol=0, atol=1e-5)
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", [FORMS[0], {**FORMS[1], "dropout": 0.1, "stochastic_depth": 0.2, "num_registers": 1}])
def test_it_compiles_without_a_graph_break(form: dict[str, Any]) -> None:
    """In a process of its own: the checks of types that tests turn on would break the graph."""
    script = COMPILE.format(config=config(**form).to_folder())
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])
