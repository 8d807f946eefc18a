"""Predictors of texts: lines in, one answer for each line out, in order."""

import os
import sys
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from transformer_architectures.datasets.text_lines import read_text_lines
from transformer_architectures.tasks.predictor import Predictor, chunks
from transformer_architectures.utils.option_models import Options, option

LINES_AT_ONCE = 10_000  # enough to find lines of equal length, few enough to keep in memory


class TextOptions(Options):
    """How texts are batched."""

    batch_tokens: int | None = option(None, "tokens of a batch", ge=1)
    batch_size: int | None = option(None, "the most inputs of a batch", ge=1)


class LineOptions(TextOptions):
    """`predict` of texts."""

    input: str | None = option(
        None, "a file of texts, a line each, plain or .gz; standard input unless given", command_only=True
    )


class LinePredictor(Predictor):
    """A predictor of texts."""

    has_tokenizer: ClassVar[bool] = True

    @abstractmethod
    def lines_for(self, texts: Sequence[str], first_line: int, options: Any) -> Iterator[str]:
        """Lines of output for a chunk of input lines.

        Args:
            first_line: number of the first input line, from 1.
        """

    def predict_lines(self, inputs: Sequence[str], options: Any) -> Iterator[str]:
        """The answers for all lines: those of ``--input``, else of the inputs, else of standard input."""
        lines = self._lines(inputs, options.input)
        # Someone who types wants each answer at once.
        is_typed = not inputs and options.input is None and sys.stdin.isatty()
        first_line = 1
        for chunk in chunks(lines, 1 if is_typed else LINES_AT_ONCE):
            yield from self.lines_for(chunk, first_line, options)
            first_line += len(chunk)

    @staticmethod
    def _lines(inputs: Sequence[str], path: str | None) -> Iterator[str]:
        """An existing path is a file, anything else is a text."""
        if path is not None or not inputs:
            yield from read_text_lines(path)
        for given in inputs:
            if os.path.isfile(given):
                yield from read_text_lines(given)
            else:
                yield given
