"""Where the time of our own step goes: the share of each kind of operation, by torch's profiler.

    .bench/bin/python -m benchmarks.profile_step train [--size "3+3 x 256"] [--precision bf16]
    .bench/bin/python -m benchmarks.profile_step decode
    .bench/bin/python -m benchmarks.profile_step shapes

``shapes`` times the three products of a linear layer in bf16 on numbers of rows that were never seen, and again once they were:
what oneDNN takes to prepare a product is the difference.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.profiler import profile

from benchmarks.environment import environment
from benchmarks.steps import optimizer_step
from benchmarks.training_speed import SIZES, real_batches
from benchmarks.training_systems import ours
from transformer_architectures.architectures.vanilla import Transformer, VanillaModelConfig
from transformer_architectures.generation import beam_search
from transformer_architectures.training.precision import apply_runtime_settings

KINDS = {  # the first kind that has a part of an operation's name
    "attention's batched products": ("bmm", "baddbmm", "scaled_dot_product"),
    "products": ("mm", "linear", "matmul"),
    "softmax and its logarithm": ("softmax",),
    "copies and casts": ("copy_", "clone", "cat", "_to_copy"),
    "random numbers of dropout": ("bernoulli", "dropout", "random_", "rand"),
    "optimizer": ("adam", "foreach", "norm_"),
    "layer norm": ("layer_norm",),
    "top-k": ("topk", "sort"),
    "choosing rows": ("index", "gather", "embedding"),
}
FRESH_ROWS = 60


def kind(operation: str) -> str:
    for name, parts in KINDS.items():
        if any(part in operation.lower() for part in parts):
            return name
    return "all else"


def shares(work: Callable[[], object]) -> None:
    """Prints the share of each kind in the time of all operations."""
    work()
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    with profile() as profiler:
        work()
    totals: Counter[str] = Counter()
    for event in profiler.key_averages():
        totals[kind(event.key)] += event.self_cpu_time_total
    print(f"{seconds:.2f} s without the profiler; shares of the time of all operations, with it:")
    for name, microseconds in totals.most_common():
        print(f"  {name:<30} {microseconds / totals.total():6.1%}")


def profile_training(size_name: str, precision: str) -> None:
    size = next(size for size in SIZES if size.name == size_name)
    batches = real_batches()
    model, loss = ours(size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    print(f"training, {size_name}, {precision}, {len(batches)} batches")
    shares(lambda: [optimizer_step(model.train(), optimizer, loss, batch, dtype) for batch in batches])


def profile_decoding(sentences: int = 100, beams: int = 5, length: int = 40) -> None:
    model = Transformer(
        VanillaModelConfig(vocab_size=6000, embed_dim=128, num_heads=4, ff_dim=256, num_layers=4)
    ).eval()
    ids, mask = torch.randint(4, 6000, (sentences, 30)), torch.ones(sentences, 30, dtype=torch.bool)

    @torch.inference_mode()
    def decode() -> object:
        state = model.start_decoding(ids, mask, beams, length)
        limits = torch.full((sentences,), length)
        options = {"num_beams": beams, "n_best": 1, "start_token": 1, "end_token": 2, "suppress_tokens": [0, 1, 2]}
        return beam_search(state, sentences, max_lengths=limits, **options)  # type: ignore[arg-type]

    print(f"decoding, 4+4 x 128, fp32, {sentences} sentences x {beams} beams, {length} steps")
    shares(decode)


def time_fresh_shapes(inputs: int = 256, outputs: int = 1024) -> None:
    weight = torch.randn(outputs, inputs, dtype=torch.bfloat16)

    def products(rows: int) -> tuple[Tensor, Tensor, Tensor]:
        states, gradient = torch.ones(rows, inputs).bfloat16(), torch.ones(rows, outputs).bfloat16()
        return states @ weight.T, gradient @ weight, gradient.T @ states

    def milliseconds(rows: int) -> float:
        started = time.perf_counter()
        products(rows)
        return 1000 * (time.perf_counter() - started)

    products(2000)
    rows = [2001 + 7 * number for number in range(FRESH_ROWS)]
    for name in ("never seen", "seen once", "seen twice"):
        print(f"  rows {name:<12} {sum(map(milliseconds, rows)) / len(rows):6.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "decode", "shapes"])
    parser.add_argument("--size", default=SIZES[1].name, choices=[size.name for size in SIZES])
    parser.add_argument("--precision", default="bf16", choices=["fp32", "bf16"])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    apply_runtime_settings(arguments.threads)
    print(environment())
    training = partial(profile_training, arguments.size, arguments.precision)
    {"train": training, "decode": profile_decoding, "shapes": time_fresh_shapes}[arguments.what]()


if __name__ == "__main__":
    main()
