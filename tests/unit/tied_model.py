"""A toy to share out, in a group of one process: an embedding that is also the head, blocks, and a loss."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from transformer_architectures.attention import AttentionConfig
from transformer_architectures.encoder import Encoder
from transformer_architectures.feedforward import FeedForwardConfig
from transformer_architectures.residual import ResidualConfig
from transformer_architectures.transformer_blocks import TransformerBlockConfig

DIM, VOCABULARY = 16, 11


@pytest.fixture(scope="module", autouse=True)
def group_of_one() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Tied(nn.Module):
    """Embedding, blocks, and a head that is the embedding; a method of its own for the loss."""

    def __init__(self) -> None:
        super().__init__()
        block = TransformerBlockConfig(
            DIM, AttentionConfig(num_heads=2), FeedForwardConfig(ff_dim=24), ResidualConfig(dropout=0.3)
        )
        self.embedding = nn.Embedding(VOCABULARY, DIM)
        self.encoder = Encoder(block, num_layers=2)
        self.head = nn.Linear(DIM, VOCABULARY)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)
        self.register_buffer("positions", torch.linspace(0, 1, DIM))

    def features(self, tokens: Tensor) -> Tensor:
        return self.encoder(self.embedding(tokens) * self.scale + self.positions)


class Batch:
    """Tokens, each of which is its own label."""

    def __init__(self, tokens: Tensor, number: int = 0) -> None:
        self.tokens, self.indices = tokens, (number,)
        self.num_labels = self.num_tokens = self.num_positions = tokens.numel()

    def to(self, device: torch.device) -> "Batch":
        return self


def loss_of(model: Tied, batch: Batch) -> Tensor:
    logits = model.head(model.features(batch.tokens))
    return nn.functional.cross_entropy(logits.flatten(0, 1), batch.tokens.flatten(), reduction="sum")


def batches(number: int) -> list[Batch]:
    draw = torch.Generator().manual_seed(3)
    return [Batch(torch.randint(VOCABULARY, (4, 6), generator=draw), n) for n in range(number)]
