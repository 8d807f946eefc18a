"""Trains the encoder-decoder Transformer.

uv run python -m transformer_architectures.architectures.vanilla.training [--config F] [--set S.k=v] [--resume auto|PATH] [--device D]
"""

from transformer_architectures.architectures.architecture import Architecture
from transformer_architectures.architectures.train import main
from transformer_architectures.architectures.vanilla.published import MARIAN
from transformer_architectures.architectures.vanilla.transformer import Transformer, VanillaModelConfig
from transformer_architectures.tasks.translation import TranslationTask

VANILLA = Architecture(
    name="vanilla",
    model_config=VanillaModelConfig,
    models={TranslationTask: Transformer},
    published=(MARIAN,),
)

if __name__ == "__main__":
    main(VANILLA)
