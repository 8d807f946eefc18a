"""BERT: sizes, padding, packed rows, heads, initial weights, wrong inputs, and that it compiles whole."""

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from transformer_architectures.architectures.bert import (
    Bert,
    BertForMaskedLM,
    BertForSeqClassification,
    BertForTokenClassification,
    BertModelConfig,
)
from transformer_architectures.architectures.bert.pooling import pool
from transformer_architectures.attention import record_attention
from transformer_architectures.errors import UsageError
from transformer_architectures.kernels.cross_entropy import linear_cross_entropy
from transformer_architectures.masking import AttentionMask, Segments
from transformer_architectures.training.optimization import decayed_parameters

FORMS: list[dict[str, Any]] = [
    {},
    {"pre_layernorm": False},
    {"positions": "sinusoidal", "token_types": 0},
    {"pooling": "mean", "activation": "relu"},
    {"pooling": "max", "pre_layernorm": False},
]
MODELS: list[type[nn.Module]] = [BertForMaskedLM, BertForSeqClassification, BertForTokenClassification]


def config(**options: Any) -> BertModelConfig:
    sizes = {"vocab_size": 37, "embed_dim": 16, "num_heads": 2, "ff_dim": 24, "num_layers": 2, "max_positions": 20}
    return BertModelConfig.model_validate({**sizes, "dropout": 0.0, "num_labels": 5, **options})


def padded_batch(vocab_size: int = 37, longest: int = 12) -> tuple[Tensor, Tensor]:
    """Token ids and mask of sequences of different lengths; what stands behind them is no token to rely on."""
    lengths = torch.tensor([longest, *torch.randint(1, longest + 1, (3,)).tolist()])
    return torch.randint(vocab_size, (4, longest)), torch.arange(longest) < lengths[:, None]


@pytest.mark.parametrize(
    "num_layers, embed_dim, expected",
    [(2, 128, 4_385_920), (4, 256, 11_170_560), (4, 512, 28_763_648), (12, 768, 109_482_240)],
)
def test_published_parameter_counts(num_layers: int, embed_dim: int, expected: int) -> None:
    """Tiny, mini, small and base with their pooler."""
    with torch.device("meta"):
        model = BertForSeqClassification(
            BertModelConfig(
                vocab_size=30522,
                embed_dim=embed_dim,
                num_heads=embed_dim // 64,
                ff_dim=4 * embed_dim,
                num_layers=num_layers,
                pre_layernorm=False,
            )
        )
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    assert sum(model.parameter_groups().values()) == expected
    assert sum(model.backbone.parameter_groups().values()) == expected - embed_dim * (embed_dim + 1)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_parameter_learns_and_is_counted_once(seed: int, form: dict[str, Any], kind: type[nn.Module]) -> None:
    model: Any = kind(config(**form))
    token_ids, mask = padded_batch()
    output = model(token_ids, mask)
    shapes = {BertForMaskedLM: (48, 37), BertForSeqClassification: (4, 5), BertForTokenClassification: (4, 12, 5)}
    assert output.shape == shapes[kind]
    (output * torch.randn_like(output)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in model.parameters())
    assert sum(model.parameter_groups().values()) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_padding_and_company_change_nothing(seed: int, form: dict[str, Any], kind: type[nn.Module]) -> None:
    model: Any = kind(config(**form)).double().eval()
    token_ids, mask = padded_batch()
    types = None if form.get("token_types") == 0 else torch.randint(2, token_ids.shape)
    found = model(token_ids, mask, types).split(12 if kind is BertForMaskedLM else 1)
    for index, length in enumerate(mask.sum(dim=1).tolist()):
        row = slice(index, index + 1), slice(0, length)
        alone = model(token_ids[row], None, None if types is None else types[row])
        in_company = found[index] if kind is BertForSeqClassification else found[index].view(12, -1)[:length]
        torch.testing.assert_close(in_company, alone.view(in_company.shape), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_packed_rows_give_what_padded_ones_give(seed: int, form: dict[str, Any], kind: type[nn.Module]) -> None:
    """Outputs and gradients; nothing is computed for padding."""
    model: Any = kind(config(**form)).double()
    token_ids, mask = padded_batch()
    types = None if form.get("token_types") == 0 else torch.randint(2, token_ids.shape)
    segments = Segments.from_mask(mask, rows_multiple=random.choice([1, 16]))
    packed_mask = AttentionMask(segments=segments)
    packed = model(segments.pack(token_ids), packed_mask, None if types is None else segments.pack(types))
    padded = model(token_ids, mask, types)
    if kind is not BertForSeqClassification:  # rows of real tokens, sequence by sequence
        packed, padded = packed.flatten(0, -2)[: segments.num_tokens], padded.flatten(0, -2)[mask.flatten()]
    torch.testing.assert_close(packed, padded, rtol=0, atol=1e-10)
    direction = torch.randn_like(padded)
    parameters = list(model.parameters())
    found, expected = (torch.autograd.grad((output * direction).sum(), parameters) for output in (packed, padded))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", FORMS[:3], ids=str)
def test_any_mask_and_positions_can_keep_sequences_apart(seed: int, form: dict[str, Any]) -> None:
    """What segments do, written out by the caller."""
    model = Bert(config(**form)).double().eval()
    segments = Segments(tuple(random.randint(1, 9) for _ in range(4)))
    token_ids, position_ids = torch.randint(37, (1, segments.num_rows)), segments.positions()[None]
    expected = model(token_ids, AttentionMask(segments=segments))
    torch.testing.assert_close(model(token_ids, segments.same(), None, position_ids), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", FORMS[:3], ids=str)
def test_positions_and_token_types_follow_from_nothing(seed: int, form: dict[str, Any]) -> None:
    model = Bert(config(**form)).eval()
    token_ids, mask = padded_batch()
    expected = model(token_ids, mask)
    position_ids = torch.arange(12).expand(4, -1)
    torch.testing.assert_close(model(token_ids, mask, None, position_ids), expected)
    assert not torch.allclose(model(token_ids, mask, None, position_ids.flip(1)), expected, atol=1e-3)
    if model.token_types is not None:
        torch.testing.assert_close(model(token_ids, mask, torch.zeros_like(token_ids)), expected)
        assert not torch.allclose(model(token_ids, mask, torch.ones_like(token_ids)), expected, atol=1e-3)


def test_logits_of_labelled_places_are_those_of_all(seed: int) -> None:
    model = BertForMaskedLM(config(positions=random.choice(["learned", "sinusoidal"])))
    token_ids, mask = padded_batch()
    rows = torch.randperm(token_ids.numel())[: random.randint(0, 20)]
    logits = model(token_ids, mask, labeled_positions=rows)
    torch.testing.assert_close(logits, model(token_ids, mask)[rows], rtol=0, atol=1e-5)

    # The loss that never holds all logits is that of the logits, tied matrix included.
    labels = torch.randint(37, (len(rows),))
    decoder = model.masked_lm_head.decoder
    assert decoder.weight is model.backbone.token_embedding.weight
    expected = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), list(model.parameters()))
    features = model.forward_features(token_ids, mask, labeled_positions=rows)
    loss = linear_cross_entropy(features, decoder.weight, decoder.bias, labels)
    found = torch.autograd.grad(loss, list(model.parameters()))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_pooling(seed: int) -> None:
    states = torch.randn(3, 4, 5)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    assert torch.equal(pool(states, "cls", mask), states[:, 0])
    mean, largest = pool(states, "mean", mask), pool(states, "max", mask)
    torch.testing.assert_close(mean[0], states[0, :2].mean(dim=0))
    torch.testing.assert_close(largest[0], states[0, :2].amax(dim=0))
    torch.testing.assert_close(mean[1], states[1].mean(dim=0))
    assert not mean[2].any() and not largest[2].any()
    torch.testing.assert_close(pool(states, "mean"), states.mean(dim=1))
    torch.testing.assert_close(pool(states, "max"), states.amax(dim=1))
    for wrong in (torch.ones(3, 4, 4), AttentionMask.from_any(mask)):
        assert torch.equal(pool(states, "cls", wrong), states[:, 0])
        with pytest.raises(UsageError, match="pooling: mean needs"):
            pool(states, "mean", wrong)


def test_windows_of_a_text_are_pooled_before_they_are_classified(seed: int) -> None:
    model = BertForSeqClassification(config(pooling="mean")).eval()
    token_ids, mask = padded_batch()
    features = model.forward_features(token_ids, mask)
    torch.testing.assert_close(model.classify(features), model(token_ids, mask))
    assert torch.equal(
        BertForSeqClassification(config(num_labels=0, pooling="mean")).classify(features), features
    )  # without labels they are what it gives


def test_what_does_not_fit_is_an_error_that_helps(seed: int) -> None:
    model = Bert(config())
    with pytest.raises(UsageError, match="position 21 is beyond the 20"):
        model(torch.zeros(1, 21, dtype=torch.int64))
    with pytest.raises(UsageError, match="position 25 is beyond the 20"):
        model(torch.zeros(1, 3, dtype=torch.int64), position_ids=torch.tensor([[0, 24, 1]]))
    with pytest.raises(UsageError, match="token_types: 0"):
        Bert(config(token_types=0))(torch.zeros(1, 3, dtype=torch.int64), token_type_ids=torch.ones(1, 3).long())
    with pytest.raises(UsageError, match="num_labels"):
        BertForTokenClassification(config(num_labels=0))


def test_sinusoids_go_on_behind_the_declared_length(seed: int) -> None:
    model = Bert(config(positions="sinusoidal")).eval()
    token_ids = torch.randint(37, (1, 45))
    expected = model(token_ids)
    again = Bert(model.config).eval()
    again.load_state_dict(model.state_dict())
    position_ids = torch.arange(45)[None]
    torch.testing.assert_close(again(token_ids, position_ids=position_ids), expected)


def test_initial_weights(seed: int) -> None:
    for positions in ("learned", "sinusoidal"):
        sizes = {"vocab_size": 500, "embed_dim": 64, "ff_dim": 128, "max_positions": 60, "token_types": 40}
        model = BertForMaskedLM(config(**sizes, positions=positions))
        for name, weight in model.state_dict().items():
            if name.endswith("bias"):
                assert not weight.any(), name
            elif "norm" in name:
                assert bool((weight == 1).all()), name
            else:
                is_scaled = positions == "sinusoidal" and weight.shape == (500, 64)
                assert float(weight.std()) == pytest.approx(1 / 8 if is_scaled else 0.02, rel=0.1), name
        # The first loss is that of knowing nothing, or little more.
        token_ids = torch.randint(500, (4, 50))
        loss = F.cross_entropy(model(token_ids), torch.randint(500, (200,)))
        assert float(loss.detach()) == pytest.approx(6.2, abs=0.7)
        torch.manual_seed(seed)
        first, second = Bert(config()), Bert(config())
        torch.manual_seed(seed)
        assert torch.equal(Bert(config()).token_embedding.weight, first.token_embedding.weight)
        assert not torch.equal(second.token_embedding.weight, first.token_embedding.weight)


def test_only_a_pre_norm_stack_ends_with_a_norm() -> None:
    names = {form: set(Bert(config(pre_layernorm=form)).state_dict()) for form in (True, False)}
    assert names[True] - names[False] == {"encoder.final_norm.weight", "encoder.final_norm.bias"}
    assert names[False] < names[True] and "embedding_norm.weight" in names[False]


def test_what_is_only_added_does_not_decay() -> None:
    model = BertForMaskedLM(config(num_layers=1))
    decayed = decayed_parameters(model)
    assert {"backbone.token_embedding.weight", "masked_lm_head.transform.weight"} < decayed
    left = {name for name, parameter in model.named_parameters() if name not in decayed and parameter.dim() > 1}
    assert left == {"backbone.positions.weight", "backbone.token_types"}


@pytest.mark.parametrize("kind", [Bert, *MODELS])
def test_estimated_flops_are_those_that_torch_counts(seed: int, kind: type[nn.Module]) -> None:
    """Forward and backward; torch counts matrix products only."""
    model: Any = kind(config(ff_dim=128, embed_dim=64, vocab_size=300, pre_layernorm=random.random() < 0.5))
    token_ids = torch.randint(300, (1, 20))
    inputs, arguments = ((token_ids,), (20,)) if kind is not BertForMaskedLM else ((token_ids, None, None, None, torch.tensor([1, 5, 6])), (20, 3))  # fmt: skip
    with FlopCounterMode(display=False) as counter:
        model(*inputs).sum().backward()
    assert model.estimate_flops(*arguments) == counter.get_total_flops()


def test_dropout_is_on_in_training_only_and_before_the_classifier(seed: int) -> None:
    token_ids, mask = padded_batch()
    for kind in MODELS[1:]:
        model: Any = kind(config(classifier_dropout=0.5, pooling="mean"))
        assert not torch.equal(model(token_ids, mask), model(token_ids, mask))
        assert torch.equal(model.backbone(token_ids, mask), model.backbone(token_ids, mask))
        model.eval()
        assert torch.equal(model(token_ids, mask), model(token_ids, mask))
    assert config(dropout=0.25).dropout_before_classifier == 0.25
    assert config(dropout=0.25, classifier_dropout=0.0).dropout_before_classifier == 0.0
    model = Bert(config(dropout=0.5))
    assert not torch.equal(model(token_ids, mask), model(token_ids, mask))


def test_attention_can_be_recorded(seed: int) -> None:
    model = BertForTokenClassification(config()).eval()
    name = "backbone.encoder.blocks.1.self_attention.attention"
    token_ids, mask = padded_batch()
    with record_attention(model, [name]) as attention:
        model(token_ids, mask)
    (weights,) = attention[name]
    assert weights.shape == (4, 2, 12, 12) and not weights[~mask[:, None, None, :].expand_as(weights)].any()


def test_declarations_that_do_not_fit_are_refused() -> None:
    for options, reason in (
        ({"embed_dim": 15}, "divisible by num_heads"),
        ({"embed_dim": 15, "num_heads": 3, "positions": "sinusoidal"}, "even embed_dim"),
        ({"positions": "rotary"}, "positions"),
        ({"pooling": "first"}, "pooling"),
        ({"dropout": 1.0}, "dropout"),
        ({"vocab_size": 4}, "vocab_size"),
        ({"max_length": 5}, "max_length"),
        ({"architecture": "vit"}, "architecture"),
    ):
        with pytest.raises(ValidationError, match=reason):
            config(**options)
    assert BertModelConfig.model_validate({"num_stacks": 3}).num_layers == 3
    assert BertModelConfig().pre_layernorm and BertModelConfig().layer_norm_eps == 1e-12
    folder = config(pretrained="/some/where").to_folder()
    assert "pretrained" not in folder and BertModelConfig.model_validate(folder) == config()


COMPILE = """
import torch
from transformer_architectures.architectures import bert

torch.manual_seed(0)
model = bert.{kind}(bert.BertModelConfig.model_validate({config}))
compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="aot_eager")
token_ids, mask = torch.randint(37, (3, 8)), torch.arange(8) < torch.tensor([8, 3, 5])[:, None]
inputs = token_ids, mask, torch.randint(2, (3, 8)), torch.arange(8).expand(3, -1), *{more}
compiled(*inputs).sum().backward()
assert all(parameter.grad is not None for parameter in model.parameters())
model.eval()
with torch.no_grad():
    torch.testing.assert_close(compiled(*inputs), model(*inputs), rtol=0, atol=1e-5)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, form",
    [
        (BertForMaskedLM, {"dropout": 0.1, "positions": "sinusoidal"}),
        (BertForSeqClassification, {"pre_layernorm": False, "pooling": "mean"}),
        (BertForTokenClassification, {}),
    ],
)
def test_it_compiles_without_a_graph_break(kind: type[nn.Module], form: dict[str, Any]) -> None:
    """In a process of its own: the checks of types that tests turn on would break the graph."""
    more = "[torch.tensor([1, 5])]" if kind is BertForMaskedLM else "[]"
    script = COMPILE.format(kind=kind.__name__, config=config(**form).to_folder(), more=more)
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])
