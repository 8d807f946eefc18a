"""The translator: every line has its output, and batches, beams and scores agree with the model itself."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_translator import tiny_translator

from transformer_architectures.errors import DataError, UsageError
from transformer_architectures.generation import score
from transformer_architectures.pretrained.model_folder import load_model
from transformer_architectures.tasks.long_text import halves, token_pieces
from transformer_architectures.tasks.translation import TranslateOptions, Translation, Translator

LINES = [
    "ba lo mi",
    "",
    "tuka séro œudin ñe",
    "   \t",
    "mi",
    "kalo 12 xyz! 漢字 🙂",
    "a\u2028b",
    "lo\ud800lo",
    "ba " * 200,
]


@pytest.fixture
def translator(seed: int) -> Translator:
    return tiny_translator(seed)


def test_one_output_for_each_line_in_order(translator: Translator, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = translator.predict(LINES)
    assert len(outputs) == len(LINES)
    assert [line for line, output in zip(LINES, outputs) if not line.strip()] == ["", "   \t"]
    assert outputs[1] == outputs[3] == ""
    assert all(len(output.splitlines()) <= 1 for output in outputs)
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1 and warnings[0].startswith("line 9 has ")
    assert translator.predict([]) == []


def test_the_company_of_a_line_changes_nothing(translator: Translator) -> None:
    lines = ["ba lo mi", "tuka séro œudin ñe", "mi", "kalo 12 xyz! 漢字 🙂"]
    together = translator.predict(lines, n_best=3)
    for options in ({"batch_size": 1}, {"batch_tokens": 1}, {"batch_tokens": 100}):
        apart = translator.predict(lines, n_best=3, **options)
        for ranked, ranked_apart in zip(together, apart, strict=True):
            assert [best.text for best in ranked] == [best.text for best in ranked_apart]
            assert [best.score for best in ranked] == pytest.approx([best.score for best in ranked_apart], abs=1e-4)


@pytest.mark.parametrize("attention", ["dot_product", "additive"])
@pytest.mark.parametrize("num_beams", [1, 4])
def test_scores_are_those_that_the_model_gives_without_cache(seed: int, attention: str, num_beams: int) -> None:
    translator = tiny_translator(seed, attention=attention)
    model = translator.model
    sources = translator.tokenizer.encode_batch(["ba lo mi", "tuka séro œudin ñe", "mi"])
    found = translator.search(sources, num_beams, num_beams)
    for source, tokens, lengths, scores in zip(sources, found.tokens, found.lengths, found.scores, strict=True):
        source_ids = torch.tensor([[*source, model.config.eos_id]]).expand(num_beams, -1)
        starts = torch.full((num_beams, 1), model.config.start_id)
        with torch.no_grad():
            logits = model(source_ids, torch.cat([starts, tokens[:, :-1]], dim=1))
        assert torch.allclose(score(logits, tokens, lengths), scores, atol=1e-4)


def test_n_best_is_a_list_with_falling_scores(translator: Translator) -> None:
    """What the limit cut comes behind what is finished, whatever its score."""
    sources = translator.tokenizer.encode_batch(["ba lo mi", "tuka séro œudin ñe", "mi"])
    found = translator.search(sources, 3, 3)
    for tokens, lengths, scores in zip(found.tokens, found.lengths, found.scores.tolist(), strict=True):
        is_cut = [int(row[length - 1]) != found.end_token for row, length in zip(tokens, lengths, strict=True)]
        assert sorted(range(3), key=lambda rank: (is_cut[rank], -scores[rank])) == [0, 1, 2]
    for line, ranked in zip(LINES, translator.predict(LINES, n_best=3), strict=True):
        assert len(ranked) == 3 and all(isinstance(best, Translation) for best in ranked)
        assert all(math.isfinite(best.score) for best in ranked)
        assert line.strip() or ranked == [Translation("", 0.0)] * 3
    assert translator.predict(["ba lo"], n_best=1)[0][0].text == translator.predict(["ba lo"])[0]


@pytest.mark.parametrize("lines, options", [("ba lo", {}), (["ba"], {"batch_size": 0}), (["ba"], {"batch_tokens": -1})])
def test_what_is_no_list_of_texts_is_refused(translator: Translator, lines: object, options: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        translator.predict(lines, **options)  # type: ignore[call-overload]


def test_more_outputs_than_beams_are_refused(translator: Translator) -> None:
    with pytest.raises(UsageError, match="as many beams"):
        translator.predict(["ba"], n_best=4)
    assert len(translator.predict(["ba"], n_best=4, num_beams=4)[0]) == 4


def test_dropout_is_off_and_the_mode_of_the_model_stays(seed: int) -> None:
    translator = tiny_translator(seed, dropout=0.5)
    expected = translator.predict(["ba lo mi"], n_best=2)
    translator.model.train()
    assert translator.predict(["ba lo mi"], n_best=2) == expected
    assert translator.model.training


def test_batches_may_be_computed_in_any_order(translator: Translator) -> None:
    def backwards(batches: Iterable[list[int]], compute: Callable[[list[int]], Any]) -> list[Any]:
        return [compute(batch) for batch in reversed(list(batches))][::-1]

    lines = ["ba lo mi", "ba", "", "tu ké sa ro"]
    options = TranslateOptions(batch_size=1)
    found = translator.translate(lines, options, map_batches=backwards)
    assert [best.text for (best,) in found] == translator.predict(lines, batch_size=1)


def test_learned_positions_are_never_overrun(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    translator = tiny_translator(seed, positions="learned", max_length=9)
    assert all(translator.predict(["ba lo mi tu " * 30, "x" * 500]))
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_evaluate_scores_the_predictions(translator: Translator) -> None:
    sources = ["ba lo mi", "tu ka sé ro", "din œu ñe"]
    scores = translator.evaluate(sources, translator.predict(sources))
    assert list(scores) == ["bleu", "chrf"]
    assert scores["chrf"] == pytest.approx(100)
    with pytest.raises(DataError, match="3 translations"):
        translator.evaluate(sources, ["ba"])


def test_a_folder_gives_the_same_translator(translator: Translator, tmp_path: Path) -> None:
    translator.export(tmp_path / "model", {"task": "translation"})
    random_state = torch.get_rng_state()
    loaded = load_model(tmp_path / "model", device="cpu")
    assert torch.equal(torch.get_rng_state(), random_state)
    assert isinstance(loaded, Translator)
    assert loaded.predict(LINES, n_best=2) == translator.predict(LINES, n_best=2)
    weights = loaded.model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in translator.model.state_dict().items())
    assert loaded.model.output_projection.weight is loaded.model.source_embedding.weight


def test_bf16_is_another_precision_of_the_same_search(translator: Translator, tmp_path: Path) -> None:
    translator.export(tmp_path / "model", {"task": "translation"})
    loaded = load_model(tmp_path / "model", device="cpu", precision="bf16")
    assert isinstance(loaded, Translator) and (loaded.precision.name, translator.precision.name) == ("bf16", "fp32")
    with translator.computing():
        expected = translator.model.encode(torch.tensor([[4, 5, 6]]))
    with loaded.computing():
        found = loaded.model.encode(torch.tensor([[4, 5, 6]])).float()
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0.1)
    for ranked in loaded.predict(LINES, n_best=2):
        assert all(math.isfinite(translation.score) for translation in ranked)


def test_long_text_is_cut_after_sentences_then_words() -> None:
    assert halves("One two. Three four five.") == ("One two.", "Three four five.")
    assert halves("one two three four") == ("one two", "three four")
    assert halves("abcdef") == ("abc", "def")

    def encode_batch(texts: list[str]) -> list[list[int]]:
        return [[ord(character) for character in text] for text in texts]

    text = "One two. Three four! Five six? Seven eight nine ten eleven."
    pieces = token_pieces(text, encode_batch([text])[0], 20, encode_batch)
    texts = ["".join(map(chr, piece)) for piece in pieces]
    assert all(0 < len(piece) <= 20 for piece in texts)
    assert " ".join(texts) == text
    assert texts[0] == "One two."
