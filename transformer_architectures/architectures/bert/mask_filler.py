"""What a pre-trained model puts in the place of ``[MASK]``, and how well it does."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_architectures.architectures.bert.config import BertModelConfig
from transformer_architectures.architectures.bert.data import LabeledBatch
from transformer_architectures.architectures.bert.document_rows import masked_rows_of_file
from transformer_architectures.architectures.bert.heads import masked_features
from transformer_architectures.architectures.bert.text_model import TextModel, TextModelSettings
from transformer_architectures.architectures.bert.transformer import BertForMaskedLM
from transformer_architectures.batch_work import BatchWork, one_by_one
from transformer_architectures.datasets.masking import MaskingConfig
from transformer_architectures.errors import UsageError
from transformer_architectures.metrics.masked_language_model import (
    masked_language_model_scores,
    masked_language_model_signatures,
)

NUM_CANDIDATES = 5


class MaskFillerSettings(TextModelSettings):
    """How rows were masked in training: `evaluate` masks alike."""

    masking: MaskingConfig = MaskingConfig()


class MaskFiller(TextModel):
    """A `BertForMaskedLM` with its tokenizer."""

    task: ClassVar[str] = "masked_language_model"
    settings_class: ClassVar[type[TextModelSettings]] = MaskFillerSettings

    @staticmethod
    def build(config: BertModelConfig) -> nn.Module:
        """The model with its head."""
        return BertForMaskedLM(config)

    @property
    def settings(self) -> MaskFillerSettings:
        """As the folder has them."""
        assert isinstance(self._settings, MaskFillerSettings)
        return self._settings

    def rows(
        self, lines: Sequence[str], batch_tokens: int | None = None, batch_size: int | None = None
    ) -> list[dict[str, Any]]:
        """``{"text", "masks"}`` for each line: with every ``[MASK]`` filled in, and for each the likeliest tokens with their probabilities.

        Each is filled in by itself, while the others stay masked.
        """
        encoded = self.tokenizer.encode_with_masks(lines)
        # A token is a word here: windows need not keep words whole to fill in tokens.
        windowed = [self.windowing(text.ids, [1] * len(text.ids)) for text in encoded]
        is_mask = [np.array(text.ids, dtype=np.int64) == self.tokenizer.mask_id for text in encoded]
        positions = [text.word_positions[asked] for text, asked in zip(windowed, is_mask, strict=True)]
        asked_for = [number for number, of_text in enumerate(positions) if len(of_text)]
        candidates: list[list[list[dict[str, Any]]]] = [[] for _ in lines]
        batches = self.batches(
            [windowed[number] for number in asked_for],
            [positions[number] for number in asked_for],
            batch_tokens,
            batch_size,
        )
        for batch in batches:
            probabilities = self.compute(self._logits, batch).softmax(dim=1)
            found = [self._candidates(row) for row in probabilities]
            places = iter(found)
            for index, count in zip(batch.indices, batch.labels_of_text, strict=True):
                candidates[asked_for[index]] = [next(places) for _ in range(count)]
        return [
            {"text": _filled(line, text.ids, text.offsets, self.tokenizer.mask_id, of_line), "masks": of_line}
            for line, text, of_line in zip(lines, encoded, candidates, strict=True)
        ]

    def scores(self, batches: Iterable[LabeledBatch], work: BatchWork = one_by_one) -> dict[str, float]:
        """Scores of the labelled tokens of these batches."""

        def sums(batch: LabeledBatch) -> tuple[float, int, int]:
            logits, labels = self.compute(self._logits, batch), batch.labels.cpu()
            loss = float(F.cross_entropy(logits, labels, reduction="sum").double())
            return loss, int((logits.argmax(dim=1) == labels).sum()), len(labels)

        loss, num_correct, num_masked = 0.0, 0, 0
        for loss_of_batch, correct, masked in work(batches, sums):
            loss, num_correct, num_masked = loss + loss_of_batch, num_correct + correct, num_masked + masked
        return masked_language_model_scores(loss, num_correct, num_masked)

    def evaluate(
        self, data: str | Path, batch_tokens: int | None = None, batch_size: int | None = None
    ) -> dict[str, float]:
        """Scores on a text file (a document up to each empty line), with one fixed set of masks.

        Raises:
            DataError: a line is bad, or there is nothing to score.
        """
        rows = masked_rows_of_file(Path(data), self.tokenizer, self.settings.max_length, self.settings.masking)
        found = [rows[index] for index in range(len(rows))]
        batches = self.batches(
            [row.text for row in found],
            [row.positions for row in found],
            batch_tokens,
            batch_size,
            [row.labels for row in found],
        )
        return self.scores(batches)

    def evaluate_command(
        self, data: str | None = None, batch_tokens: int | None = None, batch_size: int | None = None
    ) -> tuple[dict[str, float], dict[str, str]]:
        """Scores of a file, and their signatures."""
        if data is None:
            raise UsageError("a pre-trained model is evaluated with --data FILE")
        return self.evaluate(data, batch_tokens, batch_size), masked_language_model_signatures()

    def _logits(self, batch: LabeledBatch) -> Tensor:
        logits: Tensor = self.model.masked_lm_head.decoder(masked_features(self.model, batch))
        return logits

    def _candidates(self, probabilities: Tensor) -> list[dict[str, Any]]:
        allowed = probabilities.clone()
        allowed[sorted(self.tokenizer.special_ids)] = 0.0
        values, ids = allowed[: self.tokenizer.vocab_size].topk(min(NUM_CANDIDATES, self.tokenizer.vocab_size))
        return [
            {"token": self.tokenizer.tokens[number], "probability": round(value, 6)}
            for value, number in zip(values.tolist(), ids.tolist(), strict=True)
        ]


def _filled(
    line: str,
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    mask_id: int,
    candidates: Sequence[list[dict[str, Any]]],
) -> str:
    """The line with the likeliest token in each mask's place; one that goes on with a word is joined to it."""
    parts, end = [], 0
    best = iter(candidates)
    for number, (start, stop) in zip(ids, offsets, strict=True):
        if number != mask_id:
            continue
        token = str(next(best)[0]["token"])
        before = line[end:start]
        if token.startswith("##"):
            before, token = before.rstrip(), token[2:]
        parts += [before, token]
        end = stop
    return "".join([*parts, line[end:]])


__all__ = ["MaskFiller", "MaskFillerSettings"]
