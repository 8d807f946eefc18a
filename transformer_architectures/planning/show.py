"""A plan as a table: rich on a terminal, plain elsewhere."""

import sys
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from transformer_architectures.planning.plan import Plan
from transformer_architectures.planning.quantities import shown, shown_bytes
from transformer_architectures.planning.ways import Estimate
from transformer_architectures.utils.console import write_lines

COLUMNS = (
    ("weights", "weights"),
    ("cast_weights", "bf16 weights"),
    ("gradients", "gradients"),
    ("optimizer", "optimizer"),
    ("ema", "EMA"),
    ("activations", "activations"),
    ("loss", "logits, loss"),
    ("exchange", "exchange"),
    ("scoring", "(to score)"),
)


def show(plan: Plan) -> None:
    """Writes the plan to standard output."""
    rows = [["", *_columns(plan)], *(_row(plan, estimate) for estimate in plan.estimates)]
    if not sys.stdout.isatty():
        write_lines([*_head(plan), "", *_plain(rows), "", plan.verdict(), *_feet(plan)])
        return
    table = Table(*rows[0], row_styles=["", "dim"])
    for estimate, row in zip(plan.estimates, rows[1:], strict=True):
        table.add_row(*row, style="bold" if estimate is plan.cheapest else None)
    console = Console()
    for part in (*_head(plan), table, plan.verdict(), *_feet(plan)):
        console.print(part, highlight=False, markup=False)


def _head(plan: Plan) -> Iterator[str]:
    workload = plan.workload
    groups = ", ".join(f"{name} {shown(count)}" for name, count in plan.parameters.items())
    shapes = ", ".join(f"{value:,} {name}" for name, value in workload.shapes.items())
    steps = workload.training.accumulation_steps
    yield f"parameters   {sum(plan.parameters.values()):,} ({groups})"
    yield f"a step       {steps} × {workload.num_rows:,} {workload.unit} ({shapes})"
    yield f"             {shown(plan.flops)}FLOP, forward and backward"


def _columns(plan: Plan) -> list[str]:
    return [*(title for _, title in _used(plan)), "total", "fits", "sent a step", "time a step"]


def _row(plan: Plan, estimate: Estimate) -> list[str]:
    memory = [shown_bytes(getattr(estimate.memory, name)) for name, _ in _used(plan)]
    return [
        estimate.way.name,
        *memory,
        shown_bytes(estimate.memory.total),
        "yes" if estimate.fits else "no",
        f"{shown(estimate.bytes_sent)}B" if estimate.bytes_sent else "-",
        _seconds(estimate.seconds),
    ]


def _used(plan: Plan) -> list[tuple[str, str]]:
    """Those columns that are not zero everywhere."""
    return [(name, title) for name, title in COLUMNS if any(getattr(each.memory, name) for each in plan.estimates)]


def _plain(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        yield "  ".join(
            [name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))]
        )


def _feet(plan: Plan) -> Iterator[str]:
    yield "assuming:"
    yield from (f"  {line}" for line in plan.assumptions())


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
