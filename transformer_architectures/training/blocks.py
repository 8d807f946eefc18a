"""What is done to a model block by block, in place and from outside: names in the state dict stay as they are."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from transformer_architectures.transformer_blocks import TransformerBlock


def blocks_of(model: nn.Module) -> list[TransformerBlock]:
    """The blocks of all stacks: what is sharded, computed again or compiled one by one."""
    return [module for module in model.modules() if isinstance(module, TransformerBlock)]


def checkpoint_activations(model: nn.Module) -> None:
    """Makes blocks keep their inputs only, and compute the rest again when gradients need it (Chen et al. 2016).

    Dropout drops the same units again.
    """
    for block in blocks_of(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]


def compile_blocks(model: nn.Module) -> None:
    """Compiles each block, a graph for every shape: blocks that are alike share theirs.

    torch would leave shapes after the eighth to Python, whose results differ in the last bits: which ones depends on where a resumed run
    goes on, so it would not be exact. It is told to compile as many as there are.
    """
    import torch._dynamo.config

    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = sys.maxsize
    for block in blocks_of(model):
        block.forward = torch.compile(block.forward, dynamic=False)  # type: ignore[method-assign]


@contextmanager
def uncompiled() -> Iterator[None]:
    """In this context compiled blocks run as they are written: decoding has another length at each token, and each would be compiled."""
    with torch.compiler.set_stance("force_eager"):
        yield
