"""Samplers: which rows make a batch, as pure functions of seed, epoch and position."""

from transformer_architectures.samplers.shuffled import ShuffledBatchSampler
from transformer_architectures.samplers.token_budget import TokenBudgetBatchSampler

__all__ = ["ShuffledBatchSampler", "TokenBudgetBatchSampler"]
