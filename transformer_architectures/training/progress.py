"""Where a run stands: one bar on a terminal, plain lines elsewhere; both on standard error."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class ProgressReport:
    """Context manager that shows the metrics of each interval and how long it will still take."""

    def __init__(self, total_steps: int | None, global_step: int, enabled: bool = True) -> None:
        self.total_steps = total_steps
        console = Console(stderr=True, quiet=not enabled)
        self.enabled = enabled
        self.bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=console,
            disable=not (enabled and sys.stderr.isatty()),
        )
        self.task: TaskID = self.bar.add_task("", total=total_steps, completed=global_step)
        self.first_step, self.started = global_step, time.perf_counter()

    def __enter__(self) -> "ProgressReport":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def advance(self, global_step: int) -> None:
        """One more step is done."""
        self.bar.update(self.task, completed=global_step)

    def show(self, epoch: int, global_step: int, metrics: dict[str, float]) -> None:
        """The figures of an interval."""
        text = "  ".join(f"{name.removeprefix('train/')} {_format(name, value)}" for name, value in metrics.items())
        if not self.bar.disable:
            self.bar.update(self.task, description=text)
        else:
            self.say(
                f"epoch {epoch}  step {global_step}/{self.total_steps or '?'}  {text}{self._time_left(global_step)}"
            )

    def say(self, line: str) -> None:
        """One line, above the bar where there is one."""
        if not self.enabled:
            return
        if self.bar.disable:
            print(line, file=sys.stderr, flush=True)
        else:
            self.bar.console.print(line, markup=False, highlight=False)

    def _time_left(self, global_step: int) -> str:
        if self.total_steps is None or global_step == self.first_step:
            return ""
        seconds_per_step = (time.perf_counter() - self.started) / (global_step - self.first_step)
        left = int(seconds_per_step * (self.total_steps - global_step))
        return f"  left {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"


def _format(name: str, value: float) -> str:
    if name.endswith("per_second"):
        return f"{value:,.0f}"
    return f"{value:.1%}" if name.endswith("share") else f"{value:.4g}"
