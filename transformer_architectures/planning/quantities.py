"""Sizes as people write them: ``80GiB``, ``450GB``, ``989T``."""

import re

from transformer_architectures.errors import UsageError

DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
PATTERN = re.compile(r"(\d+(?:\.\d*)?(?:[eE]\+?\d+)?)\s*([kMGTP]|[KMGT]i)?B?")


def parse_quantity(text: str, option: str) -> float:
    """A number with a unit: ``k M G T P`` are powers of 1,000, ``Ki Mi Gi Ti`` of 1,024; a ``B`` behind it is only read.

    Raises:
        UsageError: it is none, or zero.
    """
    match = PATTERN.fullmatch(text.strip())
    value = float(match[1]) * (DECIMAL | BINARY)[match[2] or ""] if match else 0.0
    if not 0 < value < float("inf"):
        raise UsageError(f"{option} {text}: expected a number with a unit, for example 80GiB, 50GB or 989T")
    return value


def shown(number: int | float, digits: int = 3) -> str:
    """A number in thousands, millions, ...: ``12.3 G``."""
    for unit, size in sorted(DECIMAL.items(), key=lambda item: -item[1]):
        if number >= size:
            return (
                f"{number / size:.{digits}g} {unit}".strip() if number < 1000 * size else f"{number / size:,.0f} {unit}"
            )
    return f"{number:.{digits}g}"


def shown_bytes(number: int) -> str:
    """In GiB, or MiB where that is little."""
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:.1f} MiB"
