"""A published folder is opened as one of ours is: by `load_model`, `tarch predict` and `tarch evaluate`."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from minilm import minilm_folder
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_bert import vocabulary, write_bert_folder
from tiny_marian import write_marian_folder
from tiny_vit import timm_config, timm_model, transformers_config, transformers_model, write_timm_folder
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BertTokenizerFast, PreTrainedTokenizerFast, ViTForImageClassification, pipeline

from transformer_architectures import load_model
from transformer_architectures.architectures.bert import BertForMaskedLM, BertModelConfig
from transformer_architectures.architectures.bert.published import read_bert_folder
from transformer_architectures.datasets.text.windowed_text import special_tokens_of
from transformer_architectures.errors import ConfigError, ModelFolderError, UnknownModelError
from transformer_architectures.pretrained.config_map import ConfigMap, Key, modern_config
from transformer_architectures.pretrained.start import read_pretrained
from transformer_architectures.tasks.masked_language_model import MaskFiller, MaskFillerSettings
from transformer_architectures.tokenization import JsonTokenizer, WordPieceTokenizer, read_tokenizer

TEXTS = ["balo mituka.", "rodin ba", "", "xx shlo mi ba lo tu ka"]


def tarch(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "transformer_architectures.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("kind", ["masked LM", "pre-training"])
def test_masks_are_filled_as_by_them(seed: int, tmp_path: Path, kind: str) -> None:
    theirs = write_bert_folder(tmp_path, seed, kind)
    filler = load_model(tmp_path, device="cpu")
    assert filler.task == "masked_language_model"
    (found,) = filler.predict(["balo [MASK] tuka."])
    tokenizer = WordPieceTokenizer.read(tmp_path)
    before, after = tokenizer.encode_batch(["balo", "tuka."])
    ids = torch.tensor([[tokenizer.cls_id, *before, tokenizer.mask_id, *after, tokenizer.sep_id]])
    with torch.no_grad():
        output = theirs(ids)
    logits = output.logits if kind == "masked LM" else output.prediction_logits
    probabilities = logits[0, 1 + len(before)].softmax(0)
    for candidate in found["masks"][0]:
        assert candidate["probability"] == pytest.approx(float(probabilities[tokenizer.tokens.index(candidate["token"])]), abs=2e-5)  # fmt: skip


def test_texts_are_classified_as_by_them(seed: int, tmp_path: Path) -> None:
    names = {0: "worse", 1: "better", 2: "as before"}
    labels = {"num_labels": 3, "id2label": names, "label2id": {name: index for index, name in names.items()}}
    theirs = write_bert_folder(tmp_path, seed, "sequences", **labels)
    ids = WordPieceTokenizer.read(tmp_path)
    rows = load_model(tmp_path, device="cpu").predict(TEXTS)
    for text, row in zip(TEXTS, rows, strict=True):
        with torch.no_grad():
            logits = theirs(torch.tensor([[ids.cls_id, *ids.encode(text), ids.sep_id]])).logits[0]
        assert list(row["probabilities"]) == list(names.values())
        assert np.allclose(list(row["probabilities"].values()), logits.softmax(0), atol=2e-5)
    change_json(tmp_path / "config.json", problem_type="multi_label_classification")
    assert "labels" in load_model(tmp_path, device="cpu").predict(TEXTS)[0]

    (tmp_path / "rows.tsv").write_text("text\tlabel\n" + "".join(f"{text or 'ba'}\tbetter\n" for text in TEXTS))
    change_json(tmp_path / "config.json", problem_type=None)
    found = tarch("evaluate", str(tmp_path), "--data", str(tmp_path / "rows.tsv"), "--json", "--device", "cpu")
    assert found.returncode == 0, found.stderr
    assert 0 <= json.loads(found.stdout)["accuracy"] <= 1


def test_words_are_tagged_from_the_command_line(seed: int, tmp_path: Path) -> None:
    names = {0: "O", 1: "B-PER", 2: "I-PER"}
    write_bert_folder(tmp_path, seed, "tokens", num_labels=3, id2label=names, label2id={n: i for i, n in names.items()})
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    found = tarch("predict", str(tmp_path), "balo mi tuka", "--device", "cpu")
    assert found.returncode == 0, found.stderr
    row = json.loads(found.stdout)
    assert row["words"] == ["balo", "mi", "tuka"] and set(row["tags"]) <= set(names.values())
    assert load_model(tmp_path, device="cpu").settings.are_entities
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


@pytest.mark.parametrize("kind", ["timm", "transformers"])
def test_images_are_classified_as_by_them(seed: int, tmp_path: Path, kind: str) -> None:
    classes = ["zebra", "crane", "ant", "crane"]  # as ImageNet's: not in order, and one name twice
    size = 4 * random.randint(2, 4)
    if kind == "timm":
        theirs: Any = timm_model(seed, num_classes=4, in_chans=3, img_size=size)
        write_timm_folder(tmp_path, theirs)
        published = timm_config(tmp_path)
        published["pretrained_cfg"] |= {"mean": [0.1, 0.2, 0.3], "std": [0.3, 0.2, 0.4], "crop_pct": 1.0}
        (tmp_path / "config.json").write_text(json.dumps({**published, "label_names": classes}))
    else:
        config = transformers_config(seed, num_labels=4, num_channels=3, image_size=size)
        config.id2label = dict(enumerate(classes))
        theirs = transformers_model(config, ViTForImageClassification)
        theirs.save_pretrained(tmp_path)
        colors = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.3, 0.2, 0.4]}
        (tmp_path / "preprocessor_config.json").write_text(
            json.dumps({**colors, "size": {"height": size, "width": size}})
        )
    image = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    (row,) = load_model(tmp_path, device="cpu").predict([Image.fromarray(image)])
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(row).view(3, 1, 1) for row in ([0.1, 0.2, 0.3], [0.3, 0.2, 0.4]))
    with torch.no_grad():
        output = theirs((pixels - mean) / std)
    logits = output if kind == "timm" else output.logits
    expected = dict(zip(["zebra", "crane (1)", "ant", "crane (3)"], logits[0].softmax(0).tolist(), strict=True))
    assert row["labels"] == pytest.approx(expected, abs=2e-5)
    assert row["predicted"] == [max(expected, key=expected.__getitem__)]


def test_texts_are_translated_as_by_them(seed: int, tmp_path: Path) -> None:
    theirs: Any = write_marian_folder(tmp_path, seed)
    change_json(tmp_path / "config.json", num_beams=2)
    (tmp_path / "generation_config.json").unlink(missing_ok=True)
    translator: Any = load_model(tmp_path, device="cpu")
    assert translator.generation.num_beams == 2
    source = translator.tokenizer.encode_batch(["ba lo mi."])[0]
    (found,) = translator.search([source], 1, 1).to_lists()
    with torch.no_grad():
        limit = translator.generation.limit(len(source) + 1)
        ids = torch.tensor([[*source, translator.model.config.eos_id]])
        expected = theirs.generate(ids, num_beams=1, do_sample=False, max_new_tokens=limit, bad_words_ids=[[theirs.config.pad_token_id]])  # fmt: skip
    theirs_found = expected[0, 1:-1].tolist()  # the last one is the end, which is forced where the room ends
    assert len(theirs_found) >= min(len(found[0]), limit - 1)
    assert found[0][: len(theirs_found)] == theirs_found[: len(found[0])]


def test_weights_in_several_files(seed: int, tmp_path: Path) -> None:
    write_bert_folder(tmp_path, seed, "masked LM")
    whole = read_bert_folder(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = sorted(weights)
    places = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(names)}
    for file in set(places.values()):
        save_file({name: weights[name] for name in names if places[name] == file}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    found = read_bert_folder(tmp_path)
    assert found.weights.keys() == whole.weights.keys()
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in whole.weights.items())
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelFolderError, match="model-00002-of-00002.safetensors is missing"):
        read_bert_folder(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "../a.safetensors"}}))
    with pytest.raises(ModelFolderError, match="a file of the folder"):
        read_bert_folder(tmp_path)


# ==================================================================== what is refused
def test_an_unknown_architecture_is_answered_with_the_known_ones(seed: int, tmp_path: Path) -> None:
    write_bert_folder(tmp_path, seed, "masked LM")
    change_json(tmp_path / "config.json", model_type="crystal")
    before = sorted(tmp_path.iterdir())
    for command in (["predict", str(tmp_path), "ba"], ["evaluate", str(tmp_path)]):
        found = tarch(*command)
        assert found.returncode == 2 and found.stderr.count("\n") == 1 and found.stdout == ""
        assert "model_type crystal" in found.stderr and "BERT" in found.stderr and "Marian" in found.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_a_key_that_may_change_the_computation_is_refused_by_name(seed: int, tmp_path: Path) -> None:
    write_bert_folder(tmp_path, seed, "masked LM")
    for key, value in (("logit_softcap", 30.0), ("rope_theta", 10000.0), ("quantization_config", {"bits": 4})):
        config = (tmp_path / "config.json").read_text()
        change_json(tmp_path / "config.json", **{key: value})
        with pytest.raises(UnknownModelError, match="rope_parameters" if key == "rope_theta" else key) as error:
            load_model(tmp_path, device="cpu")
        assert error.value.exit_code == 2 and "\n" not in str(error.value)
        (tmp_path / "config.json").write_text(config)
    # Null says nothing, and neither do a type of numbers (of either version) or how texts were generated.
    change_json(tmp_path / "config.json", logit_softcap=None, torch_dtype="float32", dtype="float32", top_k=50)
    load_model(tmp_path, device="cpu")


def test_both_forms_of_a_config() -> None:
    older = {"torch_dtype": "bfloat16", "rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}
    newer = {"dtype": "bfloat16", "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}
    assert modern_config(older) == modern_config(newer) == newer
    assert modern_config({"rope_theta": 1e4}) == {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    with pytest.raises(UnknownModelError, match="nothing is known of the key rope_parameters"):
        ConfigMap("toy", [Key("embed_dim", "hidden_size")]).to_ours(BertModelConfig, {"hidden_size": 8, **older})


def test_an_encoder_without_a_head_says_what_it_is_good_for() -> None:
    with pytest.raises(UnknownModelError, match="without a head for a task .*Model.pretrained can start from it"):
        load_model(minilm_folder(), device="cpu")


def test_a_start_of_another_kind_is_a_config_error(seed: int, tmp_path: Path) -> None:
    write_marian_folder(tmp_path, seed)
    with pytest.raises(ConfigError, match="neither a model folder nor a published BERT"):
        read_pretrained(BertModelConfig(pretrained=str(tmp_path)))


# ==================================================================== any tokenizer with any family
def byte_bpe(**roles: str) -> PreTrainedTokenizerFast:
    """Special tokens of its own, in an order of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<hole>", "<begin>", "<stop>", "<nothing>", "<what>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    tokenizer.train_from_iterator(["balo mi tuka rodin ba lo"] * 20, trainer=trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<begin> <begin> $A <stop>", special_tokens=[("<begin>", 1), ("<stop>", 2)]
    )
    named = {"mask_token": "<hole>", "pad_token": "<nothing>", "unk_token": "<what>", "eos_token": "<stop>", "bos_token": "<begin>"}  # fmt: skip
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


def test_special_tokens_come_from_the_folder(seed: int, tmp_path: Path) -> None:
    theirs = write_bert_folder(tmp_path, seed, "masked LM")
    (tmp_path / "vocab.txt").unlink()
    tokenizer = byte_bpe()
    theirs.resize_token_embeddings(len(tokenizer))
    theirs.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ours: Any = read_tokenizer(tmp_path)
    assert isinstance(ours, JsonTokenizer)
    assert special_tokens_of(ours) == ((1, 1), (2,)) and ours.mask_id == 0 and ours.pad_id == 3
    for text in TEXTS:
        assert [1, 1, *ours.encode(text), 2] == tokenizer(text).input_ids
    assert ours.encode("<begin>") != [1] and ours.decode(ours.encode("balo <begin>")) == "balo <begin>"

    filler = load_model(tmp_path, device="cpu")
    expected = pipeline("fill-mask", model=theirs, tokenizer=tokenizer)("balo <hole> tuka", top_k=len(tokenizer))
    allowed = {row["token"]: row["score"] for row in expected}
    for candidate in filler.predict(["balo <hole> tuka"])[0]["masks"][0]:
        token = ours.tokens.index(candidate["token"])
        assert candidate["probability"] == pytest.approx(allowed[token], abs=2e-5)


def test_a_tokenizer_of_ones_own_survives_a_model_folder(seed: int, tmp_path: Path) -> None:
    tokenizer = byte_bpe()
    (tmp_path / "given").mkdir()
    tokenizer.save_pretrained(tmp_path / "given")
    ours: Any = read_tokenizer(tmp_path / "given")
    model = BertForMaskedLM(BertModelConfig(vocab_size=ours.vocab_size, embed_dim=8, num_heads=2, max_positions=16))
    filler = MaskFiller(model.eval(), ours, MaskFillerSettings(max_length=16, stride=7))
    filler.export(tmp_path / "model", {})
    loaded: Any = load_model(tmp_path / "model", device="cpu")
    assert loaded.tokenizer.digest() == ours.digest() and special_tokens_of(loaded.tokenizer) == special_tokens_of(ours)
    assert loaded.predict(["balo <hole>"]) == filler.predict(["balo <hole>"])
    start = read_pretrained(BertModelConfig(pretrained=str(tmp_path / "model")))
    assert start.tokenizer.digest() == ours.digest()


def test_a_cased_wordpiece_with_tokens_of_its_own(seed: int, tmp_path: Path) -> None:
    """A file that `WordPieceTokenizer` refuses: a token that is found in text."""
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary()))
    theirs = BertTokenizerFast(str(tmp_path / "vocab.txt"), do_lower_case=False)
    theirs.add_tokens(["ROUTER"])
    theirs.save_pretrained(tmp_path)
    ours: Any = read_tokenizer(tmp_path)
    assert isinstance(ours, JsonTokenizer)
    for text in ("balo ROUTER ba", "mi ROUTER."):
        assert ours.encode(text) == theirs(text, add_special_tokens=False).input_ids
    ids = [word.ids for word in ours.encode_words([["balo", "mi", "\u200b"]])][0]
    assert len(ids) >= 3 and special_tokens_of(ours) == ((theirs.cls_token_id,), (theirs.sep_token_id,))


def test_a_damaged_tokenizer_is_refused_in_one_line(seed: int, tmp_path: Path) -> None:
    byte_bpe().save_pretrained(tmp_path)
    text = (tmp_path / "tokenizer.json").read_text()
    content = json.loads(text)
    for broken in (
        text[:-20],
        "[]",
        json.dumps({**content, "model": {"type": "Magic", "vocab": {}}}),
        json.dumps({**content, "decoder": {"type": "Magic"}}),
        json.dumps({**content, "model": {**content["model"], "vocab": {"a": 2**40}}}),
    ):
        (tmp_path / "tokenizer.json").write_text(broken)
        with pytest.raises(ModelFolderError, match="tokenizer.json") as error:
            read_tokenizer(tmp_path)
        assert "\n" not in str(error.value)
    (tmp_path / "tokenizer.json").write_text(text)
    change_json(tmp_path / "tokenizer_config.json", mask_token="<mask>")
    with pytest.raises(ModelFolderError, match="no token <mask>"):
        read_tokenizer(tmp_path)
