"""Tokenising a stream of texts, or pairs of them, in several processes, in order, with bounded memory.

Imports no torch: workers start fast.
"""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int

from transformer_architectures.errors import DataError
from transformer_architectures.tokenization.protocol import Tokenizer
from transformer_architectures.utils.processes import ignore_signals, may_have_children, without_main_module

ROWS_PER_CHUNK = 10_000

Row = TypeVar("Row")  # what goes in
Tokens = TypeVar("Tokens")  # what comes out


class TextPair(NamedTuple):
    """What is tokenised."""

    source: str
    target: str


class TokenPair(NamedTuple):
    """What comes out: ids without special tokens."""

    source: Int[np.ndarray, "_"]
    target: Int[np.ndarray, "_"]


def tokenize_pairs(pairs: Iterable[TextPair], tokenizer: Tokenizer, num_processes: int) -> Iterator[TokenPair]:
    """Token ids of all pairs, in order. A stream of one chunk or less is tokenised here, without other processes.

    Raises:
        DataError: one of the processes has died.
    """
    return _in_processes(pairs, tokenizer, num_processes, _pair_tokens)


def tokenize_texts(texts: Iterable[str], tokenizer: Tokenizer, num_processes: int) -> Iterator[Int[np.ndarray, "_"]]:
    """Token ids of all texts, without special tokens, in order; otherwise as `tokenize_pairs`."""
    return _in_processes(texts, tokenizer, num_processes, _text_tokens)


def _in_processes(
    rows: Iterable[Row],
    tokenizer: Tokenizer,
    num_processes: int,
    tokenize: Callable[[list[Row], Tokenizer], list[Tokens]],
) -> Iterator[Tokens]:
    stream = iter(rows)
    first = list(islice(stream, ROWS_PER_CHUNK))
    if len(first) < ROWS_PER_CHUNK or num_processes < 2 or not may_have_children():
        yield from tokenize(first, tokenizer)
        while chunk := list(islice(stream, ROWS_PER_CHUNK)):
            yield from tokenize(chunk, tokenizer)
        return
    # Started fresh, not forked: the parent may run threads of torch and of the tokenizer.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, context, _start_worker, (tokenizer,)) as pool:

        def submit(chunk: list[Row]) -> Future[list[Tokens]]:
            with without_main_module():  # it starts a process if none is idle
                return pool.submit(_tokenize_chunk, chunk, tokenize)

        pending = deque([submit(first)])
        while pending:
            while len(pending) < 2 * num_processes and (chunk := list(islice(stream, ROWS_PER_CHUNK))):
                pending.append(submit(chunk))
            try:
                yield from pending.popleft().result()
            except BrokenProcessPool:
                raise DataError("a process that tokenised the text has ended: see its message above") from None


_worker_tokenizer: Tokenizer | None = None


def _start_worker(tokenizer: Tokenizer) -> None:
    global _worker_tokenizer
    ignore_signals()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process per core is enough
    _worker_tokenizer = tokenizer
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed sends no word of it: its workers would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _tokenize_chunk(chunk: list[Row], tokenize: Callable[[list[Row], Tokenizer], list[Tokens]]) -> list[Tokens]:
    assert _worker_tokenizer is not None
    return tokenize(chunk, _worker_tokenizer)


def _text_tokens(chunk: list[str], tokenizer: Tokenizer) -> list[Int[np.ndarray, "_"]]:
    return [np.array(ids, dtype=np.int32) for ids in tokenizer.encode_batch(chunk)]


def _pair_tokens(chunk: list[TextPair], tokenizer: Tokenizer) -> list[TokenPair]:
    sides = (
        tokenizer.encode_batch([pair.source for pair in chunk]),
        tokenizer.encode_targets([pair.target for pair in chunk]),
    )
    arrays = ([np.array(ids, dtype=np.int32) for ids in side] for side in sides)
    return [TokenPair(source, target) for source, target in zip(*arrays, strict=True)]
