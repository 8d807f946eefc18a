"""Histograms of parameters and gradients, as images among the run's artifacts.

- All tensors of all steps share their bins: two for each power of two and sign, from 2^-32 to 2^8; smaller values share the
  middle one, larger ones the outermost. The bin of a float is its sign, its exponent and the first bit of its mantissa: one
  shift of its bits. Counting so takes as long as the copy that another thread would need, so it is done at once.
- Drawing is slow, and is done in a background thread, on a canvas whose labels were drawn once.
"""

import io
import logging
import queue
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from transformer_architectures.errors import TrackingError

BITS_SHIFT = 22  # what is left of a float32: sign, 8 bits of exponent, 1 of mantissa
NUM_CODES = 2**10
LOWEST_EXPONENT, HIGHEST_EXPONENT = -32, 8
BINS_PER_SIGN = 2 * (HIGHEST_EXPONENT - LOWEST_EXPONENT)
NUM_BINS = 2 * BINS_PER_SIGN + 1
MAX_WAITING = 16  # images not drawn yet

logger = logging.getLogger(__name__)


def codes_to_bins() -> Float[Tensor, "codes bins"]:
    """One where a code of `histogram_codes` belongs to a bin. Bins ascend from the most negative value."""
    code = torch.arange(NUM_CODES)
    magnitude, is_negative = code % (NUM_CODES // 2), code >= NUM_CODES // 2
    distance = (magnitude - 2 * (LOWEST_EXPONENT + 127) + 1).clamp(0, BINS_PER_SIGN)  # 127: the exponent of 1.0
    column = BINS_PER_SIGN + torch.where(is_negative, -distance, distance)
    return nn.functional.one_hot(column, NUM_BINS).float()


def bin_edge(index: int) -> float:
    """The end of a bin that is nearer to zero; zero for the middle bin."""
    distance = abs(index - BINS_PER_SIGN)
    if distance == 0:
        return 0.0
    octave, upper_half = divmod(distance - 1, 2)
    edge = 2.0 ** (LOWEST_EXPONENT + octave) * (1.5 if upper_half else 1.0)
    return edge if index > BINS_PER_SIGN else -edge


def histogram_codes(tensor: Float[Tensor, "*shape"]) -> Int[Tensor, "codes"]:
    """How many values have each code, the first ten bits of a float32; on the CPU."""
    bits = tensor.detach().float().view(torch.int32).flatten()
    return torch.bincount((bits >> BITS_SHIFT) & (NUM_CODES - 1), minlength=NUM_CODES).cpu()


@dataclass(frozen=True)
class Histograms:
    """Counts of one step, a row for each parameter of the model.

    Attributes:
        gradients: as the optimizer saw them (clipped, if they are); a row of zeros where there is none.
    """

    step: int
    names: tuple[str, ...]
    parameters: Float[np.ndarray, "rows bins"]
    gradients: Float[np.ndarray, "rows bins"]


def count(
    model: nn.Module,
    step: int,
    local_shard: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    sum_over_ranks: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> Histograms:
    """Counts the values of all parameters and gradients. Tied parameters are one row; names are those before compilation.

    Args:
        local_shard: of a parameter or gradient, what this rank counts.
        sum_over_ranks: adds up the counts of all ranks, where each counts a shard.
    """
    named = list(model.named_parameters())
    nothing = torch.zeros(NUM_CODES, dtype=torch.int64)
    parameters = [histogram_codes(local_shard(parameter)) for _, parameter in named]
    gradients = [nothing if p.grad is None else histogram_codes(local_shard(p.grad)) for _, p in named]
    codes = torch.stack([torch.stack(parameters), torch.stack(gradients)])
    counts = sum_over_ranks(codes).float() @ codes_to_bins()
    names = tuple(name.replace("_orig_mod.", "") for name, _ in named)
    return Histograms(step, names, counts[0].numpy(), counts[1].numpy())


class Drawing:
    """Draws histograms as PNG: a row for each tensor, a column for each bin, colour for the share of the row.

    Labels and axes, which cost a second for a hundred rows, are drawn once and kept.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.colors import LogNorm
        from matplotlib.figure import Figure

        height = 1.2 + 0.12 * len(names)
        figure = Figure(figsize=(13, height), dpi=80)  # inches
        canvas: Any = FigureCanvasAgg(figure)
        self.canvas = canvas
        figure.subplots_adjust(left=0.27, right=0.99, bottom=0.4 / height, top=1 - 0.5 / height, wspace=0.03)
        self.axes = figure.subplots(1, 2, sharey=True)
        ticks = [index for index in range(NUM_BINS) if abs(index - BINS_PER_SIGN) in (0, 21, 41, 61)]
        labels = [f"{bin_edge(index):.0e}" if index != BINS_PER_SIGN else "0" for index in ticks]
        empty = np.zeros((len(names), NUM_BINS))
        self.images = []
        for axis, title in zip(self.axes, ("parameters", "gradients"), strict=True):
            image = axis.imshow(empty, norm=LogNorm(1e-4, 1.0), aspect="auto", interpolation="nearest")
            axis.set_xticks(ticks, labels, fontsize=6)
            axis.set_title(title, fontsize=9)
            self.images.append(image)
        self.axes[0].set_yticks(range(len(names)), names, fontsize=6)
        self.axes[1].tick_params(labelleft=False)
        self.caption = figure.text(0.01, 1 - 0.3 / height, "", fontsize=9)
        self.canvas.draw()
        self.background = self.canvas.copy_from_bbox(figure.bbox)

    def __call__(self, histograms: Histograms) -> bytes:
        """The image as PNG."""
        from PIL import Image

        self.canvas.restore_region(self.background)
        counted = (histograms.parameters, histograms.gradients)
        for axis, image, counts in zip(self.axes, self.images, counted, strict=True):
            image.set_data(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
            axis.draw_artist(image)
        self.caption.set_text(f"step {histograms.step}, colour: share of the row, from 1e-4 (dark) to 1")
        self.caption.draw(self.canvas.get_renderer())
        png = io.BytesIO()
        Image.fromarray(np.asarray(self.canvas.buffer_rgba())).convert("RGB").save(png, "PNG", compress_level=1)
        return png.getvalue()


@runtime_checkable
class ImageLog(Protocol):
    """What a `GradientLogger` needs of a tracker."""

    at_close: list[Callable[[], None]]

    def log_figure_png(self, png: bytes, artifact_file: str, step: int | None = None) -> None: ...


class GradientLogger:
    """Logs the histograms of a model every ``interval`` steps to ``histograms/histograms_<step>.png``.

    Call `async_log` after the step, while the gradients are there. Images that wait when the run is closed are drawn then.
    """

    def __init__(self, tracker: ImageLog, interval: int) -> None:
        global active_logger
        self.tracker, self.interval = tracker, interval
        self.waiting: queue.SimpleQueue[Histograms | None] = queue.SimpleQueue()
        self.num_skipped = 0
        self.thread = threading.Thread(target=self.draw_all, name="histograms", daemon=True)
        self.thread.start()
        tracker.at_close.append(self.close)
        active_logger = weakref.ref(self)

    def async_log(self, model: nn.Module, step: int) -> None:
        """Counts, if this step is one of an interval, and leaves the drawing to the background."""
        if step % self.interval == 0:
            self.draw(lambda: count(model, step))

    def draw(self, counted: Callable[[], Histograms]) -> None:
        """Leaves a drawing to the background, and where that does not keep up, out: training does not wait for it.

        Args:
            counted: gives what is drawn; not asked for what is left out.
        """
        if self.waiting.qsize() < MAX_WAITING:
            self.waiting.put(counted())
        else:
            self.num_skipped += 1

    def draw_all(self) -> None:
        """The background thread."""
        drawing = None
        while (histograms := self.waiting.get()) is not None:
            drawing = drawing or Drawing(histograms.names)
            self.tracker.log_figure_png(drawing(histograms), "histograms/histograms.png", histograms.step)

    def close(self) -> None:
        """Draws what waits and ends the thread."""
        self.waiting.put(None)
        self.thread.join()
        if self.num_skipped:
            logger.warning(
                "%d histograms were left out: the interval is shorter than a drawing takes", self.num_skipped
            )


active_logger: "weakref.ref[GradientLogger] | None" = None


def async_log(model: nn.Module, step: int) -> None:
    """Logs the histograms of ``model`` by the newest `GradientLogger`, at its interval.

    Raises:
        TrackingError: there is none.
    """
    current = active_logger() if active_logger is not None else None
    if current is None:
        raise TrackingError("no histograms can be logged: make a GradientLogger(tracker, interval) first")
    current.async_log(model, step)
