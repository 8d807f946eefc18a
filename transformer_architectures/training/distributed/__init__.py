"""Several processes: ranks, their heartbeats, sharded models. Applied from outside: a model knows no ranks."""

from transformer_architectures.training.distributed.ranks import Ranks, data_parallel, process_group

__all__ = ["Ranks", "data_parallel", "process_group"]
