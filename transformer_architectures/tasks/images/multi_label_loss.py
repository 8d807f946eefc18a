"""Loss of many labels per image, where a label may be present, absent or unknown.

- Three curves for a verified label: binary cross-entropy, focal loss (Lin et al. 2017, "Focal Loss for Dense Object
  Detection", section 3), asymmetric loss (Ridnik et al. 2021, "Asymmetric Loss For Multi-Label Classification", section 2).
- Three ways with an unknown one: leave it out, take it as absent, or take it as absent unless it is likely to be present
  (Ben-Baruch et al. 2022, "Multi-label Classification with Partial Annotations using Class-aware Selective Loss").
- A softmax cross-entropy on the same tensors, for images of one label that is always verified.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from transformer_architectures.config import StrictModel
from transformer_architectures.errors import DataError, UsageError

PARAMETERS_OF_KIND = {
    "bce": (),
    "focal": ("gamma", "alpha"),
    "asymmetric": ("gamma_pos", "gamma_neg", "gamma_unknown", "clip"),
    "softmax": ("label_smoothing",),
}
TOLERANCE = 1e-4  # a mask this close to 1 is verified: mixup leaves rounding errors


@dataclass(frozen=True)
class LossCurve:
    """What a pair of image and class costs: bce, focal and asymmetric loss are this with different numbers."""

    gamma_pos: float = 0.0
    gamma_neg: float = 0.0
    gamma_unknown: float = 0.0
    clip: float = 0.0
    positive_weight: float = 1.0
    negative_weight: float = 1.0


class MultiLabelLossConfig(StrictModel):
    """Which loss, and what an unknown label means to it. A parameter of another kind or mode is refused."""

    kind: Literal["bce", "focal", "asymmetric", "softmax"] = "bce"
    unknown: Literal["ignore", "negative", "selective"] | None = Field(
        default=None, description="`ignore` unless given"
    )

    gamma: float | None = Field(
        default=None, ge=0, description="focal: weight (1 - p of the truth) ** gamma; 2 unless given"
    )
    alpha: float | None = Field(
        default=None, gt=0, lt=1, description="focal: positives × alpha, negatives × (1 - alpha)"
    )
    gamma_pos: float | None = Field(
        default=None, ge=0, description="asymmetric: focal exponent of positives; 0 unless given"
    )
    gamma_neg: float | None = Field(default=None, ge=0, description="asymmetric: of negatives; 4 unless given")
    gamma_unknown: float | None = Field(
        default=None, ge=0, description="asymmetric: of unknowns; gamma_neg unless given"
    )
    clip: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="asymmetric: negatives below this probability cost nothing; 0.05 unless given",
    )
    label_smoothing: float | None = Field(
        default=None, ge=0, lt=1, description="softmax: share given to all classes alike"
    )

    prior_threshold: float | None = Field(
        default=None, gt=0, lt=1, description="selective: unknowns of classes more frequent than this are left out"
    )
    top_k: int | None = Field(
        default=None, ge=1, description="selective: the k × images most probable unknowns of a batch are left out"
    )

    @model_validator(mode="after")
    def is_consistent(self) -> "MultiLabelLossConfig":
        for kind, names in PARAMETERS_OF_KIND.items():
            for name in names:
                if kind != self.kind and getattr(self, name) is not None:
                    raise ValueError(f"{name} belongs to kind {kind}, it does nothing with {self.kind}")
        if self.kind == "softmax" and self.unknown is not None:
            raise ValueError("kind softmax takes images whose every label is verified: leave out unknown")
        if self.gamma_unknown is not None and self.unknown_mode == "ignore":
            raise ValueError("gamma_unknown does nothing where unknown labels are ignored")
        selects = self.prior_threshold is not None or self.top_k is not None
        if self.unknown_mode == "selective" and not selects:
            raise ValueError("unknown: selective needs prior_threshold, top_k or both; without them it is negative")
        if self.unknown_mode != "selective" and selects:
            raise ValueError("prior_threshold and top_k belong to unknown: selective")
        return self

    @property
    def unknown_mode(self) -> str:
        """What unknown labels mean, the default filled in."""
        return self.unknown or "ignore"

    @property
    def curve(self) -> LossCurve:
        """The numbers of the loss, defaults filled in; kind softmax has none."""
        if self.kind == "focal":
            gamma = _given(self.gamma, 2.0)
            weights = (1.0, 1.0) if self.alpha is None else (self.alpha, 1.0 - self.alpha)
            return LossCurve(gamma, gamma, gamma, 0.0, *weights)
        if self.kind == "asymmetric":
            gamma_neg = _given(self.gamma_neg, 4.0)
            return LossCurve(
                _given(self.gamma_pos, 0.0), gamma_neg, _given(self.gamma_unknown, gamma_neg), _given(self.clip, 0.05)
            )
        return LossCurve()


def multi_label_loss(
    logits: Float[Tensor, "batch classes"],
    labels: Float[Tensor, "batch classes"],
    masks: Float[Tensor, "batch classes"],
    config: MultiLabelLossConfig,
    prior: Float[Tensor, "classes"] | None = None,
) -> Float[Tensor, ""]:
    """The loss summed over a batch, in nats, in fp32 (or wider). Divide it by :func:`count_loss_terms`.

    ``masks`` weigh: 1 is verified, 0 unknown, and a mixture of a verified and an unknown label lies between. ``labels`` are the
    truth of the verified share: 1 present, 0 absent, between for a mixture of both; they do not matter where the mask is 0. So
    the mixture ``λ a + (1 - λ) b`` of two images has ``mask = λ mask_a + (1 - λ) mask_b`` and
    ``label = (λ mask_a label_a + (1 - λ) mask_b label_b) / mask``, and its loss is exactly the mixture of the two losses.

    A pair of image and class, p its probability, costs::

        mask × (label × positive(p) + (1 - label) × negative(p)) + (1 - mask) × unknown(p)

        bce          positive = -log p                    negative = -log(1 - p)
        focal        positive = -α (1 - p)^γ log p        negative = -(1 - α) p^γ log(1 - p)       (no α: no weights)
        asymmetric   positive = -(1 - p)^γ₊ log p         negative = -q^γ₋ log(1 - q),  q = max(p - clip, 0)

    ``unknown(p)`` is 0 with ``ignore``; ``negative(p)`` (asymmetric: with ``gamma_unknown``) with ``negative``; the same with
    ``selective``, but 0 for pairs that are likely to be present: those of classes with ``prior > prior_threshold``, and the
    ``top_k × batch`` most probable pairs that are not fully verified, over the batch as a whole (equal ones at the edge: any of them).

    ``prior`` is each class's estimated share of the training images; only ``selective`` with ``prior_threshold`` reads it.

    Where this differs from the published selective loss and its code: there the prior is the mean prediction of a temporary model
    trained with ``ignore``, here it is whatever is passed (counts of the training labels are less exact for classes that are rarely
    annotated); there focal weights are constants to the gradient, here the gradient is that of the function above; there a clip
    applies before pairs are ranked, which ties all improbable ones; the α weights are left out. As there, pairs that the prior
    leaves out keep their place among the most probable. A batch is what one call sees: accumulated micro-batches each choose
    their own top k, the one thing here that is not exactly that of the one large batch.

    Raises:
        UsageError: ``prior`` is needed and missing.
        DataError: kind softmax, and an image is not fully verified or its labels do not add up to 1.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    labels, masks = labels.to(logits.dtype), masks.to(logits.dtype)
    if config.kind == "softmax":
        return _softmax_cross_entropy(logits, labels, masks, _given(config.label_smoothing, 0.0))
    curve = config.curve
    positive = curve.positive_weight * _negative_log(logits, curve.gamma_pos)
    negative = curve.negative_weight * _negative_log_complement(logits, curve.gamma_neg, curve.clip)
    loss = masks * (labels * positive + (1 - labels) * negative)
    if config.unknown_mode != "ignore":
        unknown = negative
        if curve.gamma_unknown != curve.gamma_neg:
            unknown = curve.negative_weight * _negative_log_complement(logits, curve.gamma_unknown, curve.clip)
        weights = 1 - masks
        if config.unknown_mode == "selective":
            weights = weights.masked_fill(likely_present(logits, masks, config, prior), 0.0)
        loss = loss + weights * unknown
    return loss.sum()


def count_loss_terms(labels: Float[Tensor, "batch classes"]) -> int:
    """What a batch adds to the divisor of the summed loss: its number of images, for every kind and mode.

    So the loss of an image is the negative log-likelihood of all its labels together, as in the published recipes (they sum
    over classes). The alternatives, verified labels for ``ignore`` and images × classes for the others, were not taken:

    - A verified label has the same weight in all modes and beside any number of classes: modes differ by what unknown labels
      add and by nothing else. Divided by images × classes, the few labels that teach something would be divided by thousands of
      unknowns that are taken as absent, down to where Adam's epsilon is felt.
    - A label weighs the same in a batch with few labels as in one with many, and a batch without any does not divide by zero.
    - It is known before the forward pass; how many unknowns ``selective`` counts is not, and leaving some out should not
      make the others heavier.
    - Softmax has no other.

    The size of loss and gradient thus grows with the number of labels per image: Adam does not mind, but ``clip_norm`` must be
    set for it.
    """
    return labels.shape[0]


@torch.no_grad()
def likely_present(
    logits: Float[Tensor, "batch classes"],
    masks: Float[Tensor, "batch classes"],
    config: MultiLabelLossConfig,
    prior: Float[Tensor, "classes"] | None = None,
) -> Bool[Tensor, "batch classes"]:
    """Pairs whose unknown share ``selective`` leaves out (verified ones may be among them: they have no such share)."""
    likely = torch.zeros_like(masks, dtype=torch.bool)
    if config.top_k is not None:
        candidates = logits.masked_fill(masks >= 1 - TOLERANCE, -torch.inf).flatten()
        count = min(config.top_k * len(logits), candidates.numel())
        likely.view(-1)[candidates.topk(count, sorted=False).indices] = True
    if config.prior_threshold is not None:
        if prior is None:
            raise UsageError(
                "the selective loss with prior_threshold needs the class frequencies of the training labels"
            )
        likely |= prior.to(likely.device) > config.prior_threshold
    return likely


def _negative_log(logits: Tensor, gamma: float) -> Tensor:
    """``-(1 - p)^γ log p``. The power is taken in logarithms: finite, and so is its gradient, for any logit."""
    loss = -F.logsigmoid(logits)
    return loss * torch.exp(gamma * F.logsigmoid(-logits)) if gamma else loss


def _negative_log_complement(logits: Tensor, gamma: float, clip: float) -> Tensor:
    """``-q^γ log(1 - q)`` with ``q = max(p - clip, 0)``."""
    if not clip:
        return _negative_log(-logits, gamma)
    # The smallest normal number stands for zero, where the slope of q^γ is infinite for γ < 1: times zero that is not a number.
    shifted = (logits.sigmoid() - clip).clamp(min=torch.finfo(logits.dtype).tiny)
    loss = -torch.log1p(-shifted)
    return loss * shifted**gamma if gamma else loss


def _softmax_cross_entropy(logits: Tensor, labels: Tensor, masks: Tensor, smoothing: float) -> Tensor:
    """Szegedy et al. 2016, section 7: the target is ``(1 - s) label + s / classes``."""
    unverified = masks < 1 - TOLERANCE
    unnormalised = (labels.sum(dim=1) - 1).abs() > TOLERANCE
    if bool(unverified.any() | unnormalised.any()):  # one wait for the device, cheaper than a run on wrong labels
        raise DataError("loss kind softmax needs images with one label each, all other classes verified as absent")
    targets = (1 - smoothing) * labels + smoothing / labels.shape[1]
    return -(targets * logits.log_softmax(dim=1)).sum()


def _given(value: float | None, default: float) -> float:
    return default if value is None else value
