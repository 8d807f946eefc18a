"""BLEU (Papineni et al. 2002) and chrF (Popović 2015) on detokenised text, by sacreBLEU (Post 2018)."""

from collections.abc import Sequence
from typing import Any

from transformer_architectures.errors import DataError


def translation_scores(
    translations: Sequence[str], references: Sequence[str], lowercase: bool = False
) -> dict[str, float]:
    """Corpus scores from 0 to 100, the main one (``bleu``) first.

    Raises:
        DataError: there is nothing to score, or not one reference for each translation.
    """
    if len(translations) != len(references):
        raise DataError(f"{len(translations)} translations cannot be scored against {len(references)} references")
    if not references:
        raise DataError("there is no text to score")
    return {
        name: float(metric.corpus_score(list(translations), [list(references)]).score)
        for name, metric in _metrics(lowercase).items()
    }


def translation_signatures(lowercase: bool = False) -> dict[str, str]:
    """sacreBLEU's signature of each score: what others need to compute the same."""
    signatures = {}
    for name, metric in _metrics(lowercase).items():
        metric.corpus_score([""], [[""]])  # the signature names the number of references, which it learns by scoring
        signatures[name] = str(metric.get_signature().format())
    return signatures


def _metrics(lowercase: bool) -> dict[str, Any]:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    return {"bleu": BLEU(lowercase=lowercase), "chrf": CHRF(lowercase=lowercase)}
