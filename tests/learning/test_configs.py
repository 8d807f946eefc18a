"""Every config trains two steps, through its command, on made-up files in the layout that it expects."""

import gzip
import io
import json
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from transformer_architectures import load_model
from transformer_architectures.architectures.bert.training import BERT
from transformer_architectures.architectures.train import train
from transformer_architectures.architectures.vanilla.training import VANILLA
from transformer_architectures.architectures.vit.training import VIT
from transformer_architectures.datasets.text.bible import bible_path
from transformer_architectures.errors import DataError, UsageError
from transformer_architectures.training.runs.command import train_config

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = [
    "Model.vocab_size=400",
    "Model.embed_dim=16",
    "Model.num_heads=2",
    "Model.ff_dim=16",
    "Model.num_layers=1",
    "Training.max_steps=2",
    "Training.batch_tokens=512",
    "Training.num_beams=2",
    "Training.precision=fp32",
]
WORDS = {"en": ["house", "tree", "river", "stone", "light"], "fr": ["maison", "arbre", "rivière", "pierre", "lumière"]}


def sentences(count: int) -> dict[str, list[str]]:
    picked = [random.choices(range(5), k=random.randint(3, 9)) for _ in range(count)]
    return {language: [" ".join(words[i] for i in row) for row in picked] for language, words in WORDS.items()}


def write_lines(path: Path, lines: list[str]) -> None:
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def multi30k(folder: Path) -> None:
    for part, count in (("train", 300), ("val", 20)):
        for language, lines in sentences(count).items():
            write_lines(folder / f"{part}.{language}.gz", lines)


def tatoeba(folder: Path) -> None:
    pairs = sentences(600)
    lines = ["\t".join(pair) for pair in zip(pairs["en"], pairs["fr"], strict=True)]
    write_lines(folder / "train.en-fr.tsv.gz", lines)


def wmt(folder: Path) -> None:
    for name, ending in (("europarl-v7.fr-en", ""), ("commoncrawl.fr-en", ".gz")):
        for language, lines in sentences(200).items():
            write_lines(folder / f"{name}.{language}{ending}", lines)
    for name in ("newstest2013", "newstest2014-fren"):
        pairs = sentences(15)
        for language, role in (("en", "src"), ("fr", "ref")):
            segments = [f'<seg id="{number}">{text}</seg>' for number, text in enumerate(pairs[language], start=1)]
            body = ['<srcset setid="x">', "<doc>", "<p>", *segments, "</p>", "</doc>", "</srcset>"]
            write_lines(folder / f"{name}-{role}.{language}.sgm", body)
    # What is beside it, and must neither be trained on nor be taken for the test text.
    write_lines(folder / "newstest2014-deen-src.en.sgm", ['<seg id="1">another test</seg>'])
    for language, lines in sentences(15).items():
        write_lines(folder / f"newstest2014.{language}", lines)


LAYOUTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "vanilla_multi30k": ("MULTI30K_DIR", multi30k),
    "vanilla_tatoeba": ("TATOEBA_DIR", tatoeba),
    "vanilla_large": ("WMT_EN_FR_DIR", wmt),
}


def check(config: str, root: Path, has_test: bool, overrides: list[str]) -> dict[str, object]:
    overrides = [*TINY, f"Training.checkpoint_root={root / 'out'}", f"Data.cache_dir={root / 'cache'}", *overrides]
    assert train(VANILLA, str(CONFIGS / f"{config}.yaml"), overrides, None) is not None
    (folder,) = (root / "out" / "vanilla").glob("*/model")
    results: dict[str, object] = json.loads((folder / "results.json").read_text())
    assert results["task"] == "translation" and results["global_step"] == 2
    assert (results["test"] is not None) == has_test
    assert list(results["baseline"]) == list(results["validation"]) == ["bleu", "chrf"]  # type: ignore[call-overload]
    assert len(load_model(folder, device="cpu").predict(["house tree", ""])) == 2
    return results


@pytest.mark.parametrize("config", LAYOUTS)
def test_two_steps(config: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variable, write = LAYOUTS[config]
    files = tmp_path / "files"
    files.mkdir()
    write(files)
    monkeypatch.setenv(variable, str(files))
    check(config, tmp_path, config == "vanilla_large", [])


@pytest.mark.slow  # it decodes 1,748 verses
def test_two_steps_of_the_default(seed: int, tmp_path: Path) -> None:
    try:
        bible_path()
    except DataError as error:
        pytest.skip(str(error))
    check("vanilla_default", tmp_path, True, ["Data.num_samples=300", "Training.validation_sentences=5"])


# ---------------------------------------------------------------------------------------------------------------------
# Images
# ---------------------------------------------------------------------------------------------------------------------

TINY_IMAGES = [
    "Model.embed_dim=16",
    "Model.num_heads=2",
    "Model.ff_dim=16",
    "Model.num_layers=1",
    "Training.max_steps=2",
    "Training.batch_size=4",
    "Training.precision=fp32",
    "Data.num_workers=0",
]


def image(side: int, kind: str) -> bytes:
    image = Image.new("RGB", (side, side + 3))
    image.putdata([tuple(random.choices(range(256), k=3)) for _ in range(image.width * image.height)])
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def openimages(folder: Path, parts: tuple[str, ...] = ("train", "validation", "test")) -> None:
    annotations = folder / "annotations"
    annotations.mkdir()
    classes = ["/m/a", "/m/b", "/m/c"]
    (annotations / "class-descriptions.csv").write_text("".join(f"{name},Thing {name[-1]}\n" for name in classes))
    (annotations / "classes-trainable.txt").write_text("".join(f"{name}\n" for name in classes))
    for part in parts:
        (folder / part).mkdir()
        rows = ["ImageID,Source,LabelName,Confidence"]
        for number in range(12):
            id_ = f"{random.randrange(2**64):016x}"
            (folder / part / f"{id_}.jpg").write_bytes(image(random.randint(20, 40), "JPEG"))
            rows += [f"{id_},verification,{classes[i]},{int(i == number % 3)}" for i in range(number % 3 + 1)]
        (annotations / f"{part}-annotations-human-imagelabels.csv").write_text("\n".join(rows) + "\n")


def miml(folder: Path) -> None:
    openimages(folder, ("train", "validation"))


def cifar10(folder: Path) -> None:
    with zipfile.ZipFile(folder / "train.zip", "w") as archive:
        for class_ in ("airplane", "bird"):
            for number in range(40):
                archive.writestr(f"train/{class_}/{number:04d}.jpg", image(29, "JPEG"))


IMAGE_LAYOUTS: dict[str, tuple[str, Callable[[Path], None], list[str]]] = {
    "vit_miml": ("OPENIMAGES_DIR", miml, []),
    "vit_cifar10": ("CIFAR10_DIR", cifar10, ["Data.validation_fraction=0.4"]),
    "vision_large": ("OPENIMAGES_DIR", openimages, ["Training.warmup_steps=1"]),
}


def check_images(config: str, root: Path, keys: list[str], overrides: list[str]) -> dict[str, object]:
    overrides = [
        *TINY_IMAGES, f"Training.checkpoint_root={root / 'out'}", f"Data.cache_dir={root / 'cache'}", *overrides
    ]  # fmt: skip
    assert train(VIT, str(CONFIGS / f"{config}.yaml"), overrides, None) is not None
    (folder,) = (root / "out" / "vit").glob("*/model")
    results: dict[str, object] = json.loads((folder / "results.json").read_text())
    assert results["task"] == "image_classification" and results["global_step"] == 2
    assert results["cost"]["images_per_second"] > 0  # type: ignore[index]
    for part in ("validation", "baseline", "signatures"):
        assert list(results[part]) == keys  # type: ignore[call-overload]
    (root / "one.png").write_bytes(image(50, "PNG"))
    rows = load_model(folder, device="cpu").predict([root / "one.png", root / "none.png"])
    assert ["error" in row for row in rows] == [False, True]
    for name in ("augmented_inputs", "predictions", "most_wrong"):
        assert Image.open(folder.parent / f"{name}.png").width > 0
    return results


@pytest.mark.parametrize("config", IMAGE_LAYOUTS)
def test_two_steps_with_images(config: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variable, write, overrides = IMAGE_LAYOUTS[config]
    files = tmp_path / "files"
    files.mkdir()
    write(files)
    monkeypatch.setenv(variable, str(files))
    keys = ["map_macro", "map_micro", "map_weighted", "f1", *(["accuracy"] if config == "vit_cifar10" else [])]
    results = check_images(config, tmp_path, keys, overrides)
    assert (results["test"] is not None) == (config == "vision_large")


def test_two_steps_of_the_digits(seed: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    few = "Data.train.digits={train: 60, validation: 40, test: 40}"
    results = check_images("vit_default", tmp_path, ["map_macro", "map_micro", "map_weighted", "f1"], [few])
    assert results["test"] is not None
    shown = capfd.readouterr().out
    for text in ("logistic regression on the pixels: map_macro", "average precision by class", "baseline", "IMAGE..."):
        assert text in shown


def test_every_config_is_here() -> None:
    of_suite = {"bert_default", "bert_pretrain", "bert_classify", "bert_tag"}
    known = {*LAYOUTS, "vanilla_default", *IMAGE_LAYOUTS, "vit_default", *TEXT_LAYOUTS, *ENCODER_FAMILIES, *of_suite}
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == known


def test_several_seeds_and_again(seed: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    multi30k(tmp_path)
    files = {
        part: {"source": f"{tmp_path}/{part}.en.gz", "target": f"{tmp_path}/{part}.fr.gz"} for part in ("train", "val")
    }
    config = tmp_path / "run.yaml"
    content = {"Model": {"architecture": "vanilla"}, "Training": {"seed": 7, "seeds": 2, "max_epochs": 1}}
    config.write_text(json.dumps({**content, "Data": {"train": files["train"], "validation": files["val"]}}))
    overrides = [*TINY, f"Training.checkpoint_root={tmp_path / 'out'}", f"Data.cache_dir={tmp_path / 'cache'}"]
    for resume in (None, "auto"):  # the second time there is nothing to train
        train_config(VANILLA.sections, partial(train, VANILLA), str(config), overrides, resume)
        folders = list((tmp_path / "out" / "vanilla").glob("*/model"))
        assert sorted(json.loads((f / "results.json").read_text())["seed"] for f in folders) == [7, 8]
        (summary_path,) = (tmp_path / "out" / "vanilla").glob("*/model/summary.json")
        summary = json.loads(summary_path.read_text())
        assert {run["run"] for run in summary["runs"]} == {f.parent.name for f in folders}
        assert capfd.readouterr().out.rstrip().endswith(str(summary_path.parent))
    with pytest.raises(UsageError, match="seeds is 2"):
        train_config(VANILLA.sections, partial(train, VANILLA), str(config), overrides, str(folders[0].parent))


# ---------------------------------------------------------------------------------------------------------------------
# Texts to read
# ---------------------------------------------------------------------------------------------------------------------

TINY_BERT = [
    "Model.vocab_size=200",
    "Model.embed_dim=16",
    "Model.num_heads=2",
    "Model.ff_dim=16",
    "Model.num_layers=1",
    "Training.max_steps=2",
    "Training.warmup_steps=1",
    "Training.batch_tokens=256",
    "Training.precision=fp32",
]


def sentiment(folder: Path) -> None:
    for part in ("train", "dev"):
        rows = [f"{random.choice(['positive', 'negative'])}\t{text}" for text in sentences(40)["en"]]
        write_lines(folder / f"{part}.tsv.gz", ["label\ttext", *rows, "positive\tx", "negative\ty"])


def ewt(folder: Path) -> None:
    for part in ("train", "dev"):
        lines = []
        for text in sentences(40)["en"]:
            rest = "\t_" * 4
            words = enumerate(text.split(), start=1)
            lines += ["# a comment", *(f"{n}\t{word}\t{word}\tNOUN\tNN\t_{rest}" for n, word in words), ""]
        write_lines(folder / f"{part}.conllu.gz", lines)


def wnut17(folder: Path) -> None:
    for part in ("train", "dev"):
        lines = ["Paris\tB-location", "\t"]
        for text in sentences(40)["en"]:
            lines += [*(f"{word}\t{'B-person' if word == 'stone' else 'O'}" for word in text.split()), "\t"]
        write_lines(folder / f"{part}.conll.gz", lines)


TEXT_LAYOUTS: dict[str, tuple[str, Callable[[Path], None], list[str], list[str]]] = {
    "bert_sentiment": ("SENTIMENT_DIR", sentiment, ["accuracy", "macro_f1", "mcc"], ["label", "probabilities"]),
    "bert_ewt": ("UD_EWT_DIR", ewt, ["accuracy"], ["words", "tags", "entities"]),
    "bert_wnut17": (
        "WNUT17_DIR", wnut17, ["f1", "precision", "recall", "f1_strict", "accuracy"], ["words", "tags", "entities"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("config", TEXT_LAYOUTS)
def test_two_steps_on_texts(
    config: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    variable, write, keys, columns = TEXT_LAYOUTS[config]
    files = tmp_path / "files"
    files.mkdir()
    write(files)
    monkeypatch.setenv(variable, str(files))
    monkeypatch.delenv("PRETRAINED_DIR", raising=False)
    overrides = [*TINY_BERT, f"Training.checkpoint_root={tmp_path / 'out'}", f"Data.cache_dir={tmp_path / 'cache'}"]
    finished = train(BERT, str(CONFIGS / f"{config}.yaml"), overrides, None)
    assert finished is not None and finished.results["global_step"] == 2 and finished.results["test"] is None
    assert list(finished.results["validation"]) == list(finished.results["baseline"]) == keys
    assert ("the tags are BIO, used as they stand" in capfd.readouterr().err) == (config == "bert_wnut17")
    rows = load_model(finished.model_folder, device="cpu").predict(["house tree", "", "stone " * 300])
    assert [list(row) for row in rows] == [columns] * 3


def documents(folder: Path) -> None:
    for name in "ab":
        write_lines(folder / f"{name}.txt.gz", [line for text in sentences(60)["en"] for line in (text, "")])


# Configs that pre-train a family, each with what its tokenizer's mask is called.
ENCODER_FAMILIES: dict[str, str] = {
    "bert_roberta": "<mask>",
    "bert_distilbert": "[MASK]",
}  # fmt: skip


def tarch(*arguments: str) -> str:
    command = [sys.executable, "-m", "transformer_architectures.cli", *arguments]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("config", ENCODER_FAMILIES)
def test_two_steps_of_every_task_of_a_family(
    config: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pre-training through its config, then classification and tagging from what it left, on the command line."""
    family = config.removeprefix("bert_")
    steps = [line for line in TINY_BERT if not line.startswith("Model.")]
    steps += ["Training.accumulation_steps=1", f"Data.cache_dir={tmp_path / 'cache'}"]
    sizes = [line for line in TINY_BERT if line.startswith("Model.")] + ["Model.vocab_size=300"]
    of_rows = ["Data.max_length=64", "Data.validation_fraction=0.3"]
    monkeypatch.delenv("PRETRAINED_DIR", raising=False)
    for task, name, variable, write in (
        ("masked_language_model", config, "DOCUMENTS_DIR", documents),
        ("text_classification", "bert_sentiment", "SENTIMENT_DIR", sentiment),
        ("token_classification", "bert_wnut17", "WNUT17_DIR", wnut17),
    ):
        files, root = tmp_path / f"files of {task}", tmp_path / task
        files.mkdir()
        write(files)
        monkeypatch.setenv(variable, str(files))
        overrides = [*steps, f"Training.checkpoint_root={root}", f"Model.family={family}"]
        overrides += [*sizes, *of_rows] if task == "masked_language_model" else []
        tarch("train", str(CONFIGS / f"{name}.yaml"), *(word for line in overrides for word in ("--set", line)))
        (folder,) = (root / "bert").glob("*/model")
        assert json.loads((folder / "results.json").read_text())["task"] == task
        assert json.loads((folder / "config.json").read_text())["model"]["family"] == family
        if task == "masked_language_model":
            monkeypatch.setenv("PRETRAINED_DIR", str(folder))
        text = f"house {ENCODER_FAMILIES[config]} river"
        assert len(tarch("predict", str(folder), text, "stone " * 300, "").splitlines()) == 3


def test_the_suite_of_the_default(seed: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Two steps of everything: controls first, then pre-training, then what starts from it; and nothing is trained twice."""
    try:
        bible_path()
    except DataError as error:
        pytest.skip(str(error))
    overrides = [*TINY_BERT, f"Training.checkpoint_root={tmp_path / 'out'}", f"Data.cache_dir={tmp_path / 'cache'}"]
    overrides += ["Data.num_samples=60", "Training.keep_checkpoints=1"]
    for resume in (None, "auto"):
        train_config(BERT.sections, partial(train, BERT), str(CONFIGS / "bert_default.yaml"), overrides, resume)
        folders = list((tmp_path / "out" / "bert").glob("*/model"))
        tasks = [json.loads((folder / "results.json").read_text())["task"] for folder in folders]
        assert sorted(tasks) == ["masked_language_model", *["text_classification"] * 2, *["token_classification"] * 2]
        out = capfd.readouterr().out
        listed = [Path(line.split()[-1]).parent.name.rpartition("_")[0] for line in out.splitlines()[-5:]]
        assert listed == ["classify-control", "tag-control", "pretrain", "classify", "tag"]
