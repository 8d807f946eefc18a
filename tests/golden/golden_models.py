"""Tiny models of every architecture and task, what is asked of each, and a training that is small enough to keep.

`make.py` writes the files of a version with them; the tests read the files of every version that was.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from toy_task import ToyData, ToyTask

from transformer_architectures.architectures.bert.transformer import (
    BertForMaskedLM,
    BertForSeqClassification,
    BertForTokenClassification,
    BertModelConfig,
)
from transformer_architectures.architectures.vanilla.transformer import Transformer, VanillaModelConfig
from transformer_architectures.architectures.vit.transformer import (
    VisionTransformerForImageClassification,
    VitModelConfig,
)
from transformer_architectures.datasets.images.augmentation import ImagePreparation
from transformer_architectures.generation import GenerationConfig
from transformer_architectures.tasks.image_classification import ImageClassifier
from transformer_architectures.tasks.images.label_map import LabelMap
from transformer_architectures.tasks.masked_language_model import MaskFiller, MaskFillerSettings
from transformer_architectures.tasks.predictor import Predictor
from transformer_architectures.tasks.text_classification import TextClassifier, TextClassifierSettings
from transformer_architectures.tasks.token_classification import Tagger, TaggerSettings
from transformer_architectures.tasks.translation import Translator
from transformer_architectures.tokenization import SubwordTokenizer, WordPieceTokenizer
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.loop import Trainer
from transformer_architectures.training.precision import Precision
from transformer_architectures.training.runs.run_folder import Start
from transformer_architectures.training.runs.signals import StopRequest
from transformer_architectures.training.task import Scores

TEXTS = ["the house stands by a river", "under old trees", "nobody knows who built it so long ago"]
SIZES = {"embed_dim": 8, "num_heads": 2, "ff_dim": 8, "num_layers": 1, "dropout": 0.0}
RUN_ID = "601de0" * 5 + "60"
MADE_STEPS, RESUMED_STEPS = 2, 4


# -------------------------------------------------------------------- the models
def with_random_weights(model: nn.Module) -> Any:
    """Every weight matters, and no two outputs are nearly equal."""
    torch.manual_seed(11)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model.eval()


def translator() -> Translator:
    """Sub-words, three beams."""
    tokenizer = SubwordTokenizer.train(TEXTS * 3, 262)
    config = VanillaModelConfig.model_validate({"vocab_size": tokenizer.vocab_size, "max_length": 24, **SIZES})
    return Translator(
        with_random_weights(Transformer(config)), tokenizer, GenerationConfig(num_beams=3, max_length_factor=1.0)
    )


def image_classifier() -> ImageClassifier:
    """Three classes, images of 8 × 12 pixels."""
    config = VitModelConfig.model_validate({"image_size": [8, 12], "patch_size": 4, "num_labels": 3, **SIZES})
    preparation = ImagePreparation(height=8, width=12, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2))
    labeling = LabelMap(classes=("a", "b", "c"), names=("Apple", "Boat", "Cat"), thresholds=(0.3, 0.5, 0.7))
    return ImageClassifier(with_random_weights(VisionTransformerForImageClassification(config)), preparation, labeling)


def word_pieces() -> WordPieceTokenizer:
    """Of the words of `TEXTS`."""
    return WordPieceTokenizer.train(TEXTS * 20, 80)


def bert_config(num_labels: int = 0) -> BertModelConfig:
    """For `word_pieces`."""
    sizes = {"vocab_size": word_pieces().vocab_size, "max_positions": 12, "num_labels": num_labels, "pooling": "mean"}
    return BertModelConfig.model_validate({**SIZES, **sizes})


def mask_filler() -> MaskFiller:
    """A pre-trained encoder."""
    settings = MaskFillerSettings(max_length=8, stride=3)
    return MaskFiller(with_random_weights(BertForMaskedLM(bert_config())), word_pieces(), settings)


def text_classifier() -> TextClassifier:
    """Two classes."""
    model = with_random_weights(BertForSeqClassification(bert_config(2)))
    return TextClassifier(model, word_pieces(), TextClassifierSettings(max_length=8, stride=3), ("bad", "good"))


def tagger() -> Tagger:
    """Entities of one kind."""
    model = with_random_weights(BertForTokenClassification(bert_config(3)))
    settings = TaggerSettings(max_length=8, stride=3, are_entities=True)
    return Tagger(model, word_pieces(), settings, ("B-LOC", "I-LOC", "O"))


MODELS: dict[str, Callable[[], Any]] = {
    "translation": translator,
    "image_classification": image_classifier,
    "masked_language_model": mask_filler,
    "text_classification": text_classifier,
    "token_classification": tagger,
}


# -------------------------------------------------------------------- what is asked of them
def image() -> Tensor:
    """Of another size than the model's, so that it is prepared too."""
    return (torch.arange(3 * 10 * 14).reshape(3, 10, 14) * 7 % 256).to(torch.uint8)


def answers(loaded: Predictor) -> Any:
    """What a model says, as JSON has it."""
    if isinstance(loaded, Translator):
        return [[list(pair) for pair in ranked] for ranked in loaded.predict(TEXTS, n_best=2)]
    if isinstance(loaded, ImageClassifier):
        return loaded.predict([image()])
    if isinstance(loaded, MaskFiller):
        return loaded.predict([f"[MASK] {text} [MASK]" for text in TEXTS])
    return loaded.predict(TEXTS)


# -------------------------------------------------------------------- a training
@dataclass(frozen=True)
class FixedBatch:
    """The same in every step."""

    num_labels: int = 4
    num_tokens: int = 4
    num_positions: int = 4
    indices: tuple[int, ...] = (0, 1, 2, 3)

    def to(self, device: torch.device) -> "FixedBatch":
        return self


class FixedData(ToyData):
    """Three batches in every epoch."""

    digest, batches = "golden", 3

    def train_dataloader(self, epoch: int = 0, start_batch: int = 0) -> Iterable[FixedBatch]:
        return [FixedBatch() for _ in range(start_batch, 3)]


class GoldenTask(ToyTask):
    """Pulls the outputs of one of the models to zero: the loss needs nothing but the model."""

    unit = "tokens"

    def __init__(self, name: str, architecture: str) -> None:
        self.name, self.architecture = name, architecture

    def build_model(self) -> nn.Module:
        model: nn.Module = MODELS[self.name]().model
        return model

    def loss(self, model: Any, batch: Any) -> Tensor:
        return outputs(self.name, model).square().mean(dim=-1).sum()

    def validate(self, model: Any, should_stop: Callable[[], None]) -> Scores:
        return {"score": -float(outputs(self.name, model).square().mean().detach())}

    def evaluate(self, model: Any, part: str, should_stop: Callable[[], None]) -> Scores:
        return self.validate(model, should_stop)


def outputs(name: str, model: Any) -> Tensor:
    """Of fixed inputs."""
    tokens = torch.tensor([[5, 9, 14, 3], [7, 7, 21, 40]])
    if name == "image_classification":
        pixels = image()[:, :8, :12].float() / 255
        logits: Tensor = model(torch.stack([pixels, pixels.flip(2)]))
    elif name == "translation":
        logits = model(tokens, tokens.flip(1), torch.ones_like(tokens))
    else:
        logits = model(tokens, torch.ones_like(tokens))
    return logits


# The ones that are trained: a checkpoint of each architecture.
TRAINED = {"translation": "vanilla", "image_classification": "vit", "masked_language_model": "bert"}


def training(name: str, root: Path, start: Start = Start(), max_steps: int = MADE_STEPS, **changes: Any) -> Trainer:
    """A run of two steps, or one that goes on from there. MLflow's active run has to be `RUN_ID`, named as the task."""
    settings: dict[str, Any] = {
        "seed": 3,
        "precision": "fp32",
        "max_steps": max_steps,
        "warmup_steps": 2,
        "learning_rate": 0.01,
        "adam_eps": 1e-3,  # else what is nearly zero would move as far as all others, in the direction of its rounding
        "weight_decay": 0.1,
        "ema_decay": 0.9,
        "checkpoint_root": str(root),
    }
    config = TrainingConfig(**{**settings, **changes})
    task = GoldenTask(name, TRAINED[name])
    return Trainer(task, FixedData(), config, Precision(torch.device("cpu"), None), StopRequest(), start)


def where_it_stands(trainer: Trainer) -> dict[str, Any]:
    """Loss and weights of a run, in few numbers."""
    assert trainer.ema is not None
    weights = torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()]).double()
    average = torch.cat([parameter.detach().flatten() for parameter in trainer.ema.parameters()]).double()
    return {
        "global_step": trainer.state.global_step,
        "best_score": trainer.state.best_score,
        "weights": [float(weights.mean()), float(weights.norm())],
        "average": [float(average.mean()), float(average.norm())],
    }
