"""Transformers to read, change and train. `load_model(folder)` opens what a training left."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformer_architectures.model_folder import load_model

__all__ = ["load_model"]


def __getattr__(name: str) -> Any:
    # Lazily: the tokenisation workers import this package, and start ten times faster without torch.
    if name == "load_model":
        from transformer_architectures.model_folder import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
