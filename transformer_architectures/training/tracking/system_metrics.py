"""What the machine does while a run goes on, under the names that MLflow's page of system metrics looks for."""

import sys
import threading
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import psutil

MEGABYTE = 1e6
SAMPLE_INTERVAL = 10.0  # seconds


@runtime_checkable
class MetricLog(Protocol):
    """What the monitor needs of a tracker."""

    last_step: int

    def log_metrics(self, metrics: Mapping[str, float | int], step: int) -> None: ...


class SystemMonitor(threading.Thread):
    """Samples the machine every few seconds and logs the mean once for each step that was logged meanwhile.

    So a point has a step of the run, as all others, and a step has one point.
    """

    def __init__(self, log: MetricLog, interval: float = SAMPLE_INTERVAL) -> None:
        super().__init__(name="system metrics", daemon=True)
        self.log, self.interval = log, interval
        self.stopping = threading.Event()
        self.samples: list[dict[str, float]] = []
        self.logged_step = log.last_step
        self.network_at_start = received_and_sent()

    def run(self) -> None:
        psutil.cpu_percent()  # the first call has nothing to compare with
        while not self.stopping.wait(self.interval):
            self.samples.append(self.sample())
            self.emit()

    def stop(self) -> None:
        """Ends the thread; a run that was shorter than one interval has one sample all the same."""
        self.stopping.set()
        self.join()
        self.samples.append(self.sample())
        self.emit()

    def emit(self) -> None:
        """Logs the mean of the samples if a new step was logged since the last time."""
        step = self.log.last_step
        if step <= self.logged_step:
            return
        means = {key: sum(sample[key] for sample in self.samples) / len(self.samples) for key in self.samples[0]}
        self.log.log_metrics(means, step)
        self.logged_step, self.samples = step, []

    def sample(self) -> dict[str, float]:
        """The state of the machine now."""
        memory = psutil.virtual_memory()
        received, sent = (
            (now - before) / MEGABYTE for now, before in zip(received_and_sent(), self.network_at_start, strict=True)
        )
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / MEGABYTE,
            "system_memory_usage_percentage": memory.percent,
            "process_memory_usage_megabytes": psutil.Process().memory_info().rss / MEGABYTE,
            "network_receive_megabytes": received,
            "network_transmit_megabytes": sent,
            **gpu_memory(),
        }
        return {f"system/{key}": value for key, value in values.items()}


def received_and_sent() -> tuple[int, int]:
    """Bytes over all network interfaces since the machine started."""
    counters = psutil.net_io_counters()
    return (0, 0) if counters is None else (counters.bytes_recv, counters.bytes_sent)


def gpu_memory() -> dict[str, float]:
    """Memory in use on each GPU that this process uses; nothing where torch has not started one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    values = {}
    for index in range(torch.cuda.device_count()):
        if torch.cuda.memory_reserved(index):
            free, total = torch.cuda.mem_get_info(index)
            values[f"gpu_{index}_memory_usage_megabytes"] = (total - free) / MEGABYTE
            values[f"gpu_{index}_memory_usage_percentage"] = 100 * (total - free) / total
    return values
