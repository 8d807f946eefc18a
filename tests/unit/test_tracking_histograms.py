"""Histograms: every value in the right bin, images drawn elsewhere than in training, which is left as it was."""

import io
import math
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from transformer_architectures.errors import TrackingError
from transformer_architectures.training import grad_logging
from transformer_architectures.training.grad_logging import (
    BINS_PER_SIGN,
    NUM_BINS,
    Drawing,
    GradientLogger,
    Histograms,
    async_log,
    bin_edge,
    codes_to_bins,
    count,
    histogram_codes,
)


class Images:
    """Takes the place of a tracker."""

    def __init__(self) -> None:
        self.at_close: list[Callable[[], None]] = []
        self.drawn: dict[int | None, bytes] = {}
        self.threads: set[threading.Thread] = set()

    def log_figure_png(self, png: bytes, artifact_file: str, step: int | None = None) -> None:
        self.drawn[step] = png
        self.threads.add(threading.current_thread())

    def close(self) -> None:
        for action in self.at_close:
            action()


def expected_bin(value: float) -> int:
    """By comparison with the edges alone."""
    distance = sum(bin_edge(BINS_PER_SIGN + k) <= abs(value) for k in range(1, BINS_PER_SIGN + 1))
    return BINS_PER_SIGN + int(math.copysign(distance, value))


def small_model() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 6, bias=False), nn.Linear(6, 2))
    model[1].weight.requires_grad_(False)
    model(torch.randn(5, 6)).square().sum().backward()
    return model


def test_every_value_is_counted_in_the_bin_of_its_edges(seed: int) -> None:
    values = torch.randn(3000) * 2.0 ** torch.randint(-45, 14, (3000,))
    exact = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        1.5,
        0.75,
        2.0**-32,
        -(2.0**-32),
        2.0**8,
        1e-45,
        3e38,
        -3e38,
        float("inf"),
        -float("inf"),
    ]
    values = torch.cat([values, torch.tensor(exact)])
    found = histogram_codes(values.view(2, -1)).float() @ codes_to_bins()
    expected = np.bincount([expected_bin(float(value)) for value in values], minlength=NUM_BINS)
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions_share_the_bins(seed: int, dtype: torch.dtype) -> None:
    values = torch.randn(1000).bfloat16().to(dtype)
    assert torch.equal(histogram_codes(values), histogram_codes(values.float()))
    transposed = torch.randn(8, 5).to(dtype).t()
    assert torch.equal(histogram_codes(transposed), histogram_codes(transposed.contiguous()))


def test_edges_ascend_and_are_symmetric() -> None:
    edges = [bin_edge(index) for index in range(NUM_BINS)]
    assert edges == sorted(edges) and edges == [-edge for edge in reversed(edges)]
    assert edges[BINS_PER_SIGN + 1] == 2.0**-32 and edges[-1] == 1.5 * 2.0**7


def test_a_row_for_each_tensor_and_training_left_as_it_was(seed: int) -> None:
    model = small_model()
    before = [parameter.clone() for parameter in model.parameters()]
    random = torch.get_rng_state()
    histograms = count(model, 7)
    assert histograms.names == ("0.weight", "0.bias", "1.weight", "2.weight", "2.bias")
    assert histograms.parameters.sum(axis=1).tolist() == [24, 4, 24, 12, 2]
    assert histograms.gradients.sum(axis=1).tolist() == [24, 4, 0, 12, 2]  # 1.weight is frozen
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), random)


def test_names_are_those_before_compilation_and_tied_weights_are_one_row(seed: int) -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(5, 3), "output": nn.Linear(3, 5, bias=False)})
    model["output"].weight = model["embedding"].weight
    compiled = nn.ModuleDict({"_orig_mod": model})  # what torch.compile makes of the names
    assert count(compiled, 1).names == ("embedding.weight",)


def test_a_image_at_each_interval_drawn_in_the_background(seed: int) -> None:
    from PIL import Image

    images, model = Images(), small_model()
    logger = GradientLogger(images, 5)
    for step in range(1, 16):
        logger.async_log(model, step)
    images.close()
    assert list(images.drawn) == [5, 10, 15]
    assert threading.main_thread() not in images.threads and not logger.thread.is_alive()
    for png in images.drawn.values():
        assert Image.open(io.BytesIO(png)).convert("RGB").getextrema() != ((255, 255),) * 3


def test_images_differ_only_where_their_counts_do(seed: int) -> None:
    from PIL import Image

    def image(column: int) -> np.ndarray:
        counts = np.zeros((2, NUM_BINS), dtype=np.float32)
        counts[:, column] = 10
        png = drawing(Histograms(3, names, counts, np.zeros_like(counts)))
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=int)

    names = ("first.weight", "second.weight")
    drawing = Drawing(names)
    left, right, again = image(BINS_PER_SIGN - 30), image(BINS_PER_SIGN + 30), image(BINS_PER_SIGN - 30)
    assert np.array_equal(left, again)  # nothing of the image before is left
    changed = np.flatnonzero(np.abs(left - right).sum(axis=(0, 2)))
    assert (
        0 < len(changed) < left.shape[1] / 20 and changed.max() < left.shape[1] * 0.65
    )  # the gradients' half is the same


def test_training_does_not_wait_for_images(
    seed: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    may_draw = threading.Event()

    class SlowDrawing:
        def __init__(self, names: tuple[str, ...]) -> None:
            may_draw.wait(30)

        def __call__(self, histograms: Histograms) -> bytes:
            return b""

    monkeypatch.setattr(grad_logging, "Drawing", SlowDrawing)
    images, model = Images(), small_model()
    logger = GradientLogger(images, 1)
    for step in range(1, 101):
        logger.async_log(model, step)
    assert not images.drawn  # all steps were taken before the first image was drawn
    may_draw.set()
    images.close()
    assert len(images.drawn) + logger.num_skipped == 100 and logger.num_skipped > 0 and "left out" in caplog.text


def test_the_function_uses_the_newest_logger(seed: int) -> None:
    images, model = Images(), small_model()
    logger = GradientLogger(images, 2)
    for step in range(1, 5):
        async_log(model, step)
    images.close()
    assert list(images.drawn) == [2, 4]
    del logger


def test_the_function_without_a_logger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grad_logging, "active_logger", None)
    with pytest.raises(TrackingError, match="GradientLogger"):
        async_log(nn.Linear(2, 2), 1)
