"""Translation: training on pairs of texts, scored by real decoding, and using the trained model on raw text."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from transformer_architectures.config import Sections, StrictModel
from transformer_architectures.datasets.splits import Split
from transformer_architectures.datasets.text.pairs import (
    IGNORED_LABEL,
    PairBatch,
    TranslationDataConfig,
    TranslationDataModule,
)
from transformer_architectures.datasets.text_lines import as_one_line, read_text_lines
from transformer_architectures.errors import ConfigError, DataError, UsageError
from transformer_architectures.generation import GenerationConfig, Hypotheses, beam_search
from transformer_architectures.kernels.cross_entropy import linear_cross_entropy
from transformer_architectures.metrics import translation_scores, translation_signatures
from transformer_architectures.metrics.metric import Metric, metrics
from transformer_architectures.pretrained.published_folder import PublishedModel
from transformer_architectures.tasks.line_predictor import LineOptions, LinePredictor, TextOptions
from transformer_architectures.tasks.long_text import token_pieces
from transformer_architectures.tasks.predictor import batches_by_length, check_texts
from transformer_architectures.tasks.task import PredictorTask, some_of
from transformer_architectures.tokenization import Tokenizer
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.runs.run import RunContext
from transformer_architectures.training.task import Scores
from transformer_architectures.utils.map_batches import MapBatches, map_batches
from transformer_architectures.utils.option_models import option

SPECIAL_IDS = ("pad_id", "bos_id", "eos_id")
# Compiled graphs are kept per shape: few shapes. But oneDNN, too, prepares each new shape of a product (2 ms), and keeps what it has
# prepared: so for some 450 numbers of positions there are 120, at no more padding.
COMPILED_LENGTH_MULTIPLE, LENGTH_MULTIPLE, ROWS_MULTIPLE = 16, 2, 4


# ==================================================================== using it
class Translation(NamedTuple):
    """A translation and its score, log probability over ``length ** length_penalty``."""

    text: str
    score: float


class SearchOptions(TextOptions):
    """How translations are searched for."""

    num_beams: int | None = option(None, "beams of the search", flag="--beam", ge=1)


class TranslateOptions(SearchOptions, LineOptions):
    """`predict` of a translator."""

    n_best: int | None = option(None, "outputs for each input, with their scores", ge=1)


class TranslationScoreOptions(SearchOptions):
    """`evaluate` of a translator."""

    source: str | None = option(None, "a file of inputs, plain or .gz", command_only=True)
    reference: str | None = option(None, "a file of right outputs, line by line", command_only=True)
    lowercase: bool = option(False, "ignore case in all scores")


class Translator(LinePredictor):
    """An encoder-decoder model with its tokenizer and search settings."""

    task: ClassVar[str] = "translation"
    predict_options = TranslateOptions
    evaluate_options = TranslationScoreOptions
    folder_parts: ClassVar[Mapping[str, type[StrictModel]]] = {"generation": GenerationConfig}

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        generation: GenerationConfig = GenerationConfig(),
        device: torch.device | None = None,
    ) -> None:
        super().__init__(model, device)
        self.tokenizer, self.generation = tokenizer, generation

    @classmethod
    def published_parts(cls, found: PublishedModel) -> dict[str, Any]:
        """The beams that ``generation_config.json`` names (in older folders ``config.json``)."""
        known = {**found.content, **found.json("generation_config.json")}
        settings = {key: known[key] for key in ("num_beams", "length_penalty") if known.get(key) is not None}
        return {"tokenizer": found.tokenizer, "generation": GenerationConfig(**settings)}

    def predict(self, inputs: Sequence[str], **options: Any) -> list[Any]:
        """One translation for each input, in order; empty for an empty one. An input over the model's limit is cut into
        sentences (or words), whose translations are joined.

        Args:
            options: those of `TranslateOptions`. With ``n_best`` each output is a list of so many `Translation`, best first.

        Raises:
            UsageError: more translations than beams are asked for, an option is wrong, or ``inputs`` is no list of texts.
        """
        given = self.read_predict_options(options)
        ranked = self.translate(check_texts(inputs), given, given.n_best or 1)
        return ranked if given.n_best is not None else [best.text for (best,) in ranked]

    def evaluate(self, sources: Sequence[str], references: Sequence[str], **options: Any) -> dict[str, float]:
        """BLEU and chrF of the translations, 0 to 100; options are those of `TranslationScoreOptions`."""
        lowercase = bool(options.pop("lowercase", False))
        return translation_scores(self.predict(sources, **options), references, lowercase)

    def scores(
        self, sources: Sequence[str], references: Sequence[str], num_beams: int, map_batches: MapBatches
    ) -> dict[str, float]:
        """`evaluate` with batches that several ranks may compute."""
        ranked = self.translate(check_texts(sources), TranslateOptions(num_beams=num_beams), 1, map_batches)
        return translation_scores([best.text for (best,) in ranked], references)

    def translate(
        self,
        texts: Sequence[str],
        options: TranslateOptions,
        n_best: int = 1,
        map_batches: MapBatches = map_batches,
        first_line: int = 1,
    ) -> list[list[Translation]]:
        """The ``n_best`` translations of each text, best first.

        Args:
            first_line: number of the first text, for warnings.
        """
        num_beams = options.num_beams or self.generation.num_beams
        if n_best > num_beams:
            raise UsageError(f"{n_best}-best translations need at least as many beams, not {num_beams}")
        texts = [text.strip() for text in texts]
        pieces: list[list[int]] = []
        line_of_piece: list[int] = []
        for line, (text, ids) in enumerate(zip(texts, self.tokenizer.encode_batch(texts), strict=True)):
            parts = token_pieces(text, ids, self.longest_source, self.tokenizer.encode_batch) if text else []
            pieces += parts
            line_of_piece += [line] * len(parts)
            if len(parts) > 1:
                print(
                    f"line {first_line + line} has {len(ids)} tokens, more than the model's {self.longest_source}: "
                    f"it is translated in {len(parts)} pieces",
                    file=sys.stderr,
                )
        # Source positions and the longest possible outputs fill a batch.
        lengths = np.array([(len(piece) + 1, self._limit(piece)) for piece in pieces], dtype=np.int64).reshape(-1, 2)
        batches = list(batches_by_length(lengths, options.batch_tokens, options.batch_size))

        def search(batch: list[int]) -> list[list[Translation]]:
            return self._search([pieces[piece] for piece in batch], num_beams, n_best)

        found: list[list[Translation]] = [[] for _ in pieces]
        for batch, ranked_of_batch in zip(batches, map_batches(batches, search), strict=True):
            for piece, ranked in zip(batch, ranked_of_batch, strict=True):
                found[piece] = ranked
        pieces_of_line: list[list[list[Translation]]] = [[] for _ in texts]
        for line, ranked in zip(line_of_piece, found, strict=True):
            pieces_of_line[line].append(ranked)
        return [_joined(ranked_pieces, n_best) for ranked_pieces in pieces_of_line]

    # ---------------------------------------------------------------- the commands
    def lines_for(self, texts: Sequence[str], first_line: int, options: Any) -> Iterator[str]:
        """One line for each input line, or ``n_best`` of ``line<TAB>rank<TAB>score<TAB>text``, counted from 1."""
        translations = self.translate(check_texts(texts), options, options.n_best or 1, first_line=first_line)
        for line, ranked in enumerate(translations, start=first_line):
            if options.n_best is None:
                yield ranked[0].text
                continue
            for rank, (text, score) in enumerate(ranked, start=1):
                yield "\t".join([str(line), str(rank), f"{score:.6f}", text.replace("\t", " ")])

    def evaluate_files(self, options: Any) -> dict[str, float]:
        """Scores of a file's translations against a file of references."""
        if options.source is None or options.reference is None:
            raise UsageError("translation is evaluated with --source FILE and --reference FILE")
        sources, references = list(read_text_lines(options.source)), list(read_text_lines(options.reference))
        if len(sources) != len(references):
            raise DataError(f"{options.source} has {len(sources)} lines, but {options.reference} has {len(references)}")
        given = options.model_dump(exclude={"source", "reference"}, exclude_none=True)
        return self.evaluate(sources, references, **given)

    def metrics(self, options: Any) -> tuple[Metric, ...]:
        """BLEU and chrF, with sacreBLEU's signatures."""
        return metrics(translation_signatures(options.lowercase))

    # ---------------------------------------------------------------- how it is done
    @property
    def longest_source(self) -> int:
        """Tokens that the model reads at once, besides the end token."""
        return self.model.config.max_length - 1

    def _limit(self, source: list[int]) -> int:
        return min(self.generation.limit(len(source) + 1), self.model.config.max_length)

    def _search(self, sources: list[list[int]], num_beams: int, n_best: int) -> list[list[Translation]]:
        hypotheses = self.search(sources, num_beams, n_best)
        texts = iter(self.tokenizer.decode_batch([ids for ranked in hypotheses.to_lists() for ids in ranked]))
        return [
            [Translation(as_one_line(next(texts)), score) for score in scores] for scores in hypotheses.scores.tolist()
        ]

    def search(self, sources: list[list[int]], num_beams: int, n_best: int) -> Hypotheses:
        """One batch of token ids (no special tokens) through the model. Dropout is off, whatever the model's mode."""
        config = self.model.config
        rows = [torch.tensor([*source, config.eos_id]) for source in sources]
        source_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=config.pad_id)
        lengths = torch.tensor([len(row) for row in rows])
        source_mask = torch.arange(source_ids.shape[1]) < lengths[:, None]
        limits = torch.tensor([self._limit(source) for source in sources])
        with self.computing():
            return beam_search(
                self.model.start_decoding(
                    source_ids.to(self.device), source_mask.to(self.device), num_beams, int(limits.max())
                ),
                len(sources),
                num_beams=num_beams,
                n_best=n_best,
                start_token=config.start_id,
                end_token=config.eos_id,
                max_lengths=limits.to(self.device),
                length_penalty=self.generation.length_penalty,
                suppress_tokens=sorted({config.pad_id, config.bos_id, config.start_id} - {config.eos_id}),
            )


def _joined(ranked_pieces: list[list[Translation]], n_best: int) -> list[Translation]:
    """Translations of a line's pieces as one for each rank, scored by their mean; empty if there is no piece."""
    if not ranked_pieces:
        return [Translation("", 0.0)] * n_best
    return [
        Translation(" ".join(piece.text for piece in pieces), sum(piece.score for piece in pieces) / len(pieces))
        for pieces in zip(*ranked_pieces, strict=True)
    ]


# ==================================================================== training it
class TranslationTrainingConfig(TrainingConfig):
    """The `Training:` section of a translator."""

    batch_tokens: int = Field(4096, ge=16, description="tokens of a micro-batch over all devices, padding included")
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    validation_beams: int = Field(1, ge=1, description="beams while training; the final scores take num_beams")
    validation_sentences: int | None = Field(None, ge=1, description="score the first n while training; all at the end")
    num_beams: int = Field(5, ge=1, description="of the final scores, and the default of `predict`")
    length_penalty: float = Field(1.0, ge=0)


class TranslationTask(PredictorTask):
    """Sentence pairs; any model with an encoder, a decoder and ``start_decoding``."""

    name, unit = "translation", "tokens"
    training_config = TranslationTrainingConfig
    data_config = TranslationDataConfig
    predictor = Translator

    @classmethod
    def check(cls, config_path: str, sections: Sections, model_config: Any, pretrained: Any) -> None:
        """Special tokens come with the tokenizer; pairs must fit into learned positions."""
        asked, data_config = sections["Model"], sections.of(TranslationDataConfig)
        if pretrained is None and (given := sorted(asked.model_fields_set.intersection(SPECIAL_IDS))):
            raise ConfigError(
                f"{config_path}: Model: {given[0]}: comes with the tokenizer that is trained; leave it out"
            )
        if model_config.positions == "learned" and data_config.max_length >= model_config.max_length:
            raise ConfigError(
                f"{config_path}: Data: max_length {data_config.max_length} and one special token do not fit into the "
                f"{model_config.max_length} positions of Model.max_length"
            )

    @classmethod
    def build_data(
        cls, model_config: Any, config: Any, data_config: Any, pretrained: Any, context: RunContext
    ) -> TranslationDataModule:
        """Pairs in batches of similar length."""
        return TranslationDataModule(
            data_config,
            model_config.vocab_size,
            seed=config.seed,
            batch_tokens=config.batch_tokens,
            tokenizer=None if pretrained is None else pretrained.tokenizer,
            start_id=model_config.start_id,
            loading=context.loading,
            rejected_path=context.rejected_path,
            length_multiple=COMPILED_LENGTH_MULTIPLE if config.compile else LENGTH_MULTIPLE,
            rows_multiple=ROWS_MULTIPLE,
        )

    def build_model(self) -> nn.Module:
        """A model on the CPU: with new weights, or from `Model.pretrained`."""
        if self.pretrained is not None:
            return self.pretrained.build_model(self.model_class)
        # A small corpus may not have as many tokens as were asked for.
        tokenizer = self.data.tokenizer
        of_tokenizer = {name: getattr(tokenizer, name) for name in ("vocab_size", *SPECIAL_IDS)}
        config = self.model_config.model_copy(update=of_tokenizer)
        if config.start_id >= config.vocab_size:
            raise ConfigError(
                f"Model: decoder_start_id: {config.start_id} is no token: the training text gave only {config.vocab_size}"
            )
        return self.model_class(config)

    def loss(self, model: Any, batch: PairBatch) -> Tensor:
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

    def validate(self, model: Any, map_batches: MapBatches) -> Scores:
        """Scores of decoding (some of) the validation text with `validation_beams`."""
        beams, limit = self.config.validation_beams, self.config.validation_sentences
        return self._scores(model, "validation", map_batches, beams, limit)

    def evaluate(self, model: Any, split: str, map_batches: MapBatches) -> Scores:
        """Scores of decoding a whole split as `predict` does; empty if there is no such split."""
        return self._scores(model, split, map_batches, self.config.num_beams, None)

    def baseline(self, split: str) -> Scores:
        """The source text itself as a translation: names, numbers and signs that both languages share."""
        sources, references = self._texts(split)
        return translation_scores(sources, references)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """BLEU and chrF, with sacreBLEU's signatures."""
        return metrics(translation_signatures())

    def samples(self, model: Any, split: str) -> list[dict[str, str]]:
        """Sources, references and translations of a few sentences of a split."""
        sources, references = self._texts(split)
        chosen = some_of(len(sources))
        translations = self.as_predictor(model).predict([sources[index] for index in chosen])
        return [
            {"source": sources[index], "reference": references[index], "translation": translation}
            for index, translation in zip(chosen, translations, strict=True)
        ]

    def as_predictor(self, model: Any) -> Translator:
        """The model with the tokenizer of the data and the search settings of the config."""
        generation = GenerationConfig(num_beams=self.config.num_beams, length_penalty=self.config.length_penalty)
        return Translator(model, self.data.tokenizer, generation)

    def _scores(self, model: Any, split: str, map_batches: MapBatches, num_beams: int, limit: int | None) -> Scores:
        sources, references = (texts[:limit] for texts in self._texts(split))
        if not sources:
            return {}
        return self.as_predictor(model).scores(sources, references, num_beams, map_batches)

    def _texts(self, split: str) -> tuple[list[str], list[str]]:
        part: Split = "test" if split == "test" else "validation"
        return self.data.evaluation_texts(part)
