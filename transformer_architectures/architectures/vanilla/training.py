"""Trains the encoder-decoder Transformer.

uv run python -m transformer_architectures.architectures.vanilla.training [--config F] [--set S.k=v] [--resume auto|PATH] [--device D]
"""

from transformer_architectures.architectures.architecture import Architecture
from transformer_architectures.architectures.train import main
from transformer_architectures.architectures.vanilla.pretrained_start import read_pretrained
from transformer_architectures.architectures.vanilla.transformer import Transformer, VanillaModelConfig
from transformer_architectures.tasks.translation import TranslationTask

VANILLA = Architecture(
    name="vanilla",
    model_config=VanillaModelConfig,
    models={TranslationTask: Transformer},
    read_pretrained=read_pretrained,
)

if __name__ == "__main__":
    main(VANILLA)
