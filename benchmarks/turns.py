"""Systems take turns, so that a slow minute of the machine hits all of them."""

import statistics
import time
from collections.abc import Callable, Mapping


def median_seconds_in_turn(systems: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Each does its work once a round, one after the other; the median over the rounds counts."""
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(rounds):
        for name, work in systems.items():
            started = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}
