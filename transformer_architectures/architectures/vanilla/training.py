"""Training of the translation task: from a config to a scored model folder.

uv run python -m transformer_architectures.architectures.vanilla.training [--config F] [--set S.k=v] [--resume auto|PATH] [--device D]
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from transformer_architectures.architectures.vanilla.config import VanillaModelConfig
from transformer_architectures.architectures.vanilla.data import (
    IGNORED_LABEL,
    LabeledBatch,
    TransformerDataModule,
    VanillaDataConfig,
)
from transformer_architectures.architectures.vanilla.pretrained_start import PretrainedStart, read_pretrained
from transformer_architectures.architectures.vanilla.transformer import Transformer
from transformer_architectures.architectures.vanilla.translator import Translator
from transformer_architectures.batch_work import BatchWork
from transformer_architectures.command_line import tarch, write_lines
from transformer_architectures.config import Sections, StrictModel, load_sections
from transformer_architectures.datasets.splitting import Part
from transformer_architectures.errors import ConfigError
from transformer_architectures.generation import GenerationConfig
from transformer_architectures.metrics import translation_scores, translation_signatures
from transformer_architectures.training.command import run_command
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.cross_entropy import linear_cross_entropy
from transformer_architectures.training.finish import FinishedRun, report
from transformer_architectures.training.run import RunContext, run_training
from transformer_architectures.training.task import Artifact, Scores

NUM_SAMPLES = 3
SPECIAL_IDS = ("pad_id", "bos_id", "eos_id")
# Compiled graphs are kept per shape: few shapes. But oneDNN, too, prepares each new shape of a product (2 ms), and keeps what it has
# prepared: so for some 450 numbers of positions there are 120, at no more padding.
COMPILED_LENGTH_MULTIPLE, LENGTH_MULTIPLE, ROWS_MULTIPLE = 16, 2, 4


class VanillaTrainingConfig(TrainingConfig):
    """The `Training:` section of a translator."""

    batch_tokens: int = Field(4096, ge=16, description="tokens of a micro-batch over all devices, padding included")
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    validation_beams: int = Field(1, ge=1, description="beams while training; the final scores take num_beams")
    validation_sentences: int | None = Field(None, ge=1, description="score the first n while training; all at the end")
    num_beams: int = Field(5, ge=1, description="of the final scores, and the default of `predict`")
    length_penalty: float = Field(1.0, ge=0)


SECTIONS: dict[str, type[StrictModel]] = {
    "Model": VanillaModelConfig,
    "Training": VanillaTrainingConfig,
    "Data": VanillaDataConfig,
}


class TranslationTask:
    """What is special to translation: model, loss, and scores of real decoding."""

    name, architecture, unit = "translation", "vanilla", "tokens"

    def __init__(
        self,
        model_config: VanillaModelConfig,
        config: VanillaTrainingConfig,
        data: TransformerDataModule,
        pretrained: PretrainedStart | None = None,
    ) -> None:
        self.model_config, self.config, self.data = model_config, config, data
        self.pretrained = pretrained

    def build_model(self) -> Transformer:
        """A model on the CPU: from nothing, or from `Model.pretrained`."""
        if self.pretrained is not None:
            return self.pretrained.build_model(self.model_config)
        # A small corpus may not have as many tokens as were asked for.
        tokenizer = self.data.tokenizer
        of_tokenizer = {name: getattr(tokenizer, name) for name in ("vocab_size", *SPECIAL_IDS)}
        config = self.model_config.model_copy(update=of_tokenizer)
        if config.start_id >= config.vocab_size:
            raise ConfigError(
                f"Model: decoder_start_id: {config.start_id} is no token: the training text gave only {config.vocab_size}"
            )
        return Transformer(config)

    def learning_rate_scale(self, model: nn.Module, parameter: str) -> float:
        """The same for all."""
        return 1.0

    def loss(self, model: Transformer, batch: LabeledBatch) -> Tensor:
        """Summed, label-smoothed cross-entropy. Only positions that have a label are projected to the vocabulary."""
        hidden_states = model.forward_features(batch.source_ids, batch.target_ids, batch.source_mask)
        labels = batch.labels.flatten()
        rows = (labels != IGNORED_LABEL).nonzero().squeeze(1)
        output = model.output_projection
        return linear_cross_entropy(
            hidden_states.flatten(0, 1).index_select(0, rows),
            output.weight,
            output.bias,
            labels.index_select(0, rows),
            self.config.label_smoothing,
        )

    def validate(self, model: Transformer, work: BatchWork) -> Scores:
        """Scores of decoding (part of) the validation text with `validation_beams`."""
        return self._scores(model, "validation", work, self.config.validation_beams, self.config.validation_sentences)

    def evaluate(self, model: Transformer, part: str, work: BatchWork) -> Scores:
        """Scores of decoding a whole part as `predict` does; empty without such a part."""
        return self._scores(model, part, work, self.config.num_beams, None)

    def baseline(self, part: str) -> Scores:
        """The source text itself, taken for a translation: names, numbers and signs that both languages share."""
        sources, references = self.data.evaluation_texts(_part(part))
        return translation_scores(sources, references)

    def signatures(self) -> dict[str, str]:
        """sacreBLEU's own."""
        return translation_signatures()

    def samples(self, model: Transformer, part: str) -> list[dict[str, str]]:
        """Sources, references and translations of a few sentences of a part."""
        sources, references = self.data.evaluation_texts(_part(part))
        step = max(1, len(sources) // NUM_SAMPLES)
        chosen = range(step // 2, len(sources), step)[:NUM_SAMPLES]
        translations = self._translator(model).predict([sources[index] for index in chosen])
        return [
            {"source": sources[index], "reference": references[index], "translation": translation}
            for index, translation in zip(chosen, translations, strict=True)
        ]

    def artifacts(self, model: Transformer, part: str) -> dict[str, Artifact]:
        """None: the samples say it."""
        return {}

    def export(self, model: Transformer, folder: Path, results: Mapping[str, Any]) -> None:
        """Writes the model folder."""
        self._translator(model).export(folder, results)

    def _translator(self, model: Transformer) -> Translator:
        generation = GenerationConfig(num_beams=self.config.num_beams, length_penalty=self.config.length_penalty)
        return Translator(model, self.data.tokenizer, generation)

    def _scores(self, model: Transformer, part: str, work: BatchWork, num_beams: int, limit: int | None) -> Scores:
        sources, references = (texts[:limit] for texts in self.data.evaluation_texts(_part(part)))
        if not sources:
            return {}
        return self._translator(model).evaluate(sources, references, num_beams=num_beams, work=work)


def _part(name: str) -> Part:
    return "test" if name == "test" else "validation"


def open_config(config_path: str, overrides: list[str]) -> tuple[Sections, PretrainedStart | None]:
    """The checked sections, and what the training starts from.

    Raises:
        ConfigError: a section is wrong, or two of them do not fit together.
    """
    sections = load_sections(config_path, SECTIONS, overrides)
    model_config, data_config = sections.of(VanillaModelConfig), sections.of(VanillaDataConfig)
    if not model_config.pretrained and (given := sorted(model_config.model_fields_set.intersection(SPECIAL_IDS))):
        raise ConfigError(f"{config_path}: Model: {given[0]}: comes with the tokenizer that is trained; leave it out")
    if model_config.positions == "learned" and data_config.max_length >= model_config.max_length:
        raise ConfigError(
            f"{config_path}: Data: max_length {data_config.max_length} and one special token do not fit into the "
            f"{model_config.max_length} positions of Model.max_length"
        )
    return sections, read_pretrained(model_config) if model_config.pretrained else None


def train(config_path: str, overrides: list[str], resume: str | None) -> FinishedRun:
    """Trains what a config describes; the first rank prints the result."""
    sections, pretrained = open_config(config_path, overrides)
    data_config, training_config = sections.of(VanillaDataConfig), sections.of(VanillaTrainingConfig)
    model_config = sections.of(VanillaModelConfig) if pretrained is None else pretrained.model_config

    def build(context: RunContext) -> tuple[TranslationTask, TransformerDataModule]:
        data = TransformerDataModule(
            data_config,
            model_config.vocab_size,
            seed=training_config.seed,
            batch_tokens=training_config.batch_tokens,
            tokenizer=None if pretrained is None else pretrained.tokenizer,
            start_id=model_config.start_id,
            loading=context.loading,
            rejected_path=context.run_folder / "rejected.jsonl" if context.ranks.is_main else None,
            length_multiple=COMPILED_LENGTH_MULTIPLE if training_config.compile else LENGTH_MULTIPLE,
            rows_multiple=ROWS_MULTIPLE,
        )
        return TranslationTask(model_config, training_config, data, pretrained), data

    finished = run_training("vanilla", sections, training_config, build, resume)
    if finished.is_new:
        write_lines(report(finished))
        write_lines(["translate     " + tarch("predict", os.path.relpath(finished.model_folder), "--input", "FILE")])
    return finished


if __name__ == "__main__":
    run_command("vanilla", SECTIONS, train)
