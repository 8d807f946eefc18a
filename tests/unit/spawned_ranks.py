"""Processes that find each other as those do that torchrun starts."""

import os
import socket

import torch


def free_port() -> int:
    """Where rank 0 may listen."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def be_rank(rank: int, world_size: int, port: int) -> None:
    """What torchrun tells this process."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank)}
