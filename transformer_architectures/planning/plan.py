"""The plan of a training: what it costs each way, and which way is the cheapest that fits."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from transformer_architectures.errors import UsageError
from transformer_architectures.planning.quantities import shown, shown_bytes
from transformer_architectures.planning.ways import Estimate, Hardware, cheapest, estimate, ways
from transformer_architectures.planning.workload import Workload
from transformer_architectures.training.runs.suite import suite_of

# An H100 SXM by its data sheet (dense, without sparsity), and one network adapter of 400 Gbit/s for each device.
DEVICE_FLOPS = {"bf16": 989e12, "fp32": 67e12}
UTILISATION = 0.4  # of large models on many devices; small ones reach less
BANDWIDTH = 50e9
RESERVE = 0.1


@dataclass(frozen=True)
class Plan:
    """A workload, the hardware, and the estimates of all ways."""

    config: str
    workload: Workload
    hardware: Hardware
    estimates: list[Estimate]

    @property
    def cheapest(self) -> Estimate | None:
        """The way to take; None where none fits."""
        return cheapest(self.estimates)

    @property
    def parameters(self) -> dict[str, int]:
        """By part of the model."""
        groups: Any = self.workload.model.parameter_groups  # of every model of this library
        counts: dict[str, int] = groups()
        assert sum(counts.values()) == sum(parameter.numel() for parameter in self.workload.model.parameters())
        return counts

    @property
    def flops(self) -> int:
        """Of an optimizer step, forward and backward, over all devices."""
        return self.workload.training.accumulation_steps * self.workload.flops(self.workload.num_rows)

    def assumptions(self) -> list[str]:
        """What the numbers rest on, beside the config."""
        hardware, workload = self.hardware, self.workload
        found = [
            *workload.assumptions,
            f"a micro-batch is {workload.num_rows} {workload.unit} over all devices, each computes its share of them",
            f"{workload.precision}: a device reaches {hardware.utilisation:.0%} (--utilisation) of "
            f"{shown(hardware.flops)}FLOP/s (--device-flops)",
            f"it sends {shown(hardware.bandwidth)}B/s (--bandwidth) while it computes",
            f"{hardware.reserve:.0%} (--reserve) of its memory is left to the driver, the network library, fragments, and "
            "what the backward pass has for a moment",
        ]
        if workload.num_rows % hardware.devices:
            most = -(-workload.num_rows // hardware.devices)
            found.append(f"{workload.num_rows} {workload.unit} are no multiple of {hardware.devices} devices: some wait for those that have {most}")  # fmt: skip
        return found

    def as_dict(self) -> dict[str, Any]:
        """For JSON: bytes, operations and seconds as plain numbers."""
        workload, best = self.workload, self.cheapest
        return {
            "config": self.config,
            "precision": workload.precision,
            "parameters": sum(self.parameters.values()),
            "parameter_groups": self.parameters,
            "flops_per_step": self.flops,
            "micro_batch": {"rows": workload.num_rows, "unit": workload.unit, **workload.shapes},
            "accumulation_steps": workload.training.accumulation_steps,
            "hardware": asdict(self.hardware),
            "ways": [each.as_dict() for each in self.estimates],
            "cheapest": None if best is None else self.estimates.index(best),
            "assumptions": self.assumptions(),
        }

    def verdict(self) -> str:
        """Which way to take, in one line."""
        available = shown_bytes(int(self.hardware.memory * (1 - self.hardware.reserve)))
        if self.cheapest is None:
            least = min(self.estimates, key=lambda each: each.memory.total)
            needs = f"{least.way.name} needs least, {shown_bytes(least.memory.total)}"
            return f"no way fits into {available}: {needs}; take a smaller micro-batch, or more devices"
        settings = self.cheapest.way.settings
        return f"cheapest that fits into {available}: {self.cheapest.way.name}{settings and f' ({settings})'}"


def make_plan(
    architecture: str,
    config: str,
    overrides: list[str],
    hardware: Callable[[str], Hardware],
    length: int | None = None,
    num_labels: int | None = None,
) -> Plan:
    """Plans the training that a config describes.

    Args:
        hardware: for a precision, because devices are not as fast in all.
        length: tokens of a sequence, where the data have others than the longest; num_labels: classes of the data.

    Raises:
        ConfigError: the config is wrong.
        UsageError: it is a suite, or an option does not belong to its task.
    """
    if (suite := suite_of(config)) is not None:
        names = ", ".join(dict.fromkeys(str(Path(config).parent / run.config) for run in suite.runs))
        raise UsageError(f"{config} is a suite of several trainings: plan one of them ({names})")
    plan_of = import_module(f"transformer_architectures.architectures.{architecture}.plan")
    workload: Workload = plan_of.workload(config, overrides, length, num_labels)
    found = hardware(workload.precision)
    estimates = [estimate(workload, way, found) for way in ways(found.devices)]
    return Plan(config, workload, found, estimates)
