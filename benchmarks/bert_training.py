"""Tokens per second of pre-training, ours and others', on the same masked sentences.

    .bench/bin/python -m benchmarks.bert train [--rounds 5] [--sizes "4 x 256;6 x 384"]

Verses of the World English Bible, 15 % of their tokens masked: (a) glued and cut into sequences of 128, (b) as they are, shuffled,
(c) as they are, sentences of like length together. A token is one that is not padding. Each system gets the sentences in the
form that it takes, made beforehand; what ours computes of a batch's lengths is inside the measured time.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.bert_systems import SYSTEMS, MaskedSentence, Size
from benchmarks.environment import environment
from benchmarks.steps import DTYPES, optimizer_step
from benchmarks.tables import add_row
from benchmarks.turns import median_seconds_in_turn
from transformer_architectures.architectures.bert import BertDataConfig, TransformerDataModule
from transformer_architectures.training.precision import apply_runtime_settings

SIZES = (Size("4 x 256", 4, 256, 4), Size("6 x 384", 6, 384, 6))
FULL_LENGTH, BATCH_TOKENS, BATCHES_A_TURN, MASKED = 128, 2048, 6, 0.15
RESULT = "bert_training.jsonl"
Work = list[list[MaskedSentence]]


def sentences() -> tuple[list[np.ndarray], int]:
    """Token ids of shuffled verses, ``[CLS]`` and ``[SEP]`` included, and the id of ``[MASK]``."""
    config = BertDataConfig.model_validate({"train": {"texts": {"bible": ["web"]}}})
    data = TransformerDataModule(config, SIZES[0].vocab, seed=1, batch_tokens=BATCH_TOKENS)
    data.setup()
    dataset, order = data.dataset("train"), np.random.default_rng(1)
    chosen = order.permutation(len(dataset))[:2000]
    return [dataset[int(index)].text.token_ids for index in chosen], data.tokenizer.mask_id


def masked(ids: np.ndarray, mask_id: int, generator: np.random.Generator) -> MaskedSentence:
    """With its share of masks, one at least."""
    count = max(1, round(MASKED * len(ids)))
    positions = np.sort(generator.choice(len(ids), count, replace=False))
    shown = ids.copy()
    shown[positions] = mask_id
    return MaskedSentence(shown, positions, ids[positions])


def batches(rows: list[np.ndarray], mask_id: int) -> Work:
    """As many sentences to a batch as make about its tokens."""
    generator = np.random.default_rng(1)
    per_batch = max(1, round(BATCH_TOKENS / np.mean([len(ids) for ids in rows])))
    picked = [rows[start : start + per_batch] for start in range(0, per_batch * BATCHES_A_TURN, per_batch)]
    return [[masked(ids, mask_id, generator) for ids in batch] for batch in picked]


def all_work() -> dict[str, Work]:
    rows, mask_id = sentences()
    stream = np.concatenate(rows)
    full = list(stream[: len(stream) // FULL_LENGTH * FULL_LENGTH].reshape(-1, FULL_LENGTH))
    shuffled = batches(rows, mask_id)
    by_length = sorted((sentence for batch in shuffled for sentence in batch), key=lambda sentence: len(sentence.ids))
    # The same sentences; batches of about equal tokens, as a sampler with a token budget makes them.
    bucketed: Work = [[]]
    budget = sum(len(sentence.ids) for sentence in by_length) / BATCHES_A_TURN
    for sentence in by_length:
        if sum(len(other.ids) for other in bucketed[-1]) >= budget:
            bucketed.append([])
        bucketed[-1].append(sentence)
    return {
        "Full sequences of 128": batches(full, mask_id),
        "Sentences as they are, shuffled": shuffled,
        "Sentences as they are, bucketed by length": bucketed,
    }


def training(
    model: nn.Module, loss: Callable[[Any], Tensor], work: list[Any], dtype: torch.dtype
) -> Callable[[], float]:
    """Optimizer steps as everybody's loop takes them; returns the last loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    model.train()

    def steps() -> float:
        return [optimizer_step(model, optimizer, loss, batch, dtype) for batch in work][-1]

    return steps


def measure(size: Size, dtype: torch.dtype, work: Work, names: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Tokens per second of each system, its size, and its loss before and after the rounds: all must learn."""
    num_tokens = sum(len(sentence.ids) for batch in work for sentence in batch)
    systems, found = {}, {}
    for name in names:
        torch.manual_seed(1)
        model, loss, form = SYSTEMS[name](size)
        systems[name] = training(model, loss, [form(batch) for batch in work], dtype)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        found[name] = {"parameters": parameters, "loss_after_warm_up": systems[name]()}
    for name, seconds in median_seconds_in_turn(systems, rounds).items():
        found[name] |= {"tokens_per_second": num_tokens / seconds, "loss_at_end": systems[name]()}
        assert found[name]["loss_at_end"] < found[name]["loss_after_warm_up"], f"{name} does not learn"
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", default=";".join(size.name for size in SIZES))
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    arguments = parser.parse_args()
    apply_runtime_settings(arguments.threads)
    place = environment("transformers")
    everything = all_work()
    for size in SIZES:
        if size.name not in arguments.sizes.split(";"):
            continue
        for title, work in everything.items():
            for precision, dtype in DTYPES.items():
                found = measure(size, dtype, work, arguments.systems.split(","), arguments.rounds)
                cell = {"batches": title, "size": size.name, "precision": precision, "rounds": arguments.rounds}
                add_row(RESULT, {**cell, "environment": place, "systems": found})
                print(f"\n{size.name}  {title}  {precision}")
                for name, row in found.items():
                    speed, parameters = (
                        f"{row['tokens_per_second']:9,.0f} tokens/s",
                        f"{row['parameters']:>11,} parameters",
                    )
                    losses = f"loss {row['loss_after_warm_up']:.3f} -> {row['loss_at_end']:.3f}"
                    print(f"  {name:<32} {speed}   {parameters}   {losses}", flush=True)
