"""The encoder-decoder model: what must not matter (padding, company, cache, fusion) and what must (causality, tying)."""

import copy
import random

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from transformer_architectures.architectures.vanilla import Transformer, VanillaModelConfig
from transformer_architectures.attention import MultiHeadAttention, record_attention
from transformer_architectures.errors import UsageError
from transformer_architectures.generation.decoding_state import STEPS_BETWEEN_DROPS
from transformer_architectures.transformer_blocks import TransformerBlock

VOCAB = 50


def tiny(**options: object) -> Transformer:
    sizes = {"vocab_size": VOCAB, "embed_dim": 16, "num_heads": 2, "ff_dim": 24, "num_layers": 2, "dropout": 0.0}
    return Transformer(VanillaModelConfig.model_validate({**sizes, **options})).double()


def inputs(batch: int = 3, source: int = 7, target: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Source ids, their mask (rows of different lengths), target ids."""
    lengths = torch.randint(1, source + 1, (batch, 1))
    lengths[0] = source
    return (
        torch.randint(3, VOCAB, (batch, source)),
        torch.arange(source) < lengths,
        torch.randint(3, VOCAB, (batch, target)),
    )


DECLARATIONS = [
    {},
    {"attention": "additive"},
    {"pre_layernorm": False},
    {"positions": "learned", "max_length": 40},
    {"attention_backend": "sdpa"},
]


@pytest.mark.parametrize("declaration", DECLARATIONS)
def test_cached_decoding_is_decoding_of_the_whole_prefix(seed: int, declaration: dict[str, object]) -> None:
    model = tiny(**declaration).eval()
    source_ids, source_mask, target_ids = inputs()
    whole = model(source_ids, target_ids, source_mask)
    state = model.start_decoding(source_ids, source_mask, 1, target_ids.shape[1])
    for position, tokens in enumerate(target_ids.unbind(dim=1)):
        torch.testing.assert_close(torch.cat(list(state.step(tokens))), whole[:, position], rtol=0, atol=1e-10)


@pytest.mark.parametrize("declaration", DECLARATIONS)
def test_reordered_beams_are_their_own_prefixes(seed: int, declaration: dict[str, object]) -> None:
    """Random beams that follow random parents, with sentences that leave in the middle; tokens without descendants are dropped."""
    model = tiny(**declaration).eval()
    num_beams, steps = 3, 2 * STEPS_BETWEEN_DROPS + 4
    source_ids, source_mask, _ = inputs()
    state = model.start_decoding(source_ids, source_mask, num_beams, steps)
    prefixes = torch.randint(3, VOCAB, (3 * num_beams, 1))
    for step in range(steps - 1):
        state.step(prefixes[:, -1])
        parents = torch.arange(len(prefixes)) // num_beams * num_beams + torch.randint(num_beams, (len(prefixes),))
        state.reorder(parents)
        prefixes = prefixes[parents]
        if step == 2:
            staying = torch.tensor([0, 2])
            state.keep(staying)
            prefixes = prefixes.view(-1, num_beams, step + 1)[staying].flatten(0, 1)
            source_ids, source_mask = source_ids[staying], source_mask[staying]
        prefixes = torch.cat([prefixes, torch.randint(3, VOCAB, (len(prefixes), 1))], dim=1)
    beams = [tensor.repeat_interleave(num_beams, dim=0) for tensor in (source_ids, source_mask)]
    expected = model(beams[0], prefixes, beams[1])[:, -1]
    torch.testing.assert_close(torch.cat(list(state.step(prefixes[:, -1]))), expected, rtol=0, atol=1e-10)
    assert state.ancestry.length < steps * num_beams


@pytest.mark.parametrize("declaration", DECLARATIONS)
def test_padding_and_company_change_nothing(seed: int, declaration: dict[str, object]) -> None:
    model = tiny(**declaration).eval()
    source_ids, source_mask, target_ids = inputs()
    together = model(source_ids, target_ids, source_mask)
    for row, mask in enumerate(source_mask):
        alone = model(source_ids[row : row + 1, mask], target_ids[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-10)


def test_gradients_do_not_depend_on_padding(seed: int) -> None:
    model = tiny()
    source_ids, source_mask, target_ids = inputs(batch=1)
    longer = torch.cat([source_ids, torch.randint(3, VOCAB, (1, 4))], dim=1)
    found = []
    for ids, mask in ((source_ids, source_mask), (longer, torch.arange(longer.shape[1])[None] < source_ids.shape[1])):
        model.zero_grad()
        model(ids, target_ids, mask).logsumexp(-1).sum().backward()
        found.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-10)


def test_no_position_sees_what_comes_after_it(seed: int) -> None:
    model = tiny().eval()
    source_ids, source_mask, target_ids = inputs()
    changed = target_ids.clone()
    changed[:, 3:] = torch.randint(3, VOCAB, changed[:, 3:].shape)
    before, after = (model(source_ids, ids, source_mask) for ids in (target_ids, changed))
    torch.testing.assert_close(before[:, :3], after[:, :3], rtol=0, atol=0)


def test_one_matrix_serves_both_embeddings_and_the_output(seed: int) -> None:
    model = tiny()
    tied = [model.source_embedding.weight, model.target_embedding.weight, model.output_projection.weight]
    assert len({id(weight) for weight in tied}) == 1
    assert len({id(weight) for weight in (tiny(tie_weights=False)).parameters()}) == len(list(model.parameters())) + 2
    assert sum(model.parameter_groups().values()) == sum(parameter.numel() for parameter in model.parameters())


def test_checkpoints_show_single_projections_and_load_again(seed: int) -> None:
    model = tiny()
    state = model.state_dict()
    names = [name for name in state if "query_key_value" in name or "key_value" in name]
    assert not names and "encoder.blocks.0.self_attention.attention.query.weight" in state
    other = tiny()
    other.load_state_dict(state)
    source_ids, source_mask, target_ids = inputs()
    torch.testing.assert_close(other(source_ids, target_ids), model(source_ids, target_ids), rtol=0, atol=0)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert all(torch.equal(twin.state_dict()[name], other.state_dict()[name]) for name in state)


def test_supplement_causal_mask(seed: int) -> None:
    mask = torch.tensor([[1, 1, 0]])
    allowed = Transformer.supplement_causal_mask(mask)
    assert allowed.tolist() == [[[True, False, False], [True, True, False], [True, True, False]]]
    assert torch.equal(Transformer.suplement_causal_mask(mask), allowed)


def test_broadcast_mask_is_a_view(seed: int) -> None:
    attention = tiny().encoder.blocks[0].self_attention.attention
    assert isinstance(attention, MultiHeadAttention)
    mask = torch.tensor([[1, 0, 1]])
    broadcast = attention.broadcast_mask(mask, 1, 5, 3)
    assert broadcast is not None and broadcast.shape == (1, 2, 5, 3) and broadcast.stride()[1:3] == (0, 0)
    assert attention.broadcast_mask(None, 1, 5, 3) is None


@pytest.mark.parametrize("backend", ["math", "sdpa"])
def test_recorded_attention_is_what_was_used_and_changes_nothing(seed: int, backend: str) -> None:
    model = tiny(attention_backend=backend).eval()
    source_ids, source_mask, target_ids = inputs()
    expected = model(source_ids, target_ids, source_mask)
    name = "decoder.blocks.1.cross_attention.attention"
    with record_attention(model, [name]) as attention:
        torch.testing.assert_close(model(source_ids, target_ids, source_mask), expected, rtol=0, atol=0)
    (weights,) = attention[name]
    assert weights.shape == (3, 2, 6, 7) and not weights.requires_grad
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, 2, 6, dtype=torch.float64))
    assert bool((weights.masked_select(~source_mask[:, None, None]) == 0).all())
    model(source_ids, target_ids)
    assert len(attention[name]) == 1
    with pytest.raises(UsageError, match="no attention layer"), record_attention(model, ["decoder.blocks.9"]):
        pass


def test_the_keyword_form_of_a_block(seed: int) -> None:
    block = TransformerBlock(embed_dim=16, num_heads=2, ff_dim=8, dropout=0.5, is_decoder=True, pre_layernorm=True)
    states, encoder_output = torch.randn(2, 3, 16), torch.randn(2, 5, 16)
    assert block(states, None, encoder_output).shape == states.shape
    assert block.cross_attention is not None
    assert TransformerBlock(embed_dim=16, num_heads=2, ff_dim=8).cross_attention is None
    with pytest.raises(UsageError):
        TransformerBlock(embed_dim=15, num_heads=2, ff_dim=8)
    with pytest.raises(UsageError):
        TransformerBlock()


@pytest.mark.parametrize("attention", ["dot_product", "additive"])
def test_estimated_flops_are_those_that_torch_counts(seed: int, attention: str) -> None:
    """Forward and backward; embeddings need none, and torch counts matrix products only."""
    source, target = random.randint(5, 20), random.randint(5, 20)
    model = tiny(ff_dim=64, num_encoder_layers=3, attention=attention).float()
    with FlopCounterMode(display=False) as counter:
        model(torch.randint(3, VOCAB, (1, source)), torch.randint(3, VOCAB, (1, target))).sum().backward()
    assert model.estimate_flops(source, target) == counter.get_total_flops()


def test_same_seed_same_weights_another_seed_others(seed: int) -> None:
    torch.manual_seed(seed)
    first = tiny()
    torch.manual_seed(seed)
    second = tiny()
    third = tiny()
    assert torch.equal(first.source_embedding.weight, second.source_embedding.weight)
    assert not torch.equal(first.source_embedding.weight, third.source_embedding.weight)
