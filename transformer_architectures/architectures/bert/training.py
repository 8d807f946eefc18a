"""Trains BERT: pre-training, classification of texts, tagging of words. The form of `Data.train` says which.

uv run python -m transformer_architectures.architectures.bert.training [--config F] [--set S.k=v] [--resume auto|PATH] [--device D]
"""

from transformer_architectures.architectures.architecture import Architecture
from transformer_architectures.architectures.bert.distilbert import DISTILBERT
from transformer_architectures.architectures.bert.published import BERT as BERT_FAMILY
from transformer_architectures.architectures.bert.roberta import ROBERTA
from transformer_architectures.architectures.bert.transformer import (
    BertForMaskedLM,
    BertForSeqClassification,
    BertForTokenClassification,
    BertModelConfig,
)
from transformer_architectures.architectures.train import main
from transformer_architectures.tasks.masked_language_model import MaskedLanguageModelTask
from transformer_architectures.tasks.text_classification import TextClassificationTask
from transformer_architectures.tasks.token_classification import TokenClassificationTask

BERT = Architecture(
    name="bert",
    model_config=BertModelConfig,
    models={
        MaskedLanguageModelTask: BertForMaskedLM,
        TextClassificationTask: BertForSeqClassification,
        TokenClassificationTask: BertForTokenClassification,
    },
    families=(
        BERT_FAMILY,
        ROBERTA,
        DISTILBERT,
    ),
)

if __name__ == "__main__":
    main(BERT)
