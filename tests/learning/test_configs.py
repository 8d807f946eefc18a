"""Every config of the translator trains two steps, through its command, on made-up files in the layout that it expects."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from transformer_architectures import load_model
from transformer_architectures.architectures.vanilla.training import train
from transformer_architectures.datasets.bible import bible_path
from transformer_architectures.errors import DataError

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
    # What lies beside it, and must neither be trained on nor be taken for the test text.
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
    assert train(str(CONFIGS / f"{config}.yaml"), overrides, None) == 0
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


def test_every_config_of_the_translator_is_here() -> None:
    assert {path.stem for path in CONFIGS.glob("vanilla_*.yaml")} == {*LAYOUTS, "vanilla_default"}
