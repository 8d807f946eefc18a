"""Transformers to read, change and train. In this order:

1. `transformer_blocks`: the block. Everything else is declared from it.
2. `attention/`, `feedforward/`, `residual`, `normalization`, `masking`, `positions/`, `embedding`: what a block is made of.
3. `encoder`, `decoder`: stacks of blocks.
4. `architectures/`: whole models, each declared in a file called `transformer.py`.
5. `training/loop.py`: how they are trained; `tasks/`: for what; `generation/`: how a decoder is searched.

The other folders (`kernels/`, `datasets/`, `tokenization/`, `pretrained/`, `utils/` ...) can wait.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from transformer_architectures.utils.moved import install as _make_older_paths_importable

if TYPE_CHECKING:
    from transformer_architectures.attention import MultiHeadAttention
    from transformer_architectures.decoder import Decoder
    from transformer_architectures.encoder import Encoder
    from transformer_architectures.masking import AttentionMask
    from transformer_architectures.pretrained.model_folder import load_model
    from transformer_architectures.transformer_blocks import TransformerBlock

__all__ = ["AttentionMask", "Decoder", "Encoder", "MultiHeadAttention", "TransformerBlock", "load_model"]

_HOME = {
    "AttentionMask": "masking",
    "Decoder": "decoder",
    "Encoder": "encoder",
    "MultiHeadAttention": "attention",
    "TransformerBlock": "transformer_blocks",
    "load_model": "pretrained.model_folder",
}

_make_older_paths_importable()


def __getattr__(name: str) -> Any:
    # Lazily: the tokenisation workers import this package, and start ten times faster without torch.
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
