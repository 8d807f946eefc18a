"""Device, number type and threads of a run: set from its config, never by an import."""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from transformer_architectures.errors import ConfigError
from transformer_architectures.utils.memory import keep_freed_memory

PrecisionName = Literal["fp32", "bf16", "auto"]


@dataclass(frozen=True)
class Precision:
    """Where and in what numbers the model computes. ``autocast_dtype`` None is true fp32."""

    device: torch.device
    autocast_dtype: torch.dtype | None

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which forward passes run."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.autocast_dtype)

    @property
    def name(self) -> str:
        """``fp32`` or ``bf16``."""
        return "fp32" if self.autocast_dtype is None else "bf16"


def resolve_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one.

    Raises:
        ConfigError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            "device cuda was asked for, but torch sees no GPU here: use --device cpu or Training.device: cpu"
        )
    try:
        return torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device {name!r}: expected auto, cpu or cuda") from None


def resolve_precision(name: str, device: torch.device) -> Precision:
    """``auto`` is bf16 where the processor multiplies it natively (measured in benchmarks/results/translation.md), else fp32.

    Raises:
        ConfigError: there is no such precision.
    """
    if name not in get_args(PrecisionName):
        raise ConfigError(f"precision {name!r}: expected one of {', '.join(get_args(PrecisionName))}")
    if name == "auto":
        name = "bf16" if has_native_bf16(device) else "fp32"
    return Precision(device, torch.bfloat16 if name == "bf16" else None)


def has_native_bf16(device: torch.device) -> bool:
    """Whether bf16 products run in hardware: Ampere GPUs and later, CPUs with AVX-512 BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    capabilities = torch.backends.cpu.get_cpu_capability()
    if not capabilities.startswith("AVX512"):
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def apply_runtime_settings(num_threads: int | None) -> None:
    """The process-wide settings of a run: threads, fp32 products that are really fp32, room for prepared products, kept memory.

    oneDNN reads its variable at its first product, so this must come before; what the user has set stays.
    """
    keep_freed_memory()
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    torch.set_float32_matmul_precision("highest")
