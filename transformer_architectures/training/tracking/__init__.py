"""Metrics, tables and figures of runs, sent to MLflow in the background: tracking never stops a training."""

from transformer_architectures.training.tracking.delivery import sync
from transformer_architectures.training.tracking.tracker import Tracker

__all__ = ["Tracker", "sync"]
