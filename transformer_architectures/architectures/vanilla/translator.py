"""Translation of raw text with a trained model: `predict`, `evaluate` and validation while training all come here."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, overload

import numpy as np
import torch

from transformer_architectures.architectures.vanilla.config import VanillaModelConfig
from transformer_architectures.architectures.vanilla.long_text import token_pieces
from transformer_architectures.architectures.vanilla.transformer import Transformer
from transformer_architectures.batch_work import BatchWork, one_by_one
from transformer_architectures.errors import DataError, ModelFolderError, UsageError
from transformer_architectures.fitting_weights import model_with_weights
from transformer_architectures.generation import GenerationConfig, Hypotheses, beam_search
from transformer_architectures.loaded_model import LoadedModel
from transformer_architectures.metrics import translation_scores, translation_signatures
from transformer_architectures.model_folder import ModelFolder, write_model_folder
from transformer_architectures.samplers import TokenBudgetBatchSampler
from transformer_architectures.text_lines import as_one_line, read_text_lines
from transformer_architectures.tokenization import Tokenizer, load_tokenizer
from transformer_architectures.training.precision import resolve_device

DEFAULT_BATCH_TOKENS = 8192
LINES_AT_ONCE = 10_000  # of a file: enough to find lines of equal length, few enough to keep in memory


class Translation(NamedTuple):
    """A translation and its score, log probability over ``length ** length_penalty``."""

    text: str
    score: float


class Translator(LoadedModel):
    """A model with its tokenizer and search settings; computes where the model is, unless ``device`` says otherwise."""

    command_options: ClassVar[Mapping[str, frozenset[str]]] = {
        "predict": frozenset({"--input", "--beam", "--n-best", "--batch-tokens", "--batch-size"}),
        "evaluate": frozenset({"--source", "--reference", "--lowercase", "--beam", "--batch-tokens", "--batch-size"}),
    }

    model: Transformer

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        generation: GenerationConfig = GenerationConfig(),
        device: torch.device | None = None,
    ) -> None:
        super().__init__(model, device)
        self.tokenizer, self.generation = tokenizer, generation

    @classmethod
    def from_folder(cls, folder: ModelFolder, device: str) -> "Translator":
        """Reads a model folder whose files have been checked."""
        tokenizer = load_tokenizer(folder.path, folder.manifest.files)
        try:
            config = VanillaModelConfig.model_validate(folder.config["model"])
            generation = GenerationConfig.model_validate(folder.config["generation"])
            if tokenizer.vocab_size > config.vocab_size:
                raise ValueError("the tokenizer is of another model")
            model = model_with_weights(lambda: Transformer(config), folder.weights())
        except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ModelFolderError(f"{folder.path}: config.json and model.safetensors do not fit: {reason}") from None
        return cls(model.eval(), tokenizer, generation, resolve_device(device))

    def export(self, folder: Path, results: Mapping[str, Any]) -> None:
        """Writes the model folder."""
        config = {
            "task": "translation",
            "architecture": "vanilla",
            "model": self.model.config.to_folder(),
            "generation": self.generation.model_dump(mode="json"),
        }
        write_model_folder(folder, self.model.state_dict(), config, results, [self.tokenizer])

    # ---------------------------------------------------------------- from Python
    @overload
    def predict(self, inputs: Sequence[str], *, n_best: None = None, **options: Any) -> list[str]: ...
    @overload
    def predict(self, inputs: Sequence[str], *, n_best: int, **options: Any) -> list[list[Translation]]: ...
    def predict(
        self, inputs: Sequence[str], *, n_best: int | None = None, **options: Any
    ) -> list[str] | list[list[Translation]]:
        """One translation for each input, in order; empty for an empty one. An input over the model's limit is cut into
        sentences (or words), whose translations are joined.

        Args:
            n_best: give this many translations with their scores for each input, best first, as a list.
            options: those of `translate`.
        """
        if n_best is not None:
            return self.translate(inputs, n_best=n_best, **options)
        return [best.text for (best,) in self.translate(inputs, **options)]

    def evaluate(
        self, sources: Sequence[str], references: Sequence[str], *, lowercase: bool = False, **options: Any
    ) -> dict[str, float]:
        """BLEU and chrF of the translations, 0 to 100; options are those of `translate`."""
        return translation_scores(self.predict(sources, **options), references, lowercase)

    def translate(
        self,
        lines: Sequence[str],
        *,
        n_best: int = 1,
        num_beams: int | None = None,
        batch_tokens: int | None = None,
        batch_size: int | None = None,
        work: BatchWork = one_by_one,
        first_line: int = 1,
    ) -> list[list[Translation]]:
        """The ``n_best`` translations of each line, best first.

        Args:
            num_beams: instead of the number in the search settings.
            batch_tokens: source positions and longest possible outputs of a batch.
            batch_size: the most sentences of a batch.
            work: computes the batches.
            first_line: number of the first line, for warnings.

        Raises:
            UsageError: more translations than beams are asked for, an empty batch, or no list of texts.
        """
        if (
            isinstance(lines, str)
            or not isinstance(lines, Sequence)
            or not all(isinstance(text, str) for text in lines)
        ):
            raise UsageError("translate takes a list of texts, one for each line")
        for name, size in (("batch_tokens", batch_tokens), ("batch_size", batch_size)):
            if size is not None and size < 1:
                raise UsageError(f"{name} must be at least 1, not {size}")
        num_beams = self.generation.num_beams if num_beams is None else num_beams
        if not 1 <= n_best <= num_beams:
            raise UsageError(f"{n_best}-best translations need at least as many beams, not {num_beams}")
        texts = [_only_characters(line).strip() for line in lines]
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
        found: list[list[Translation]] = [[] for _ in pieces]
        batches = list(self._batches(pieces, batch_tokens or DEFAULT_BATCH_TOKENS, batch_size))

        def search(batch: list[int]) -> list[list[Translation]]:
            return self._search([pieces[piece] for piece in batch], num_beams, n_best)

        for batch, ranked_of_batch in zip(batches, work(batches, search), strict=True):
            for piece, ranked in zip(batch, ranked_of_batch, strict=True):
                found[piece] = ranked
        pieces_of_line: list[list[list[Translation]]] = [[] for _ in lines]
        for line, ranked in zip(line_of_piece, found, strict=True):
            pieces_of_line[line].append(ranked)
        return [_joined(ranked_pieces, n_best) for ranked_pieces in pieces_of_line]

    # ---------------------------------------------------------------- the commands
    def predict_command(
        self,
        input: str | None = None,
        beam: int | None = None,
        n_best: int | None = None,
        batch_tokens: int | None = None,
        batch_size: int | None = None,
    ) -> Iterator[str]:
        """One line for each input line, or ``n_best`` of ``line<TAB>rank<TAB>score<TAB>text``, counted from 1."""
        lines = read_text_lines(input)
        is_typed = input is None and sys.stdin.isatty()  # a person wants each answer at once
        first_line = 1
        while chunk := list(islice(lines, 1 if is_typed else LINES_AT_ONCE)):
            translations = self.translate(
                chunk,
                n_best=n_best or 1,
                num_beams=beam,
                batch_tokens=batch_tokens,
                batch_size=batch_size,
                first_line=first_line,
            )
            for line, ranked in enumerate(translations, start=first_line):
                if n_best is None:
                    yield ranked[0].text
                else:
                    for rank, (text, score) in enumerate(ranked, start=1):
                        yield "\t".join([str(line), str(rank), f"{score:.6f}", text.replace("\t", " ")])
            first_line += len(chunk)

    def evaluate_command(
        self,
        source: str | None = None,
        reference: str | None = None,
        lowercase: bool = False,
        beam: int | None = None,
        batch_tokens: int | None = None,
        batch_size: int | None = None,
    ) -> tuple[dict[str, float], dict[str, str]]:
        """Scores of a file's translations against a file of references, and their signatures."""
        if source is None or reference is None:
            raise UsageError("translation is evaluated with --source FILE and --reference FILE")
        sources, references = list(read_text_lines(source)), list(read_text_lines(reference))
        options = {"num_beams": beam, "batch_tokens": batch_tokens, "batch_size": batch_size}
        if len(sources) != len(references):
            raise DataError(f"{source} has {len(sources)} lines, but {reference} has {len(references)}")
        scores = self.evaluate(sources, references, lowercase=lowercase, **options)
        return scores, translation_signatures(lowercase)

    # ---------------------------------------------------------------- how it is done
    @property
    def longest_source(self) -> int:
        """Tokens that the model reads at once, besides the end token."""
        return self.model.config.max_length - 1

    def _limit(self, source: list[int]) -> int:
        return min(self.generation.limit(len(source) + 1), self.model.config.max_length)

    def _batches(self, pieces: list[list[int]], batch_tokens: int, batch_size: int | None) -> Iterator[list[int]]:
        """Numbers of pieces with similar lengths, the longest first."""
        if not pieces:
            return
        lengths = np.array([(len(piece) + 1, self._limit(piece)) for piece in pieces])
        for batch in TokenBudgetBatchSampler(lengths, batch_tokens, shuffle=False):
            size = batch_size or len(batch)
            yield from (batch[start : start + size] for start in range(0, len(batch), size))

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


def _only_characters(line: str) -> str:
    """Half of a surrogate pair is no character: no tokenizer takes it."""
    return line.encode("utf-8", errors="replace").decode("utf-8")


def _joined(ranked_pieces: list[list[Translation]], n_best: int) -> list[Translation]:
    """Translations of a line's pieces as one for each rank, scored by their mean; empty where there is no piece."""
    if not ranked_pieces:
        return [Translation("", 0.0)] * n_best
    return [
        Translation(" ".join(piece.text for piece in pieces), sum(piece.score for piece in pieces) / len(pieces))
        for pieces in zip(*ranked_pieces, strict=True)
    ]


__all__ = ["Translation", "Translator"]
