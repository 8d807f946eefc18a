"""Checkpoints that are whole or absent: written beside, flushed, renamed, and verified before they are parsed."""

from transformer_architectures.training.checkpointing.checkpoints import (
    load_checkpoint,
    read_checkpoint,
    restore,
    resume_mlflow_run,
    save_checkpoint,
)

__all__ = ["load_checkpoint", "read_checkpoint", "restore", "resume_mlflow_run", "save_checkpoint"]
