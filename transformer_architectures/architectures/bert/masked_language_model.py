"""Pre-training: what is special to filling in masked tokens."""

import sys

import numpy as np
from torch import Tensor

from transformer_architectures.architectures.bert.data import LabeledBatch
from transformer_architectures.architectures.bert.document_rows import DocumentParts, MaskedRows
from transformer_architectures.architectures.bert.heads import masked_features
from transformer_architectures.architectures.bert.mask_filler import MaskFiller, MaskFillerSettings
from transformer_architectures.architectures.bert.text_model import split_by_text
from transformer_architectures.architectures.bert.text_task import TextTask, some_of
from transformer_architectures.architectures.bert.transformer import (
    BertForMaskedLM,
)
from transformer_architectures.batch_work import BatchWork
from transformer_architectures.metrics.masked_language_model import (
    masked_language_model_signatures,
    plateau_warning,
    token_counts,
    unigram_baseline,
)
from transformer_architectures.training.cross_entropy import linear_cross_entropy
from transformer_architectures.training.task import Scores


class MaskedLanguageModelTask(TextTask):
    """Pre-training: tokens that are masked are filled in."""

    name = "masked_language_model"
    model_class = BertForMaskedLM

    def loss(self, model: BertForMaskedLM, batch: LabeledBatch) -> Tensor:
        """Summed cross-entropy of the masked tokens; only these are projected to the vocabulary."""
        decoder = model.masked_lm_head.decoder
        return linear_cross_entropy(masked_features(model, batch), decoder.weight, decoder.bias, batch.labels, 0.0)

    def text_model(self, model: BertForMaskedLM) -> MaskFiller:
        """The model as others will use it."""
        settings = MaskFillerSettings(**self._windows, masking=self.data.config.masking)
        return MaskFiller(model, self.data.tokenizer, settings)

    def evaluate(self, model: BertForMaskedLM, part: str, work: BatchWork) -> Scores:
        """Scores of a fixed set of masks; says so where they are those of frequencies alone."""
        dataset = self.data.dataset(part)
        if not len(dataset):
            return {}
        scores = self.text_model(model).scores(self.data.evaluation_loader(dataset), work)
        if warning := plateau_warning(scores["loss"], self.baseline(part)["loss"]):
            print(warning, file=sys.stderr)
        return scores

    def baseline(self, part: str) -> Scores:
        """Every masked token is given the frequencies of the training tokens."""
        parts = self.data.parts
        assert isinstance(parts, DocumentParts)
        if part not in self._baselines:
            train, dataset = parts.datasets["train"], parts.datasets[part]
            assert isinstance(train, MaskedRows)
            size = self.data.tokenizer.vocab_size
            labels = [dataset[index].labels for index in range(len(dataset))]
            self._baselines[part] = unigram_baseline(
                token_counts(train.store.tokens, size), token_counts(np.concatenate(labels), size)
            )
        return self._baselines[part]

    def signatures(self) -> dict[str, str]:
        """How each score is computed."""
        return masked_language_model_signatures()

    def samples(self, model: BertForMaskedLM, part: str) -> list[dict[str, str]]:
        """Parts of a few rows, as they were and as the model fills them in."""
        dataset, tokenizer = self.data.dataset(part), self.data.tokenizer
        filler = self.text_model(model)
        rows = [dataset[index] for index in some_of(len(dataset))]
        samples: list[dict[str, str]] = []
        for batch in filler.batches([row.text for row in rows], [row.positions for row in rows]):
            best = filler.compute(lambda batch: model.masked_lm_head.decoder(masked_features(model, batch)), batch)
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


__all__ = ["MaskedLanguageModelTask"]
