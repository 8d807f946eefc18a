"""Subword tokenization. No module here imports torch: the processes that tokenise start fast."""

from transformer_architectures.tokenization.json_tokenizer import JsonTokenizer
from transformer_architectures.tokenization.loading import load_tokenizer, read_tokenizer
from transformer_architectures.tokenization.marian import MarianTokenizer
from transformer_architectures.tokenization.protocol import Tokenizer
from transformer_architectures.tokenization.subword import SubwordTokenizer
from transformer_architectures.tokenization.wordpiece import EncodedText, EncodedWords, WordPieceTokenizer

__all__ = [
    "EncodedText",
    "EncodedWords",
    "JsonTokenizer",
    "MarianTokenizer",
    "SubwordTokenizer",
    "Tokenizer",
    "WordPieceTokenizer",
    "load_tokenizer",
    "read_tokenizer",
]
