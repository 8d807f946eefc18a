"""Everything that reads what somebody else wrote, each with small intact examples of it."""

import gzip
import hashlib
import io
import json
import re
import shutil
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from PIL import Image
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from transformer_architectures.architectures.bert.training import BERT
from transformer_architectures.architectures.vanilla.training import VANILLA
from transformer_architectures.architectures.vit.published import read_vit_folder
from transformer_architectures.architectures.vit.training import VIT
from transformer_architectures.config import load_sections
from transformer_architectures.datasets.images.image_archives import index_archives
from transformer_architectures.datasets.images.image_decoding import RejectedImage, decode_image_bytes
from transformer_architectures.datasets.images.label_rows import read_label_rows
from transformer_architectures.datasets.images.openimages import read_class_descriptions
from transformer_architectures.datasets.rejections import RejectionLog
from transformer_architectures.datasets.text.documents import DocumentsConfig, read_documents
from transformer_architectures.datasets.text.labeled_text import LabeledTextConfig, read_labeled_text
from transformer_architectures.datasets.text.parallel_text import ParallelTextConfig, read_pairs
from transformer_architectures.datasets.text.tagged_text import TaggedTextConfig, read_tagged_text
from transformer_architectures.pretrained.model_folder import open_model_folder, seal
from transformer_architectures.tokenization import MarianTokenizer, SubwordTokenizer, WordPieceTokenizer
from transformer_architectures.training.checkpointing.checked_files import digest_path
from transformer_architectures.training.checkpointing.checkpoints import (
    random_state,
    restore,
    restoring,
    set_random_state,
    write_checked,
)
from transformer_architectures.training.checkpointing.sharded_checkpoints import save_shards
from transformer_architectures.training.config import TrainingConfig
from transformer_architectures.training.distributed.ranks import Ranks
from transformer_architectures.training.runs.run_folder import find_start
from transformer_architectures.training.state import RunState
from transformer_architectures.training.tracking.spool import Spool
from transformer_architectures.utils.files import sha256_of

REPOSITORY = Path(__file__).parents[2]
GOLDEN = REPOSITORY / "tests" / "golden" / "0.1.0"
Files = dict[str, bytes]


@dataclass(frozen=True)
class Loader:
    """What is tried.

    Attributes:
        examples: intact inputs, each as files by name; the loader takes them all.
        load: reads a folder with such files.
        resealed: what somebody who wants his files to pass every check does to them first.
        weight: its share of the mutations; what takes long has less.
    """

    examples: Callable[[], list[Files]]
    load: Callable[[Path], object]
    resealed: Callable[[Path], object] | None = None
    weight: float = 1.0


def files_of(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def consume(rows: Iterable[Any]) -> int:
    return sum(1 for _ in rows)


# -------------------------------------------------------------------- configs
def config_examples() -> list[Files]:
    return [{"config.yaml": text.encode()} for text in (*map(config_text, CONFIGS), WITH_EVERYTHING)]


def config_text(name: str) -> str:
    """One of the library's own, without variables of the environment."""
    text = (REPOSITORY / "configs" / f"{name}.yaml").read_text(encoding="utf-8")
    return re.sub(r"\$\{[A-Z_0-9]+\}", "/data", text)


def load_config_file(folder: Path) -> None:
    """By the architecture that it names."""
    text = (folder / "config.yaml").read_bytes()
    architecture = next((ours for name, ours in ARCHITECTURES.items() if f"architecture: {name}".encode() in text), VIT)
    load_sections(folder / "config.yaml", architecture.sections)


ARCHITECTURES = {"vanilla": VANILLA, "vit": VIT, "bert": BERT}
CONFIGS = ("vanilla_tatoeba", "vanilla_multi30k", "vit_default", "vit_miml", "bert_tag", "bert_pretrain")
WITH_EVERYTHING = """
Model: {architecture: vanilla, dropout: 1e-1, embed_dim: 0x10}
Training: {<<: &base {seed: 1, max_steps: 3}, adam_betas: [0.9, 0.98], run_name: "${NAME:-x}", clip_norm: null, precision: fp32}
Data: {train: {file: "a b.tsv", source_column: !!int 0, target_column: 1}, num_workers: 0}
"""


# -------------------------------------------------------------------- checkpoints
def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1))


def checkpoint_examples() -> list[Files]:
    model = small_model()
    optimizer = AdamW(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    extra = {"state": RunState(global_step=1).as_dict(), "data": "x", "random_states": [random_state()], "ema": None}
    content = {"format": 1, "epoch": 0, "global_step": 1, "run_id": "0" * 32, "extra": extra, "scheduler": None}
    path = Path("/tmp") / f"example_{id(content)}.pt"
    write_checked(path, {**content, "model": model.state_dict(), "optimizer": optimizer.state_dict()})
    try:
        return [{"step_1.pt": path.read_bytes(), "step_1.pt.sha256": digest_path(path).read_bytes()}]
    finally:
        path.unlink()
        digest_path(path).unlink()


SHARE, SHARES = "share.safetensors", "step_1-0123abcd.shares"


def shares_examples() -> list[Files]:
    """A checkpoint of shares, its only share beside the index."""
    model = small_model()
    optimizer = AdamW(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    scheduler, ema = LambdaLR(optimizer, lambda step: 1.0), AveragedModel(model)
    extra = {"state": RunState(global_step=1).as_dict(), "data": "x", "random_states": [random_state()]}
    place = {"epoch": 0, "global_step": 1, "checkpoint_root": "", "model_name": "", "filename": ""}
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "step_1.json"
        where = patch(
            "transformer_architectures.training.checkpointing.sharded_checkpoints.path_in_run",
            lambda *_: (path, "0" * 32),
        )
        with where, warnings.catch_warnings(action="ignore"):
            save_shards(model, optimizer, scheduler, ema, Ranks(), extra, **place)  # type: ignore[arg-type]
        (shares,) = path.parent.glob("*.shares")
        (share,) = shares.iterdir()
        share.rename(path.with_name(SHARE))
        shares.rmdir()
        reseal_shares(path.parent)
        return [files_of(path.parent)]


def reseal_shares(folder: Path) -> None:
    path = folder / "step_1.json"
    with suppress(ValueError, TypeError, KeyError, OSError, RecursionError, AttributeError):
        index = json.loads(path.read_bytes())
        entry = {"size": (folder / SHARE).stat().st_size, "sha256": sha256_of(folder / SHARE)}
        index["shares"] |= {"folder": SHARES, "files": {SHARE: entry}}
        path.write_text(json.dumps(index))
    if path.exists():
        digest_path(path).write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")


def load_run_of_shares(folder: Path) -> None:
    shares = folder / "run_000000" / SHARES
    shares.mkdir(parents=True)
    if (folder / SHARE).exists():
        (folder / SHARE).rename(shares / SHARE)
    load_run(folder, "step_1.json")


def load_run(folder: Path, name: str = "step_1.pt") -> None:
    run = folder / "run_000000"
    run.mkdir(exist_ok=True)
    for path in list(folder.glob("step_*")):
        path.rename(run / path.name)
    start = find_start(str(run / name), folder, "vanilla", "")
    assert start.folder is not None and start.checkpoint is not None
    start.folder.release()
    model = small_model()
    restore(start.checkpoint, run, model, AdamW(model.parameters()))
    before = random_state()
    with restoring(run):
        state = RunState.from_dict(start.checkpoint["extra"]["state"])
        state.is_done(TrainingConfig(max_steps=3))
        set_random_state(start.checkpoint["extra"]["random_states"][0])
    set_random_state(before)


def reseal_checkpoint(folder: Path) -> None:
    path = folder / "step_1.pt"
    if path.exists():
        digest_path(path).write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")


# -------------------------------------------------------------------- model folders
def model_examples(task: str) -> list[Files]:
    return [files_of(GOLDEN / task)]


def load_model_folder(folder: Path) -> None:
    open_model_folder(folder).load("cpu")


# -------------------------------------------------------------------- published folders
def published(config: dict[str, Any], weights: dict[str, torch.Tensor], **files: bytes) -> Files:
    from safetensors.torch import save

    weights = {name: tensor.detach().clone().contiguous() for name, tensor in weights.items()}
    return {"config.json": json.dumps(config).encode(), "model.safetensors": save(weights), **files}


def published_vit() -> list[Files]:
    from transformer_architectures.architectures.vit.published import config_to_transformers, transformers_weight_map

    opened = open_model_folder(GOLDEN / "image_classification").load("cpu")
    config = opened.model.config
    return [
        published(config_to_transformers(config), transformers_weight_map(config).to_theirs(opened.model.state_dict()))
    ]


# -------------------------------------------------------------------- images
def image_examples() -> list[Files]:
    found = []
    for format, mode in (("PNG", "RGB"), ("PNG", "P"), ("PNG", "I;16"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("GIF", "P"),
                         ("WEBP", "RGB"), ("BMP", "RGB"), ("TIFF", "RGB"), ("TIFF", "L")):  # fmt: skip
        image = (
            Image.linear_gradient("L").resize((9, 7)).convert("RGB" if mode == "P" else "L" if mode == "I;16" else mode)
        )
        image = image.quantize(8) if mode == "P" else image.convert("I;16") if mode == "I;16" else image
        buffer = io.BytesIO()
        image.save(buffer, format)
        found.append({"image": buffer.getvalue()})
    return found


def load_image(folder: Path) -> None:
    decode_image_bytes((folder / "image").read_bytes())


def archive_examples(kind: str) -> list[Files]:
    image = image_examples()[0]["image"]
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("a.png", "b/c.png"):
                archive.writestr(name, image)
    else:
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name in ("a.png", "b/" + "c" * 120 + ".png"):
                entry = tarfile.TarInfo(name)
                entry.size = len(image)
                tar.addfile(entry, io.BytesIO(image))
            link = tarfile.TarInfo("link.png")
            link.type, link.linkname = tarfile.SYMTYPE, "a.png"
            tar.addfile(link)
    return [{f"images.{kind}": buffer.getvalue()}]


def load_archive(kind: str, folder: Path) -> None:
    members = index_archives([folder / f"images.{kind}"], lambda name: name.endswith(".png"))
    for place in range(len(members.paths)):
        try:
            members.read(place)
        except RejectedImage:
            pass


# -------------------------------------------------------------------- text with labels
TSV = 'text\tlabel\nthe house\tgood\n"under trees\tbad\nñandú 日本\tgood\n'
CONLL = "-DOCSTART- O\n\nthe O\nriver B-LOC\nSeine I-LOC\n\nunder O\nParis I-LOC\n"
CONLLU = "# text = Go home\n1-2\tGohome\t_\t_\t_\t_\t_\t_\t_\t_\n1\tGo\tgo\tVERB\t_\t_\t0\troot\t_\t_\n2\thome\thome\tADV\t_\t_\t1\tadv\t_\t_\n\n"
DOCUMENTS = "The house stands. By a river!\nUnder trees.\n\nNobody knows? Long ago.\n"
LABELS = "ImageID,Source,LabelName,Confidence\n000026e7ee790996,verification,/m/04hgtk,0\n000062a39995e348,crowd,/m/01g317,1\n"
CLASSES = 'LabelName,DisplayName\n/m/04hgtk,Human head\n/m/01g317,"Person, or so"\n'


def text_examples(name: str, *texts: str) -> list[Files]:
    plain = [{name: text.encode()} for text in texts]
    return [*plain, {f"{name}.gz": gzip.compress(texts[0].encode(), mtime=0)}]


def only_file(folder: Path) -> str:
    (path,) = folder.iterdir()
    return str(path)


def load_table(folder: Path) -> None:
    config = LabeledTextConfig(file=only_file(folder), multi_label=True)
    consume(read_labeled_text(config, "train"))


def load_tags(folder: Path) -> None:
    read_tagged_text(TaggedTextConfig(file=only_file(folder)), "train")


def load_documents(folder: Path) -> None:
    for document in ("block", "line"):
        consume(read_documents(DocumentsConfig(files=[only_file(folder)], document=document), "train"))


def load_pairs(folder: Path) -> None:
    columns: dict[str, Any] = {"source_column": "en", "target_column": "fr"} if ".json" in only_file(folder) else {}
    consume(read_pairs(ParallelTextConfig(file=only_file(folder), **columns), "train", "en", "fr"))


def load_label_rows(folder: Path) -> None:
    path = Path(only_file(folder))
    consume(read_label_rows(path, lambda cell: len(cell), lambda cell: int(cell == "1"), RejectionLog()))


# -------------------------------------------------------------------- tokenizers
def word_piece_examples() -> list[Files]:
    saved = {
        name: content
        for name, content in files_of(GOLDEN / "text_classification").items()
        if "token" in name or "vocab" in name
    }
    tokens = saved["vocab.txt"].decode().split("\n")[:-1]
    whole = {
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "lowercase": True, "strip_accents": None, "handle_chinese_chars": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "added_tokens": [{"id": 0, "content": tokens[0], "special": True}],
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": {token: id for id, token in enumerate(tokens)}},
    }  # fmt: skip
    return [saved, {"tokenizer.json": json.dumps(whole).encode(), "added_tokens.json": b"{}", "tokenizer_config.json": saved["tokenizer_config.json"]}]  # fmt: skip


def load_word_pieces(folder: Path) -> None:
    WordPieceTokenizer.read(folder).encode("the house [MASK] ñ 日本")


def load_subwords(folder: Path) -> None:
    tokenizer = SubwordTokenizer.load(folder)
    tokenizer.decode(tokenizer.encode("the house ñ 日本"))


def marian_examples() -> list[Files]:
    import sentencepiece

    model = io.BytesIO()
    text = ["the house stands by a river", "under old trees nobody knows", "who built it so long ago"] * 4
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=model, vocab_size=30, minloglevel=9
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    names = ["<unk>", "</s>", ">>fra<<", *(pieces.id_to_piece(id) for id in range(3, 30)), "<pad>"]
    vocabulary = json.dumps({name: id for id, name in enumerate(names)}).encode()
    return [{"source.spm": model.getvalue(), "target.spm": model.getvalue(), "vocab.json": vocabulary}]


def load_marian_tokenizer(folder: Path) -> None:
    tokenizer = MarianTokenizer.load(folder)
    tokenizer.decode_batch(tokenizer.encode_batch([">>fra<< the house ñ 日本"]))


# -------------------------------------------------------------------- the journal of a run
def journal_examples() -> list[Files]:
    lines = [
        {"params": {"a": "1"}},
        {"metrics": {"loss": 1.5}, "step": 1, "time": 2},
        {"artifact": "a", "file": "files/1/a"},
    ]
    return [{"spool.jsonl": "".join(json.dumps(line) + "\n" for line in lines).encode()}]


def load_journal(folder: Path) -> None:
    consume(Spool(folder).read())


def pairs_examples() -> list[Files]:
    rows = "".join(json.dumps({"en": text, "fr": text}) + "\n" for text in ("the house", "ñandú"))
    return [*text_examples("pairs.tsv", "the house\tla maison\nunder\tsous\n"), *text_examples("pairs.jsonl", rows)]


LOADERS: dict[str, Loader] = {
    "config": Loader(config_examples, load_config_file, weight=0.7),
    "checkpoint": Loader(checkpoint_examples, load_run, reseal_checkpoint, weight=0.7),
    "checkpoint of shares": Loader(shares_examples, load_run_of_shares, reseal_shares, weight=0.5),
    **{
        f"model folder: {path.name}": Loader(partial(model_examples, path.name), load_model_folder, seal, weight=0.3)
        for path in sorted(GOLDEN.iterdir())
        if (path / "manifest.json").exists()
    },
    "published ViT": Loader(published_vit, read_vit_folder, weight=0.5),
    "image": Loader(image_examples, load_image, weight=2),
    "zip": Loader(partial(archive_examples, "zip"), partial(load_archive, "zip")),
    "tar": Loader(partial(archive_examples, "tar"), partial(load_archive, "tar")),
    "TSV": Loader(partial(text_examples, "a.tsv", TSV), load_table),
    "CSV": Loader(partial(text_examples, "a.csv", TSV.replace("\t", ",")), load_table),
    "JSON lines": Loader(partial(text_examples, "a.jsonl", '{"text": "a b", "label": ["x", 3]}\n'), load_table),
    "CoNLL": Loader(partial(text_examples, "a.conll", CONLL), load_tags),
    "CoNLL-U": Loader(partial(text_examples, "a.conllu", CONLLU), load_tags),
    "documents": Loader(partial(text_examples, "a.txt", DOCUMENTS), load_documents),
    "parallel text": Loader(pairs_examples, load_pairs),
    "label CSV": Loader(partial(text_examples, "a.csv", LABELS), load_label_rows),
    "class names": Loader(partial(text_examples, "a.csv", CLASSES), lambda f: read_class_descriptions(Path(only_file(f)))),
    "WordPiece": Loader(word_piece_examples, load_word_pieces),
    "sub-words": Loader(lambda: [{"tokenizer.json": (GOLDEN / "translation" / "tokenizer.json").read_bytes()}], load_subwords),
    "SentencePiece": Loader(marian_examples, load_marian_tokenizer, weight=0.5),
    "journal": Loader(journal_examples, load_journal),
}  # fmt: skip


def write(folder: Path, files: Files) -> None:
    """The files of an example, alone in their folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
