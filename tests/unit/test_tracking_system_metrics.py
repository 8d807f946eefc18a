"""The machine's numbers: one point for each step that was logged meanwhile, none without one."""

import threading
from collections.abc import Mapping

from transformer_architectures.training.tracking.system_metrics import SystemMonitor


class Log:
    def __init__(self) -> None:
        self.last_step = 0
        self.points: list[tuple[int, Mapping[str, float | int]]] = []
        self.has_point = threading.Event()

    def log_metrics(self, metrics: Mapping[str, float | int], step: int) -> None:
        self.points.append((step, metrics))
        self.has_point.set()


def test_a_step_has_one_point() -> None:
    log = Log()
    monitor = SystemMonitor(log, interval=0.01)
    monitor.start()
    assert not log.has_point.wait(0.1)
    for step in (50, 100):
        log.has_point.clear()
        log.last_step = step
        assert log.has_point.wait(10)
        log.has_point.clear()
        assert not log.has_point.wait(0.05)
    monitor.stop()
    assert [step for step, _ in log.points] == [50, 100] and not monitor.is_alive()
    for _, values in log.points:
        assert 0 <= values["system/cpu_utilization_percentage"] <= 100
        assert 0 < values["system/process_memory_usage_megabytes"] < values["system/system_memory_usage_megabytes"] * 2


def test_a_short_run_has_a_point() -> None:
    log = Log()
    monitor = SystemMonitor(log, interval=1000.0)
    monitor.start()
    log.last_step = 3
    monitor.stop()
    assert [step for step, _ in log.points] == [3]
