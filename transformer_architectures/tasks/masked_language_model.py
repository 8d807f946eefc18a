"""Masked language modelling: pre-training an encoder on plain text, and filling in ``[MASK]`` with it."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from transformer_architectures.datasets.text.masked_rows import DocumentSplits, MaskedRows, masked_rows_of_file
from transformer_architectures.datasets.text.packed_batches import PackedBatch
from transformer_architectures.datasets.text.token_masking import MaskingConfig
from transformer_architectures.kernels.cross_entropy import linear_cross_entropy
from transformer_architectures.metrics.masked_language_model import (
    masked_language_model_scores,
    masked_language_model_signatures,
    plateau_warning,
    token_counts,
    unigram_baseline,
)
from transformer_architectures.metrics.metric import Metric, metrics
from transformer_architectures.tasks.line_predictor import TextOptions
from transformer_architectures.tasks.task import some_of
from transformer_architectures.tasks.text_predictor import TextPredictor, TextSettings, split_by_text
from transformer_architectures.tasks.text_task import TextTask
from transformer_architectures.tokenization import EncodedText
from transformer_architectures.training.task import Scores
from transformer_architectures.utils.map_batches import MapBatches, map_batches
from transformer_architectures.utils.option_models import read_options

NUM_CANDIDATES = 5
METRICS = metrics(masked_language_model_signatures(), lower_is_better=("loss", "pseudo_perplexity"))


def masked_features(model: Any, batch: PackedBatch) -> Float[Tensor, "labels embed_dim"]:
    """What the output projection sees at the masked tokens."""
    return model.forward_features(**batch.inputs, labeled_positions=batch.positions)


# ==================================================================== using it
class MaskFillerSettings(TextSettings):
    """How rows were masked in training: `evaluate` masks alike."""

    masking: MaskingConfig = MaskingConfig()


class MaskFiller(TextPredictor):
    """A masked language model with its tokenizer."""

    task: ClassVar[str] = "masked_language_model"
    settings_class: ClassVar[type[TextSettings]] = MaskFillerSettings

    def rows(self, texts: Sequence[str], options: Any) -> list[dict[str, Any]]:
        """``{"text", "masks"}`` for each text: with every ``[MASK]`` filled in, and for each the likeliest tokens with their probabilities.

        Each is filled in by itself, while the others stay masked.
        """
        encoded = self.tokenizer.encode_with_masks(texts)
        # A token is a word here: windows need not keep words whole to fill in tokens.
        windowed = [self.windowing(text.ids, [1] * len(text.ids)) for text in encoded]
        is_mask = [np.array(text.ids, dtype=np.int64) == self.tokenizer.mask_id for text in encoded]
        positions = [text.word_positions[asked] for text, asked in zip(windowed, is_mask, strict=True)]
        asked_for = [number for number, of_text in enumerate(positions) if len(of_text)]
        candidates: list[list[list[dict[str, Any]]]] = [[] for _ in texts]
        batches = self.batches(
            [windowed[number] for number in asked_for], options, [positions[number] for number in asked_for]
        )
        for batch in batches:
            probabilities = self.compute(self._logits, batch).softmax(dim=1)
            found = [self._candidates(row) for row in probabilities]
            places = iter(found)
            for index, count in zip(batch.indices, batch.labels_of_text, strict=True):
                candidates[asked_for[index]] = [next(places) for _ in range(count)]
        return [
            {"text": self._filled(line, text, masks), "masks": masks}
            for line, text, masks in zip(texts, encoded, candidates, strict=True)
        ]

    def _filled(self, line: str, text: EncodedText, candidates: Sequence[list[dict[str, Any]]]) -> str:
        """The line with the likeliest token in each mask's place; one that goes on with a word is joined to it."""
        parts, end = [], 0
        best = iter(candidates)
        for number, (start, stop) in zip(text.ids, text.offsets, strict=True):
            if number != self.tokenizer.mask_id:
                continue
            token, continues = self.tokenizer.surface(str(next(best)[0]["token"]))
            before = line[end:start]
            parts += [before.rstrip() if continues else before, token]
            end = stop
        return "".join([*parts, line[end:]])

    def scores(self, batches: Iterable[PackedBatch], map_batches: MapBatches = map_batches) -> dict[str, float]:
        """Scores of the labelled tokens of these batches."""

        def sums(batch: PackedBatch) -> tuple[float, int, int]:
            logits, labels = self.compute(self._logits, batch), batch.labels.cpu()
            loss = float(F.cross_entropy(logits, labels, reduction="sum").double())
            return loss, int((logits.argmax(dim=1) == labels).sum()), len(labels)

        loss, num_correct, num_masked = 0.0, 0, 0
        for loss_of_batch, correct, masked in map_batches(batches, sums):
            loss, num_correct, num_masked = loss + loss_of_batch, num_correct + correct, num_masked + masked
        return masked_language_model_scores(loss, num_correct, num_masked)

    def evaluate(self, data: str | Path, **options: Any) -> dict[str, float]:
        """Scores on a text file (a document up to each empty line), with one fixed set of masks.

        Raises:
            DataError: a line is bad, or there is nothing to score.
        """
        given = read_options(TextOptions, options)
        rows = masked_rows_of_file(Path(data), self.tokenizer, self.settings.max_length, self.settings.masking)
        found = [rows[index] for index in range(len(rows))]
        batches = self.batches(
            [row.text for row in found], given, [row.positions for row in found], [row.labels for row in found]
        )
        return self.scores(batches)

    def metrics(self, options: Any) -> tuple[Metric, ...]:
        """Accuracy first."""
        return METRICS

    def _logits(self, batch: PackedBatch) -> Tensor:
        return self.model.output_projection(masked_features(self.model, batch))

    def _candidates(self, probabilities: Tensor) -> list[dict[str, Any]]:
        allowed = probabilities.clone()
        allowed[sorted(self.tokenizer.special_ids)] = 0.0
        values, ids = allowed[: self.tokenizer.vocab_size].topk(min(NUM_CANDIDATES, self.tokenizer.vocab_size))
        return [
            {"token": self.tokenizer.tokens[number], "probability": round(value, 6)}
            for value, number in zip(values.tolist(), ids.tolist(), strict=True)
        ]


# ==================================================================== training it
class MaskedLanguageModelTask(TextTask):
    """Pre-training: tokens that are masked are filled in."""

    name, kind = "masked_language_model", "documents"
    predictor = MaskFiller

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._baselines: dict[str, Scores] = {}  # by split: validation asks for them again and again

    def loss(self, model: Any, batch: PackedBatch) -> Tensor:
        """Summed cross-entropy of the masked tokens; only these are projected to the vocabulary."""
        output = model.output_projection
        return linear_cross_entropy(masked_features(model, batch), output.weight, output.bias, batch.labels, 0.0)

    def as_predictor(self, model: Any) -> MaskFiller:
        """The model as others will use it."""
        settings = MaskFillerSettings(**self.windows, masking=self.data.config.masking)
        return MaskFiller(model, self.data.tokenizer, settings)

    def evaluate(self, model: Any, split: str, map_batches: MapBatches) -> Scores:
        """Scores of a fixed set of masks; says so where they are those of frequencies alone."""
        dataset = self.data.dataset(split)
        if not len(dataset):
            return {}
        scores = self.as_predictor(model).scores(self.data.evaluation_loader(dataset), map_batches)
        if warning := plateau_warning(scores["loss"], self.baseline(split)["loss"]):
            print(warning, file=sys.stderr)
        return scores

    def baseline(self, split: str) -> Scores:
        """Every masked token is given the frequencies of the training tokens."""
        splits = self.data.splits
        assert isinstance(splits, DocumentSplits)
        if split not in self._baselines:
            train, dataset = splits.datasets["train"], splits.datasets[split]
            assert isinstance(train, MaskedRows)
            size = self.data.tokenizer.vocab_size
            labels = [dataset[index].labels for index in range(len(dataset))]
            self._baselines[split] = unigram_baseline(
                token_counts(train.store.tokens, size), token_counts(np.concatenate(labels), size)
            )
        return self._baselines[split]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy first."""
        return METRICS

    def samples(self, model: Any, split: str) -> list[dict[str, str]]:
        """Parts of a few rows, as they were and as the model fills them in."""
        dataset, tokenizer = self.data.dataset(split), self.data.tokenizer
        filler = self.as_predictor(model)
        rows = [dataset[index] for index in some_of(len(dataset))]
        samples: list[dict[str, str]] = []
        for batch in filler.batches([row.text for row in rows], TextOptions(), [row.positions for row in rows]):
            best = filler.compute(lambda batch: model.output_projection(masked_features(model, batch)), batch)
            for index, found in zip(
                batch.indices, split_by_text(best.argmax(dim=1), batch.labels_of_text), strict=True
            ):
                masked, filled, right = (rows[index].text.token_ids.copy() for _ in range(3))
                positions = rows[index].positions
                filled[positions], right[positions] = found.numpy(), rows[index].labels
                shown = slice(1, 40)
                samples.append(
                    {
                        "text": tokenizer.decode(right[shown].tolist()),
                        "masked": " ".join(tokenizer.tokens[number] for number in masked[shown].tolist()),
                        "filled in": tokenizer.decode(filled[shown].tolist()),
                    }
                )
        return samples
