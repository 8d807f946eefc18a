"""BERT's trained models: what they give does not depend on company, length or batch; nothing is lost; folders come back."""

import gzip
import json
import random
from pathlib import Path

import pytest
import torch
from tiny_bert_models import TAGS, TEXTS, WORDS, classifier, filler, tagger
from torch import Tensor

from transformer_architectures import load_model
from transformer_architectures.architectures.bert.data import LabeledBatch
from transformer_architectures.errors import DataError, ModelFolderError, UsageError
from transformer_architectures.tasks import token_classification as tagger_module
from transformer_architectures.tasks.line_predictor import TextOptions
from transformer_architectures.tasks.raw_words import split_words
from transformer_architectures.tasks.text_predictor import TextPredictor

RESULTS = {"task": "x", "global_step": 1}


def some_texts() -> list[str]:
    return [" ".join(random.choices(WORDS, k=random.choice([0, 1, 3, 9, 40]))) for _ in range(12)]


def exact(model: TextPredictor) -> TextPredictor:
    """In double precision, so that sums in another order agree."""
    model.model.double()
    return model


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_a_text_alone_has_the_probabilities_that_it_has_among_others(
    seed: int, pooling: str, multi_label: bool
) -> None:
    model = classifier(multi_label, pooling)
    texts = some_texts()
    together = model.probabilities(texts, TextOptions(batch_tokens=64))
    alone = torch.cat([model.probabilities([text]) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.probabilities(texts, TextOptions(batch_size=2)), alone, atol=1e-5, rtol=1e-5)
    if not multi_label:
        torch.testing.assert_close(together.sum(dim=1), torch.ones(len(texts)))


def test_probabilities_are_those_of_padded_texts_averaged_over_windows(seed: int) -> None:
    model = classifier()
    text = " ".join(random.choices(WORDS, k=30))
    windows = model.windowing(*_encoded(model, text))
    rows = torch.split(torch.from_numpy(windows.token_ids), list(windows.segment_lengths))
    assert len(rows) > 2
    logits = torch.cat([model.compute(lambda _, row=row: model.model(row[None]), _any_batch(model)) for row in rows])
    expected = (logits * torch.from_numpy(windows.weights)[:, None]).sum(dim=0).softmax(dim=0)
    torch.testing.assert_close(model.probabilities([text])[0], expected, atol=1e-5, rtol=1e-5)


def _encoded(model: TextPredictor, text: str) -> tuple[list[int], list[int]]:
    from transformer_architectures.datasets.text.windowed_text import encode_texts

    return encode_texts(model.tokenizer, [text])[0]


def _any_batch(model: TextPredictor) -> LabeledBatch:
    return next(model.batches([model.windowing(*_encoded(model, "the house"))]))


def test_tags_do_not_depend_on_the_batch(seed: int) -> None:
    model = tagger()
    rows = [text.split() for text in some_texts()]
    together = model.tag(rows, TextOptions(batch_tokens=64))
    assert together == [model.tag([row])[0] for row in rows]
    assert [len(tags) for tags in together] == [len(row) for row in rows]


def test_planted_entities_are_found_once_each_with_their_characters(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In 2,000 words with odd Unicode, also where windows end: the model is an oracle that reads the first sub-word alone."""
    model = tagger()
    begins, goes_on = (model.tokenizer.encode(word)[0] for word in ("river", "trees"))

    def oracle(_: object, batch: LabeledBatch) -> Tensor:
        tokens = batch.token_ids[0, batch.positions]
        tags = torch.full_like(tokens, TAGS.index("O"))
        tags[tokens == begins] = TAGS.index("B-LOC")
        tags[tokens == goes_on] = TAGS.index("I-LOC")
        return torch.nn.functional.one_hot(tags, len(TAGS)).double()

    monkeypatch.setattr(tagger_module, "word_logits", oracle)
    odd = [
        "cafe\u0301",
        "\u200b",
        "\u200d\u200d",
        "مرحبا",
        "东京",
        "👩\u200d👩\u200d👧",
        "\ufeff",
        "x" * 150,
        "\u00ad",
        "ﬁ",
        ".",
    ]
    others = [word for word in WORDS if word not in ("river", "trees")] + odd
    words = [random.choice(others) for _ in range(2000)]
    wanted = set()
    for place in range(random.randint(0, 5), 1990, random.choice([7, 8, 9, 10, 11])):
        words[place : place + 2] = ["river", "trees"]
        wanted.add(place)
    line, starts = "", []
    for word in words:
        starts.append(len(line))
        line += word + random.choice([" ", "  ", "\t", "\u3000"])
    (row,) = model.predict([line])
    ends = {starts[place] + len("river"): starts[place + 1] + len("trees") for place in wanted}
    found = [(entity["start"], entity["end"], entity["type"], entity["text"]) for entity in row["entities"]]
    assert found == sorted(
        (starts[place], ends[starts[place] + 5], "LOC", line[starts[place] : ends[starts[place] + 5]])
        for place in wanted
    )
    assert all(line[start:end] == text for start, end, _, text in found)
    assert len(row["words"]) == len(row["tags"])


@pytest.mark.parametrize(
    "line",
    [
        "cafe\u0301",
        "\u0939\u093f\u0928\u094d\u0926\u0940 \u092d\u093e\u0937\u093e London",
        "\u0639\u0631\u0628\u064a\u064b\u0651",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467 Anna",
        "Jose\u0301 Zoe\u0308 New York\u0301",
    ],
)
def test_marks_stay_with_their_letters(line: str) -> None:
    assert [word.text for word in split_words(line)] == line.split()
    assert [word.text for word in split_words(f"({line})")][1:-1] == line.split()


def test_words_of_a_line_are_where_they_say(seed: int) -> None:
    line = 'He said, "don\'t!" to @ann #1st (x) ... a-b -- \u200b\n§'
    words = split_words(line)
    assert all(line[word.start : word.end] == word.text for word in words)
    expected = [
        "He",
        "said",
        ",",
        '"',
        "don't",
        "!",
        '"',
        "to",
        "@ann",
        "#1st",
        "(",
        "x",
        ")",
        ".",
        ".",
        ".",
        "a-b",
        "-",
        "-",
    ]
    assert [word.text for word in words] == [*expected, "\u200b", "§"]
    assert "".join(word.text for word in words) == "".join(line.split())


def test_masks_are_filled_where_they_stand(seed: int) -> None:
    model = filler()
    lines = ["the [MASK] stands", "", "no mask", "[MASK][MASK]", "word " * 30 + "[MASK] by"]
    rows = model.predict(lines)
    assert [len(row["masks"]) for row in rows] == [1, 0, 0, 2, 1]
    assert rows[1]["text"] == "" and rows[2]["text"] == "no mask"
    assert "[MASK]" not in "".join(row["text"] for row in rows)
    best = rows[0]["masks"][0][0]
    assert rows[0]["text"] == f"the {best['token']} stands" or best["token"].startswith("##")
    for row in rows:
        for candidates in row["masks"]:
            probabilities = [candidate["probability"] for candidate in candidates]
            assert probabilities == sorted(probabilities, reverse=True) and len(candidates) == 5
            assert not {candidate["token"] for candidate in candidates} & {"[MASK]", "[PAD]", "[CLS]", "[SEP]", "[UNK]"}
    alone = [model.predict([line])[0] for line in lines]
    assert [row["text"] for row in alone] == [row["text"] for row in rows]


@pytest.mark.parametrize("make", [classifier, tagger, filler, lambda: classifier(multi_label=True)])
def test_folders_come_back(seed: int, tmp_path: Path, make: object) -> None:
    model = make()  # type: ignore[operator]
    model.export(tmp_path / "model", {**RESULTS, "task": model.task})
    loaded = load_model(tmp_path / "model", device="cpu")
    lines = [*TEXTS[:3], "", "the [MASK]"]
    assert loaded.predict(lines) == model.predict(lines)
    config_path = tmp_path / "model" / "config.json"
    assert str(tmp_path) not in config_path.read_text()


def test_bf16_gives_nearly_the_same_probabilities(seed: int, tmp_path: Path) -> None:
    model = classifier()
    model.export(tmp_path / "model", {**RESULTS, "task": model.task})
    loaded = load_model(tmp_path / "model", device="cpu", precision="bf16")
    found, expected = loaded.probabilities(TEXTS), model.probabilities(TEXTS)  # type: ignore[attr-defined]
    assert found.dtype == torch.float32 and not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("key", "value"), [("classes", ["a"]), ("settings", {"max_length": 900, "stride": 5}), ("model", {})]
)
def test_a_damaged_config_is_named(seed: int, tmp_path: Path, key: str, value: object) -> None:
    from transformer_architectures.pretrained.model_folder import seal

    tagger().export(tmp_path / "model", RESULTS)
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    seal(tmp_path / "model")
    with pytest.raises(ModelFolderError, match="do not fit"):
        load_model(tmp_path / "model", device="cpu")


def test_evaluation_of_files(seed: int, tmp_path: Path) -> None:
    table = "label\ttext\n" + "".join(
        f"{label}\t{text}\n" for label, text in zip(["bad", "good"] * 4, TEXTS, strict=False)
    )
    (tmp_path / "data.tsv.gz").write_bytes(gzip.compress(table.encode()))
    scores = classifier().evaluate(tmp_path / "data.tsv.gz")
    assert list(scores) == ["accuracy", "macro_f1", "mcc"]
    columns = "".join("the O\nriver B-LOC\nhouse I-LOC\n\n" for _ in range(5))
    (tmp_path / "data.conll").write_text(columns)
    scores = tagger().evaluate(tmp_path / "data.conll")
    assert list(scores) == ["f1", "precision", "recall", "f1_strict", "accuracy"]
    (tmp_path / "text.txt").write_text("\n".join(TEXTS))
    scores = filler().evaluate(tmp_path / "text.txt")
    assert list(scores) == ["masked_accuracy", "loss", "pseudo_perplexity"]


@pytest.mark.parametrize(
    ("make", "content", "message"),
    [
        (classifier, "label\ttext\nunheard\tthe house\n", "unknown label 'unheard'"),
        (classifier, "text\nthe house\n", "label"),
        (classifier, "label\ttext\nbad\t\n", "empty text"),
        (tagger, "the O\nriver B-NOWHERE\n", "unknown tag 'B-NOWHERE'"),
        (filler, "\n\n", "no masked token|nothing"),
    ],
)
def test_bad_files_are_refused_with_their_line(
    seed: int, tmp_path: Path, make: object, content: str, message: str
) -> None:
    path = tmp_path / "data.tsv"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        make().evaluate(path)  # type: ignore[operator]


def test_a_lost_gold_tag_stops_the_evaluation(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tagger()
    (tmp_path / "data.conll").write_text("the O\nriver B-LOC\n\nthe O\nhouse O\n")
    whole = model.windowed
    with monkeypatch.context() as patch:
        patch.setattr(
            model,
            "windowed",
            lambda rows: [text._replace(word_positions=text.word_positions[:-1]) for text in whole(rows)],
        )
        with pytest.raises(DataError, match="2 labels for 1 words"):
            model.evaluate(tmp_path / "data.conll")
    split = tagger_module.split_by_text
    monkeypatch.setattr(
        tagger_module, "split_by_text", lambda values, counts: [part.flip(0) for part in split(values, counts)]
    )
    with pytest.raises(DataError, match="LOC 'river' was lost"):
        model.evaluate(tmp_path / "data.conll")


def test_inputs_are_lists_of_texts(seed: int) -> None:
    with pytest.raises(UsageError, match="list of texts"):
        classifier().predict("the house")
    with pytest.raises(UsageError, match="batch_tokens"):
        classifier().predict(["the house"], batch_tokens=0)
    assert classifier().predict([]) == []
