"""The ways to spread a training, and `tarch plan`: no data, no run, one answer."""

import json
from pathlib import Path
from typing import Any

import pytest
from planned_steps import KINDS, config_file, workload_of
from test_cli import Tarch, tarch

from transformer_architectures.errors import UsageError
from transformer_architectures.planning.memory import memory_of
from transformer_architectures.planning.quantities import parse_quantity, shown, shown_bytes
from transformer_architectures.planning.ways import Estimate, Hardware, Way, bytes_sent, cheapest, estimate, ways

__all__ = ["tarch"]  # the fixture

HARDWARE = Hardware(devices=4, memory=2**30, flops=1e12, utilisation=0.5, bandwidth=1e9, reserve=0.1)


@pytest.mark.parametrize(
    ("text", "value"), [("80GiB", 80 * 2**30), ("450GB", 450e9), ("989T", 989e12), ("1.5e12", 1.5e12), ("12 MiB", 12 * 2**20), ("7", 7)]
)  # fmt: skip
def test_quantities(text: str, value: float) -> None:
    assert parse_quantity(text, "--x") == value


@pytest.mark.parametrize("text", ["", "many", "-3GiB", "0", "80 Gib", "1e999", "GiB"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(UsageError, match="--bandwidth"):
        parse_quantity(text, "--bandwidth")


def test_numbers_for_the_reader() -> None:
    assert [shown(number) for number in (0.5, 12, 1234, 304_324_584, 989e12, 5e18)] == ["0.5", "12", "1.23 k", "304 M", "989 T", "5,000 P"]  # fmt: skip
    assert [shown_bytes(number) for number in (2**19, 3 * 2**30)] == ["0.5 MiB", "3.00 GiB"]


def test_all_ways_of_a_number_of_devices() -> None:
    assert [way.name for way in ways(1)] == ["one process", "one process, checkpointing"]
    assert [way.name for way in ways(3)[2:]] == [
        "ddp × 3",
        "ddp × 3, checkpointing",
        "fsdp × 3",
        "fsdp × 3, checkpointing",
    ]


@pytest.mark.parametrize(("precision", "gathered"), [("fp32", 4), ("bf16", 2)])
def test_bytes_over_the_network(tmp_path: Path, precision: str, gathered: int) -> None:
    config = config_file(tmp_path / "a.yaml", "vit", precision=precision, accumulation_steps=3)
    workload = workload_of(config, "vit")
    count = sum(parameter.numel() for parameter in workload.model.parameters())
    assert bytes_sent(Way("none", 1, False), workload) == 0
    assert bytes_sent(Way("ddp", 2, False), workload) == 4 * count  # 2 × 1/2 × 4
    assert bytes_sent(Way("ddp", 8, True), workload) == 2 * 4 * count * 7 // 8
    in_blocks = sum(p.numel() for name, p in workload.model.named_parameters() if ".blocks." in name)
    for_a_micro_batch = gathered * (2 * in_blocks + count - in_blocks) + 4 * count
    assert bytes_sent(Way("fsdp", 8, False), workload) == 3 * for_a_micro_batch * 7 // 8


@pytest.mark.parametrize("kind", KINDS)
def test_more_devices_share_the_batch_and_sharding_the_model(tmp_path: Path, kind: str) -> None:
    workload = workload_of(config_file(tmp_path / "a.yaml", kind, ema_decay=0.9), kind)
    one, ddp, fsdp = (estimate(workload, Way(form, n, False), HARDWARE) for form, n in (("none", 1), ("ddp", 2), ("fsdp", 2)))  # type: ignore[arg-type]  # fmt: skip
    assert workload.num_rows % 2 == 0 and one.flops == 2 * ddp.flops == 2 * fsdp.flops
    assert one.memory.activations == pytest.approx(2 * ddp.memory.activations, rel=0.01)
    assert fsdp.memory.activations == ddp.memory.activations
    for name in ("weights", "gradients", "optimizer", "ema"):
        whole, shared = getattr(one.memory, name), getattr(fsdp.memory, name)
        assert getattr(ddp.memory, name) == whole and whole / 2 <= shared < 0.8 * whole
    assert one.memory.exchange == 0 < fsdp.memory.exchange and ddp.memory.exchange == ddp.memory.gradients
    assert memory_of(workload, 0, 1, True).activations == 0


def test_the_busiest_device_sets_the_pace(tmp_path: Path) -> None:
    """Six images on four devices: two of them have two each, two have one, and all wait for the first two."""
    workload = workload_of(config_file(tmp_path / "a.yaml", "vit"), "vit")
    found = estimate(workload, Way("ddp", 4, False), HARDWARE)
    assert found.flops == workload.flops(2)
    sending, computing = found.bytes_sent / HARDWARE.bandwidth, found.flops / (HARDWARE.flops * HARDWARE.utilisation)
    assert found.seconds == max(sending, computing)


def test_the_cheapest_is_the_fastest_that_fits(tmp_path: Path) -> None:
    workload = workload_of(config_file(tmp_path / "a.yaml", "vit"), "vit")

    def all_of(memory: int, bandwidth: float = 1e15) -> list[Estimate]:
        hardware = Hardware(4, memory, 1e12, 0.5, bandwidth, 0.0)
        return [estimate(workload, way, hardware) for way in ways(4)]

    found = all_of(2**40)
    fastest = cheapest(found)
    assert fastest is not None and fastest.way == Way("ddp", 4, False)  # as fast as fsdp, and simpler
    on_a_slow_network = cheapest(all_of(2**40, bandwidth=1.0))
    assert on_a_slow_network is not None and on_a_slow_network.way == Way("none", 1, False)
    least = min(found, key=lambda each: each.memory.total)
    tight = cheapest(all_of(least.memory.total))
    assert tight is not None and tight.way == least.way
    assert cheapest(all_of(least.memory.total - 1)) is None


# ---------------------------------------------------------------- the command
@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_as_one_object(tmp_path: Path, tarch: Tarch, kind: str) -> None:
    config = config_file(tmp_path / "a.yaml", kind, accumulation_steps=2)
    outcome = tarch("plan", config, "--devices", "2", "--device-memory", "1GiB", "--json")
    assert outcome.code == 0, outcome.err
    (line,) = outcome.lines
    found: dict[str, Any] = json.loads(line)
    assert found["parameters"] == sum(found["parameter_groups"].values()) > 1000
    best = found["ways"][found["cheapest"]]
    assert best["fits"] and best["memory"]["total"] < 2**30 and len(found["ways"]) == 6
    for way in found["ways"]:
        of_a_step = sum(way["memory"][name] for name in ("cast_weights", "activations", "loss", "exchange"))
        kept = sum(way["memory"][name] for name in ("weights", "gradients", "optimizer", "ema"))
        assert way["memory"]["total"] == kept + max(of_a_step, way["memory"]["scoring"])
        assert (way["memory"]["scoring"] > 0) == (way["sharding"] == "fsdp")
    assert found["flops_per_step"] == found["ways"][0]["flops_per_device"]
    assert (tmp_path / "outputs").exists() is False and {path.name for path in tmp_path.iterdir()} == {"a.yaml"}


def test_a_plan_as_a_table(tmp_path: Path, tarch: Tarch) -> None:
    config = config_file(tmp_path / "a.yaml", "tags", ema_decay=0.9)
    outcome = tarch("plan", config, "--devices", "3", "--device-memory", "1GiB", "--num-labels", "9", "--length", "16")
    assert outcome.code == 0, outcome.err
    assert outcome.err == "" and "16 tokens of a window" in outcome.out and "9 classes" in outcome.out
    rows = [line for line in outcome.lines if line.startswith(("one process", "ddp", "fsdp"))]
    assert len(rows) == 6 and len({len(row) for row in rows}) == 1
    assert any(line.startswith("cheapest that fits into 921.6 MiB") for line in outcome.lines)
    assert "EMA" in outcome.out and "exchange" in outcome.out


def test_nothing_fits(tmp_path: Path, tarch: Tarch) -> None:
    outcome = tarch("plan", config_file(tmp_path / "a.yaml", "vanilla"), "--device-memory", "1kB", "--json")
    assert outcome.code == 0 and json.loads(outcome.out)["cheapest"] is None
    outcome = tarch("plan", config_file(tmp_path / "a.yaml", "vanilla"), "--device-memory", "1kB")
    assert outcome.code == 0 and "no way fits into" in outcome.out


def test_the_options_are_what_is_assumed(tmp_path: Path, tarch: Tarch) -> None:
    config = config_file(tmp_path / "a.yaml", "vit")
    options = ("--device-flops", "2G", "--utilisation", "0.25", "--bandwidth", "3MB", "--reserve", "0")
    found = json.loads(tarch("plan", config, "--devices", "2", *options, "--json").out)
    assert found["hardware"] == {"devices": 2, "memory": 80 * 2**30, "flops": 2e9, "utilisation": 0.25, "bandwidth": 3e6, "reserve": 0.0}  # fmt: skip
    one, ddp = found["ways"][0], found["ways"][2]
    assert one["seconds_per_step"] == pytest.approx(one["flops_per_device"] / 0.5e9)
    assert ddp["seconds_per_step"] >= ddp["bytes_sent_per_device"] / 3e6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "Model.embed_dimm=3"), "embed_dimm"),
        (("--set", "Model.num_heads=5"), "divisible"),
        (("--device-memory", "lots"), "--device-memory"),
        (("--devices", "0"), "--devices"),
        (("--num-labels", "3"), "--num-labels"),
        (("--utilisation", "2"), "--utilisation"),
    ],
)
def test_errors_of_config_and_options_exit_with_2(
    tmp_path: Path, tarch: Tarch, arguments: tuple[str, ...], message: str
) -> None:
    outcome = tarch("plan", config_file(tmp_path / "a.yaml", "vanilla"), *arguments)
    assert outcome.code == 2 and outcome.out == "" and message in outcome.err and outcome.err.count("\n") == 1


def test_what_belongs_to_another_task_is_refused(tmp_path: Path, tarch: Tarch) -> None:
    assert tarch("plan", config_file(tmp_path / "a.yaml", "vit"), "--length", "7").code == 2
    assert tarch("plan", config_file(tmp_path / "a.yaml", "documents"), "--num-labels", "7").code == 2
    assert tarch("plan", config_file(tmp_path / "a.yaml", "tags", {"num_labels": 3})).code == 2  # as `tarch train`


def test_a_suite_is_refused_by_name(tarch: Tarch) -> None:
    outcome = tarch("plan", "configs/bert_default.yaml")
    assert outcome.code == 2 and "suite" in outcome.err and "configs/bert_pretrain.yaml" in outcome.err
