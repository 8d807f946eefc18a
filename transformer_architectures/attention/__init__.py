"""Attention: functions, heads, sub-layers, cache, recording."""

from transformer_architectures.attention.attention_functions import (
    AdditiveAttention,
    AttentionFunction,
    ScaledDotProductAttention,
)
from transformer_architectures.attention.key_value_cache import KeyValueCache
from transformer_architectures.attention.multihead_attention import (
    AttentionConfig,
    CrossAttentionSubLayer,
    MultiHeadAttention,
    SelfAttentionSubLayer,
)
from transformer_architectures.attention.recording import record_attention
from transformer_architectures.kernels.fused_linear import FusedLinear

__all__ = [
    "AdditiveAttention",
    "AttentionConfig",
    "AttentionFunction",
    "CrossAttentionSubLayer",
    "FusedLinear",
    "KeyValueCache",
    "MultiHeadAttention",
    "ScaledDotProductAttention",
    "SelfAttentionSubLayer",
    "record_attention",
]
