"""A small untrained translator for the tests: it says nonsense, but by the whole path."""

import random

from transformer_architectures.architectures.vanilla.transformer import Transformer, VanillaModelConfig
from transformer_architectures.generation import GenerationConfig
from transformer_architectures.tasks.translation import Translator
from transformer_architectures.tokenization import SubwordTokenizer

SYLLABLES = ["ba", "lo", "mi", "tu", "sé", "ka", "ñe", "ro", "œu", "din"]


def tiny_translator(seed: int, **model: object) -> Translator:
    """Untrained, of 300 tokens, 2 layers × 16; its outputs have at most 12 tokens more than the source."""
    words = random.Random(seed)
    texts = [" ".join("".join(words.choices(SYLLABLES, k=2)) for _ in range(8)) for _ in range(50)]
    tokenizer = SubwordTokenizer.train(texts, 300)
    sizes = {"embed_dim": 16, "num_heads": 2, "ff_dim": 32, "num_layers": 2, "max_length": 40, **model}
    config = VanillaModelConfig.model_validate({"vocab_size": tokenizer.vocab_size, **sizes})
    generation = GenerationConfig(num_beams=3, max_length_factor=1.0, max_length_offset=12)
    return Translator(Transformer(config).eval(), tokenizer, generation)
