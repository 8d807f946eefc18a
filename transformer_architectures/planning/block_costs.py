"""What one block costs: operations of its matrix products, and bytes that it keeps for the backward pass.

Closed forms of a block's declaration. What is kept is what torch's autograd saves, every storage once:

* the residual stream is fp32, also under autocast, where the inputs of matrix products are bf16;
* a norm keeps its input and two numbers a row; a linear layer its input; ReLU its output, other activations their input;
* the fused attention kernel keeps one number for each query and head, plain tensor operations keep all attention weights;
* dropout keeps a byte for each element.
"""

from dataclasses import dataclass

from transformer_architectures.transformer_blocks import TransformerBlockConfig

FP32 = 4  # bytes
Bytes = dict[str, int]  # what for: how many


@dataclass(frozen=True)
class ElementSizes:
    """How a run keeps its numbers.

    Attributes:
        product: bytes of an element of what is multiplied: 4, or 2 under bf16 autocast.
        fused_attention: whether torch's fused kernel attends.
        attention_weight: bytes kept of an attention weight where it does not.
    """

    product: int
    fused_attention: bool
    attention_weight: int


@dataclass(frozen=True)
class Sequences:
    """What a block sees.

    Attributes:
        count, length: how many sequences of how many positions.
        encoder_length: positions of what a decoder's block looks at.
        num_queries: positions that are wanted of each sequence; all unless given.
        packed_length: what a sequence of packed rows is padded to while it attends; None where rows are not packed.
    """

    count: int
    length: int
    encoder_length: int = 0
    num_queries: int | None = None
    packed_length: int | None = None

    @property
    def positions(self) -> int:
        """Of all sequences."""
        return self.count * self.length

    @property
    def queries(self) -> int:
        """Positions that are wanted, of all sequences."""
        return self.count * (self.length if self.num_queries is None else self.num_queries)

    @property
    def encoder_positions(self) -> int:
        """Of all sequences."""
        return self.count * self.encoder_length


def block_flops(config: TransformerBlockConfig, sequences: Sequences) -> int:
    """Operations of a block's matrix products, forward and backward: 6 for each weight and position, 12 for each score and width."""
    d, ff_dim = config.embed_dim, config.feedforward.ff_dim
    positions, queries = sequences.positions, sequences.queries
    products = 3 * d * d * positions + (d * d + 2 * d * ff_dim) * queries
    scores = queries * sequences.length
    if config.is_decoder:
        products += 2 * d * d * (positions + sequences.encoder_positions)
        scores += positions * sequences.encoder_length
    return 6 * products + 12 * scores * d


def block_activations(config: TransformerBlockConfig, sequences: Sequences, numbers: ElementSizes) -> Bytes:
    """Bytes that a block keeps for the backward pass, by what they are."""
    parts = [_self_attention(config, sequences, numbers), _feedforward(config, sequences, numbers)]
    if config.is_decoder:
        parts.append(_cross_attention(config, sequences, numbers))
    return add_bytes(*parts)


def norm_activations(positions: int, embed_dim: int, element: int = FP32) -> Bytes:
    """What a norm keeps: its input, mean and inverse deviation of each row."""
    return {"residual stream": element * positions * embed_dim, "norm statistics": 2 * FP32 * positions}


def dropout_activations(share: float, elements: int) -> Bytes:
    """A byte for each element, where anything is dropped."""
    return {"dropout masks": elements if share else 0}


def add_bytes(*parts: Bytes) -> Bytes:
    """Sums, name by name."""
    return {name: sum(part.get(name, 0) for part in parts) for name in dict.fromkeys(n for part in parts for n in part)}


def _self_attention(config: TransformerBlockConfig, sequences: Sequences, numbers: ElementSizes) -> Bytes:
    d, positions, queries = config.embed_dim, sequences.positions, sequences.queries
    attending_length = sequences.packed_length or sequences.length
    projected = 3 * sequences.count * attending_length
    if sequences.num_queries is not None and not numbers.fused_attention:
        projected += queries - positions  # of the queries those that are wanted are copied
    if config.attention.function == "additive":
        projected += positions  # the values lie in the fused projection, and in a copy for the product
    contexts = queries
    if sequences.packed_length is not None and numbers.fused_attention:
        contexts += sequences.count * attending_length  # the kernel keeps its own, the output layer the packed ones
    num_queries = attending_length if sequences.num_queries is None else sequences.num_queries
    scores = sequences.count * num_queries * attending_length
    return add_bytes(
        norm_activations(positions, d),
        {"projections": numbers.product * d * (positions + projected + contexts)},
        _attention_weights(config, scores, sequences.count * num_queries, numbers),
        dropout_activations(config.residual.dropout, queries * d),
    )


def _cross_attention(config: TransformerBlockConfig, sequences: Sequences, numbers: ElementSizes) -> Bytes:
    d, positions, keys = config.embed_dim, sequences.positions, sequences.encoder_positions
    projected = positions + 2 * keys
    if numbers.product != FP32:
        projected += keys  # the encoder's output, cast by each block anew
    if config.attention.function == "additive":
        projected += keys
    return add_bytes(
        norm_activations(positions, d),
        {"projections": numbers.product * d * (2 * positions + projected)},
        _attention_weights(config, positions * sequences.encoder_length, positions, numbers),
        dropout_activations(config.residual.dropout, positions * d),
    )


def _attention_weights(config: TransformerBlockConfig, scores: int, queries: int, numbers: ElementSizes) -> Bytes:
    heads = config.attention.num_heads
    if numbers.fused_attention and config.attention.function == "dot_product":
        return {"attention weights": FP32 * heads * queries}
    kept = {"attention weights": numbers.attention_weight * heads * scores}
    if config.attention.dropout:
        dropped = {"attention weights": numbers.product * heads * scores}
        kept = add_bytes(kept, dropped, dropout_activations(config.attention.dropout, heads * scores))
    return kept


def _feedforward(config: TransformerBlockConfig, sequences: Sequences, numbers: ElementSizes) -> Bytes:
    d, queries, form = config.embed_dim, sequences.queries, config.feedforward
    hidden = queries * form.ff_dim
    is_kept_once = form.activation == "relu" and not form.dropout  # ReLU keeps what the next layer keeps too
    return add_bytes(
        norm_activations(queries, d),
        {"projections": numbers.product * d * queries},
        {"feed-forward": numbers.product * hidden * (1 if is_kept_once else 2)},
        dropout_activations(form.dropout, hidden),
        dropout_activations(config.residual.dropout, queries * d),
    )
