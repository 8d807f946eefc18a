"""BLEU and chrF with the signatures that make them repeatable."""

import pytest

from transformer_architectures.errors import DataError
from transformer_architectures.metrics import translation_scores, translation_signatures

REFERENCES = ["Au commencement, Dieu créa les cieux et la terre.", "Et Dieu dit : Que la lumière soit !"]


def test_scores_lie_between_nothing_and_perfect() -> None:
    assert translation_scores(REFERENCES, REFERENCES) == {"bleu": pytest.approx(100), "chrf": pytest.approx(100)}
    assert translation_scores(["", ""], REFERENCES) == {"bleu": 0.0, "chrf": 0.0}
    some = translation_scores(["Au commencement, Dieu créa la terre.", "Dieu dit : Que la lumière soit"], REFERENCES)
    assert list(some) == ["bleu", "chrf"] and all(20 < value < 95 for value in some.values())


def test_bleu_is_the_textbooks() -> None:
    """Two of two 4-grams... of a 5-token prefix: all precisions 1, brevity penalty exp(1 - 10/5)."""
    scores = translation_scores(["a b c d e"], ["a b c d e f g h i j"])
    assert scores["bleu"] == pytest.approx(100 * 2.718281828 ** (1 - 10 / 5), abs=1e-3)


def test_case_counts_unless_it_is_told_not_to() -> None:
    shouted = [line.upper() for line in REFERENCES]
    assert translation_scores(shouted, REFERENCES)["bleu"] < 50
    assert translation_scores(shouted, REFERENCES, lowercase=True)["bleu"] == pytest.approx(100)


def test_signatures_say_how() -> None:
    signatures = translation_signatures()
    assert list(signatures) == ["bleu", "chrf"]
    assert signatures["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert "nc:6|nw:0" in signatures["chrf"]
    assert "case:lc" in translation_signatures(lowercase=True)["bleu"]


@pytest.mark.parametrize(("translations", "references"), [([], []), (["a"], []), (["a"], ["a", "b"])])
def test_what_does_not_fit_together_is_refused(translations: list[str], references: list[str]) -> None:
    with pytest.raises(DataError):
        translation_scores(translations, references)
