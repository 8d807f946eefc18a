"""The multi-label loss against its definition, term by term, in fp64; its gradient; what unknown labels do to it."""

import itertools
import math
import random
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from transformer_architectures.errors import DataError, UsageError
from transformer_architectures.tasks.images.multi_label_loss import (
    MultiLabelLossConfig,
    count_loss_terms,
    likely_present,
    multi_label_loss,
)

KINDS: list[dict[str, Any]] = [
    {"kind": "bce"},
    {"kind": "focal"},
    {"kind": "focal", "gamma": 0.7, "alpha": 0.25},
    {"kind": "asymmetric"},
    {"kind": "asymmetric", "gamma_pos": 1.0, "gamma_neg": 0.5, "clip": 0.2},
    {"kind": "asymmetric", "gamma_pos": 0.3, "gamma_neg": 2.0, "clip": 0.0},
]
MODES: list[dict[str, Any]] = [
    {"unknown": "ignore"},
    {"unknown": "negative"},
    {"unknown": "selective", "top_k": 1},
    {"unknown": "selective", "prior_threshold": 0.4},
    {"unknown": "selective", "prior_threshold": 0.7, "top_k": 2},
]
ALL = [kind | mode for kind, mode in itertools.product(KINDS, MODES)]
ALL += [{"kind": "asymmetric", "gamma_unknown": 3.0, "clip": clip} | mode for clip in (0.0, 0.1) for mode in MODES[1:]]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def draw(rows: int = 6, classes: int = 9, mixed: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits with a gradient, labels, masks, prior: of each kind of pair a few, mixtures too."""
    logits = (3 * torch.randn(rows, classes, dtype=torch.float64)).requires_grad_()
    masks = (torch.rand(rows, classes) < 0.5).double()
    labels = (torch.rand(rows, classes) < 0.5).double()
    if mixed:
        masks = torch.where(torch.rand(rows, classes) < 0.3, torch.rand(rows, classes).double(), masks)
        labels = torch.where(torch.rand(rows, classes) < 0.3, torch.rand(rows, classes).double(), labels)
    return logits, labels * (masks > 0), masks, torch.rand(classes, dtype=torch.float64)


def pair_loss(logit: float, label: float, mask: float, dropped: bool, config: MultiLabelLossConfig) -> float:
    """The definition, in Python's own numbers."""
    p = 1 / (1 + math.exp(-logit))
    given = config.model_dump()

    def value(name: str, default: float) -> float:
        return default if given[name] is None else given[name]

    gamma_pos = gamma_neg = gamma_unknown = clip = 0.0
    weight_pos = weight_neg = 1.0
    if config.kind == "focal":
        gamma_pos = gamma_neg = gamma_unknown = value("gamma", 2)
        if config.alpha is not None:
            weight_pos, weight_neg = config.alpha, 1 - config.alpha
    if config.kind == "asymmetric":
        gamma_pos, gamma_neg, clip = value("gamma_pos", 0), value("gamma_neg", 4), value("clip", 0.05)
        gamma_unknown = value("gamma_unknown", gamma_neg)
    q = max(p - clip, 0)
    positive = -weight_pos * (1 - p) ** gamma_pos * math.log(p)
    negative = -weight_neg * q**gamma_neg * math.log(1 - q)
    unknown = -weight_neg * q**gamma_unknown * math.log(1 - q)
    if config.unknown in (None, "ignore") or dropped:
        unknown = 0.0
    return mask * (label * positive + (1 - label) * negative) + (1 - mask) * unknown


def brute_force(logits: Tensor, labels: Tensor, masks: Tensor, config: MultiLabelLossConfig, prior: Tensor) -> float:
    rows, classes = logits.shape
    unverified = [
        (float(logits[row, c]), row, c) for row in range(rows) for c in range(classes) if masks[row, c] < 1 - 1e-4
    ]
    most_probable = {pair[1:] for pair in sorted(unverified, reverse=True)[: (config.top_k or 0) * rows]}
    frequent = {c for c in range(classes) if config.prior_threshold and prior[c] > config.prior_threshold}
    return sum(
        pair_loss(
            float(logits[row, c]),
            float(labels[row, c]),
            float(masks[row, c]),
            config.unknown == "selective" and ((row, c) in most_probable or c in frequent),
            config,
        )
        for row in range(rows)
        for c in range(classes)
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("settings", ALL, ids=str)
def test_value_is_that_of_the_definition(seed: int, settings: dict[str, Any], device: str) -> None:
    config = MultiLabelLossConfig(**settings)
    logits, labels, masks, prior = draw()
    loss = multi_label_loss(*(tensor.to(device) for tensor in (logits, labels, masks)), config, prior.to(device))
    assert loss.dtype == torch.float64 and loss.shape == ()
    assert float(loss.detach()) == pytest.approx(brute_force(logits.detach(), labels, masks, config, prior), rel=1e-10)


@pytest.mark.parametrize("settings", ALL, ids=str)
def test_gradient_is_that_of_the_value(seed: int, settings: dict[str, Any]) -> None:
    config = MultiLabelLossConfig(**settings)
    logits, labels, masks, prior = draw(3, 5)
    assert torch.autograd.gradcheck(lambda x: multi_label_loss(x, labels, masks, config, prior), logits)


@pytest.mark.parametrize("settings", ALL, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_stay_finite(seed: int, settings: dict[str, Any], dtype: torch.dtype) -> None:
    config = MultiLabelLossConfig(**settings)
    values = torch.tensor([-1e4, -100, -20, 0, 20, 100, 1e4], dtype=dtype)
    clip = config.curve.clip or 0.05
    values = torch.cat([values, torch.tensor([math.log(clip / (1 - clip))], dtype=dtype)])  # where the clip sets in
    pairs = torch.tensor([(0, 0), (0, 1), (1, 1), (0.5, 1), (0.5, 0.5), (0, 0.5)], dtype=torch.float32)
    logits = values[:, None].expand(-1, len(pairs)).clone().requires_grad_()
    labels, masks = pairs.t()[:, None].expand(-1, len(values), -1)
    loss = multi_label_loss(logits, labels, masks, config, torch.rand(len(pairs)))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.dtype == torch.float32 and bool(loss.isfinite()) and bool(gradient.isfinite().all())
    assert float(loss.detach()) >= 0


def test_the_edge_of_the_clip_has_a_gradient() -> None:
    """Where p is the clip exactly, the slope of q ** gamma is infinite for gamma < 1: infinite times zero is not a number."""
    config = MultiLabelLossConfig(kind="asymmetric", gamma_neg=0.5, clip=0.5)
    logits = torch.zeros(1, 1, requires_grad=True)
    loss = multi_label_loss(logits, torch.zeros(1, 1), torch.ones(1, 1), config)
    assert torch.autograd.grad(loss, logits)[0].tolist() == [[pytest.approx(0.0, abs=1e-15)]]


def test_a_confident_error_costs_its_logit(seed: int) -> None:
    logits = torch.tensor([[1e4, -1e4]])
    for settings in ({"kind": "bce"}, {"kind": "focal"}, {"kind": "asymmetric", "clip": 0.0}):
        loss = multi_label_loss(logits, torch.tensor([[0.0, 1.0]]), torch.ones(1, 2), MultiLabelLossConfig(**settings))
        assert float(loss) == pytest.approx(2e4)


@pytest.mark.parametrize("kind", [{"kind": "bce"}, {"kind": "focal", "alpha": 0.3}, {"kind": "asymmetric"}], ids=str)
def test_bf16_autocast_computes_in_fp32(seed: int, kind: dict[str, Any]) -> None:
    config = MultiLabelLossConfig(unknown="negative", **kind)
    logits, labels, masks, _ = (tensor.detach().to(torch.bfloat16) for tensor in draw(50, 20))
    logits.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = multi_label_loss(logits, labels, masks, config)
    expected = multi_label_loss(logits.double(), labels.double(), masks.double(), config)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0.0)
    loss.backward()
    assert logits.grad is not None and logits.grad.dtype == torch.bfloat16


# ---------------------------------------------------------- unknown labels
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_ignored_pairs_have_no_gradient_and_others_have(seed: int, kind: dict[str, Any]) -> None:
    logits, labels, masks, _ = draw(mixed=False)
    for unknown, expected in (("ignore", masks > 0), ("negative", torch.ones_like(masks, dtype=torch.bool))):
        loss = multi_label_loss(logits, labels, masks, MultiLabelLossConfig(unknown=unknown, **kind))
        (gradient,) = torch.autograd.grad(loss, logits)
        clip = MultiLabelLossConfig(**kind).curve.clip
        unclipped = (labels * masks > 0) | (logits.sigmoid() > clip)
        assert torch.equal(gradient != 0, expected & unclipped)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_all_verified_makes_the_modes_equal(seed: int, kind: dict[str, Any]) -> None:
    logits, labels, _, prior = draw()
    losses = [
        multi_label_loss(logits, labels, torch.ones_like(labels), MultiLabelLossConfig(**kind, **mode), prior)
        for mode in MODES
    ]
    assert all(torch.equal(loss, losses[0]) for loss in losses)


def test_negative_is_all_verified_with_absent_for_unknown(seed: int) -> None:
    logits, labels, masks, _ = draw(mixed=False)
    negative = multi_label_loss(logits, labels, masks, MultiLabelLossConfig(unknown="negative"))
    expected = F.binary_cross_entropy_with_logits(logits, labels * masks, reduction="sum")
    torch.testing.assert_close(negative, expected, rtol=1e-12, atol=0.0)


def test_selective_leaves_out_the_most_probable_of_the_batch() -> None:
    logits = torch.tensor([[5.0, 4.0, 3.0], [2.0, 9.0, -1.0]])
    masks = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    labels = torch.zeros(2, 3)
    by_probability = MultiLabelLossConfig(unknown="selective", top_k=1)
    by_frequency = MultiLabelLossConfig(unknown="selective", prior_threshold=0.5)
    both = MultiLabelLossConfig(unknown="selective", top_k=1, prior_threshold=0.5)
    prior = torch.tensor([0.1, 0.5, 0.6])  # not above the threshold, and above it
    unknown = masks == 0

    def dropped(config: MultiLabelLossConfig) -> list[list[int]]:
        return (likely_present(logits, masks, config, prior) & unknown).int().tolist()

    assert dropped(by_probability) == [[1, 1, 0], [0, 0, 0]]  # two of two images; the verified one takes no place
    assert dropped(by_frequency) == [[0, 0, 1], [0, 0, 1]]
    assert dropped(both) == [[1, 1, 1], [0, 0, 1]]
    loss = multi_label_loss(logits, labels, masks, both, prior)
    assert float(loss) == pytest.approx(float(F.softplus(torch.tensor([2.0, 9.0])).sum()))


def test_selective_with_fewer_unknowns_than_k(seed: int) -> None:
    logits, labels, masks, _ = draw(4, 3, mixed=False)
    everything_unknown = MultiLabelLossConfig(unknown="selective", top_k=100)
    selective = multi_label_loss(logits, labels, masks, everything_unknown)
    assert torch.equal(selective, multi_label_loss(logits, labels, masks, MultiLabelLossConfig(unknown="ignore")))


def test_rounding_of_a_mask_takes_no_place_among_the_top(seed: int) -> None:
    """0.3 × 1 + 0.7 × 1 need not be 1: a verified pair stays verified."""
    config = MultiLabelLossConfig(unknown="selective", top_k=1)
    masks = torch.tensor([[1 - 1e-7, 0.0]])
    assert likely_present(torch.tensor([[9.0, 0.0]]), masks, config).tolist() == [[False, True]]


def test_a_prior_that_is_needed_must_be_there() -> None:
    config = MultiLabelLossConfig(unknown="selective", prior_threshold=0.5)
    with pytest.raises(UsageError, match="class frequencies"):
        multi_label_loss(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2), config)


@pytest.mark.parametrize("settings", [kind | mode for kind in KINDS for mode in MODES[:2]], ids=str)
def test_a_mixed_image_costs_the_mixture_of_its_parts(seed: int, settings: dict[str, Any]) -> None:
    """Mixup of verified and unknown labels, as the docstring says: the loss is linear in it."""
    config = MultiLabelLossConfig(**settings)
    logits, first_labels, first_masks, _ = draw(mixed=False)
    _, second_labels, second_masks, _ = draw(mixed=False)
    share = random.uniform(0.1, 0.9)
    masks = share * first_masks + (1 - share) * second_masks
    positive = share * first_masks * first_labels + (1 - share) * second_masks * second_labels
    mixed = multi_label_loss(logits, positive / masks.clamp(min=1e-9), masks, config)
    apart = share * multi_label_loss(logits, first_labels, first_masks, config)
    apart = apart + (1 - share) * multi_label_loss(logits, second_labels, second_masks, config)
    torch.testing.assert_close(mixed, apart, rtol=1e-12, atol=1e-12)


# ----------------------------------------------------- one loss from another
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_without_exponents_and_clip_all_are_bce(seed: int, mode: dict[str, Any]) -> None:
    inputs = draw()
    expected = multi_label_loss(*inputs[:3], MultiLabelLossConfig(**mode), inputs[3])
    plain = {"kind": "asymmetric", "gamma_pos": 0.0, "gamma_neg": 0.0, "clip": 0.0}
    for settings in ({"kind": "focal", "gamma": 0.0}, plain):
        loss = multi_label_loss(*inputs[:3], MultiLabelLossConfig(**settings, **mode), inputs[3])
        torch.testing.assert_close(loss, expected, rtol=1e-14, atol=0.0)


def test_verified_bce_is_that_of_torch(seed: int) -> None:
    logits, labels, masks, _ = draw()
    expected = F.binary_cross_entropy_with_logits(logits, labels, weight=masks, reduction="sum")
    torch.testing.assert_close(multi_label_loss(logits, labels, masks, MultiLabelLossConfig()), expected)


def test_parts_add_up_to_the_batch(seed: int) -> None:
    """What global normalisation rests on: sums and counts of micro-batches are those of the batch."""
    config = MultiLabelLossConfig(kind="asymmetric", unknown="negative")
    logits, labels, masks, _ = draw(7)
    parts = [slice(0, 3), slice(3, 4), slice(4, 7)]
    summed = torch.stack([multi_label_loss(logits[part], labels[part], masks[part], config) for part in parts]).sum()
    torch.testing.assert_close(summed, multi_label_loss(logits, labels, masks, config))
    assert sum(count_loss_terms(labels[part]) for part in parts) == count_loss_terms(labels) == 7


def test_a_batch_without_a_verified_label_counts_and_costs_nothing() -> None:
    empty = torch.zeros(3, 4)
    assert float(multi_label_loss(torch.randn(3, 4), empty, empty, MultiLabelLossConfig())) == 0.0
    assert count_loss_terms(empty) == 3


# ------------------------------------------------------------------ softmax
@pytest.mark.parametrize("smoothing", [None, 0.1, 0.5])
def test_softmax_is_that_of_torch(seed: int, smoothing: float | None) -> None:
    config = MultiLabelLossConfig(kind="softmax", label_smoothing=smoothing)
    logits = torch.randn(8, 5, dtype=torch.float64, requires_grad=True)
    classes = torch.randint(5, (8,))
    verified = torch.ones(8, 5, dtype=torch.float64)
    loss = multi_label_loss(logits, F.one_hot(classes, 5).double(), verified, config)
    torch.testing.assert_close(
        loss, F.cross_entropy(logits, classes, reduction="sum", label_smoothing=smoothing or 0.0)
    )
    mixed = 0.3 * F.one_hot(classes, 5).double() + 0.7 * F.one_hot(classes.flip(0), 5).double()
    loss = multi_label_loss(logits, mixed, verified, config)
    torch.testing.assert_close(loss, F.cross_entropy(logits, mixed, reduction="sum", label_smoothing=smoothing or 0.0))
    assert torch.autograd.gradcheck(lambda x: multi_label_loss(x, mixed, verified, config), logits)


def test_softmax_of_extreme_logits_stays_finite() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    labels = torch.tensor([[0.0, 1.0, 0.0]])
    loss = multi_label_loss(logits, labels, torch.ones(1, 3), MultiLabelLossConfig(kind="softmax"))
    assert loss.dtype == torch.float32 and float(loss.detach()) == pytest.approx(2e4, rel=1e-2)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize(
    ("labels", "masks"),
    [([1.0, 0.0], [1.0, 0.0]), ([1.0, 1.0], [1.0, 1.0]), ([0.0, 0.0], [1.0, 1.0]), ([1.0, 0.0], [1.0, 0.9])],
)
def test_softmax_refuses_what_is_not_one_verified_label(labels: list[float], masks: list[float]) -> None:
    with pytest.raises(DataError, match="one label each"):
        multi_label_loss(
            torch.zeros(2, 2),
            torch.tensor([[0.0, 1.0], labels]),
            torch.tensor([[1.0, 1.0], masks]),
            MultiLabelLossConfig(kind="softmax"),
        )


# ------------------------------------------------------------------- config
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"gamma": 2.0}, "gamma belongs to kind focal"),
        ({"kind": "focal", "clip": 0.1}, "clip belongs to kind asymmetric"),
        ({"kind": "asymmetric", "alpha": 0.3}, "alpha belongs to kind focal"),
        ({"label_smoothing": 0.1}, "label_smoothing belongs to kind softmax"),
        ({"kind": "softmax", "unknown": "ignore"}, "leave out unknown"),
        ({"kind": "softmax", "top_k": 2}, "belong to unknown: selective"),
        ({"kind": "asymmetric", "gamma_unknown": 2.0}, "gamma_unknown does nothing"),
        ({"unknown": "selective"}, "needs prior_threshold, top_k or both"),
        ({"unknown": "negative", "prior_threshold": 0.1}, "belong to unknown: selective"),
        ({"kind": "hinge"}, "kind"),
        ({"kind": "asymmetric", "clip": 1.0}, "less than 1"),
        ({"beta": 1}, "beta"),
    ],
    ids=str,
)
def test_what_would_do_nothing_is_refused_with_the_reason(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        MultiLabelLossConfig(**settings)


@pytest.mark.parametrize("settings", [*ALL, {"kind": "softmax"}, {}], ids=str)
def test_a_saved_config_reads_back(settings: dict[str, Any]) -> None:
    config = MultiLabelLossConfig(**settings)
    assert MultiLabelLossConfig(**config.model_dump(mode="json")) == config
