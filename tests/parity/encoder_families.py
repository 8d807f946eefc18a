"""What the parity tests of every family of encoders need: numbers and gradients, maps both ways, and whole folders."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from agreement import assert_gradients_agree, difference, our_gradients, randomize, their_gradients
from safetensors.torch import save_file
from torch import Tensor, nn

from transformer_architectures import load_model
from transformer_architectures.architectures.bert import (
    BertForMaskedLM,
    BertForSeqClassification,
    BertForTokenClassification,
    BertModelConfig,
)
from transformer_architectures.architectures.bert.published import PublishedEncoder
from transformer_architectures.masking import AttentionMask, Segments
from transformer_architectures.pretrained.start import read_pretrained

PARTS = {"masked LM": ["masked_lm_head"], "sequences": ["pooler", "sequence_head"], "tokens": ["token_head"]}
OURS: dict[str, type[nn.Module]] = {
    "masked LM": BertForMaskedLM,
    "sequences": BertForSeqClassification,
    "tokens": BertForTokenClassification,
}


@dataclass(frozen=True)
class FamilyUnderTest:
    """A family of ours and its models of `transformers`, by kind.

    Attributes:
        config: their config of small sizes, by chance, with these settings.
    """

    family: PublishedEncoder
    kinds: Mapping[str, Any]
    config: Any

    def theirs(self, seed: int, kind: str, **settings: Any) -> Any:
        """A model whose every weight matters, also that of padding, which `transformers` excludes from training."""
        model = self.kinds[kind](self.config(seed, **settings)).eval()
        randomize(model)
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                module.padding_idx = None
        return model

    def converted(self, theirs: Any, kind: str) -> Any:
        """The same model as one of ours."""
        published = theirs.config.to_dict() | {"architectures": [self.kinds[kind].__name__]}
        config = self.family.config_to_ours(published, theirs.state_dict())
        assert self.family.parts_of(published["architectures"], theirs.state_dict()) == PARTS[kind]
        model = OURS[kind](config)
        model.load_state_dict(self.family.weight_map(config, PARTS[kind]).to_ours(theirs.state_dict()))
        return model.eval()

    def check_outputs_and_gradients(self, seed: int, kind: str, dtype: torch.dtype, **settings: Any) -> None:
        """Forward and backward, of padded texts and of one that has the last position."""
        theirs = self.theirs(seed, kind, **settings).to(dtype)
        ours = self.converted(theirs, kind).to(dtype)
        length = ours.config.max_positions
        lengths = torch.tensor([length, *torch.randint(1, length, (2,)).tolist()])
        mask = torch.arange(length) < lengths[:, None]
        token_ids = torch.randint(4, ours.config.vocab_size, mask.shape)
        token_ids[~mask] = max(0, ours.config.position_offset - 1)
        output, logits = ours(token_ids, mask.long()), theirs(token_ids, mask.long()).logits
        if kind == "masked LM":
            logits = logits.flatten(0, 1)
        assert difference(output, logits) <= 1
        direction = torch.randn_like(logits)
        for result in (output, logits):
            (result * direction).sum().backward()
        expected = self.family.weight_map(ours.config, PARTS[kind]).to_ours(their_gradients(theirs))
        assert_gradients_agree(our_gradients(ours), expected)

        # Packed as the tasks do, the same: positions begin anew in every text.
        segments = Segments.from_mask(mask)
        with torch.no_grad():
            packed = ours(segments.pack(token_ids), AttentionMask(segments=segments))
        if kind == "sequences":
            assert difference(packed, output.detach()) <= 1
        else:
            rows = output.detach().unflatten(0, (3, length)) if kind == "masked LM" else output.detach()
            assert difference(packed.reshape(-1, packed.shape[-1])[: int(mask.sum())], rows[mask]) <= 1

    def check_both_ways(self, seed: int, kind: str) -> None:
        """Weights and config, there and back."""
        theirs = self.theirs(seed, kind)
        ours = self.converted(theirs, kind)
        weight_map, weights = self.family.weight_map(ours.config, PARTS[kind]), theirs.state_dict()
        assert weight_map.to_ours(weights).keys() == ours.state_dict().keys()
        back = weight_map.to_theirs(ours.state_dict())
        assert back.keys() == weights.keys() and all(torch.equal(back[name], weights[name]) for name in weights)
        published = self.family.config_to_theirs(ours.config, PARTS[kind])
        assert self.family.config_to_ours(published, back) == ours.config
        assert ours.config.family == self.family.name

    def check_their_reading(self, seed: int, kind: str, folder: Path) -> None:
        """`transformers` reads what we write, and computes the same."""
        ours = self.converted(self.theirs(seed, kind), kind)
        (folder / "config.json").write_text(json.dumps(self.family.config_to_theirs(ours.config, PARTS[kind])))
        weights = self.family.weight_map(ours.config, PARTS[kind]).to_theirs(ours.state_dict())
        save_file({name: tensor.clone() for name, tensor in weights.items()}, folder / "model.safetensors")
        theirs, report = self.kinds[kind].from_pretrained(folder, output_loading_info=True)
        assert not report["missing_keys"] and not report["unexpected_keys"]
        token_ids = torch.randint(4, ours.config.vocab_size, (2, 5))
        expected = theirs.eval()(token_ids).logits
        assert difference(ours(token_ids), expected.flatten(0, 1) if kind == "masked LM" else expected) <= 1

    def check_folder(self, seed: int, kind: str, folder: Path, tokenizer: Any, texts: list[str]) -> None:
        """Opened by `load_model`, and gone on with by a training: with their tokenizer, their numbers.

        Args:
            tokenizer: of `transformers`.
        """
        names = {0: "O", 1: "B-x", 2: "I-x"}
        labels = {"num_labels": 3, "id2label": names, "label2id": {name: index for index, name in names.items()}}
        theirs = self.theirs(seed, kind, vocab_size=len(tokenizer) + random.randint(0, 5), **labels)
        theirs.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        loaded: Any = load_model(folder, device="cpu")
        assert loaded.model.config.family == self.family.name and isinstance(loaded.model, OURS[kind])
        start = read_pretrained(BertModelConfig(family=self.family.name, pretrained=str(folder)))
        built = start.build_model(OURS[kind], () if kind == "masked LM" else tuple(names.values()))
        for name, tensor in loaded.model.state_dict().items():
            assert torch.equal(built.state_dict()[name], tensor), name
        for text in texts:
            ids = tokenizer(text, return_tensors="pt").input_ids
            windowed = loaded.windowing(loaded.tokenizer.encode(text), [1] * len(loaded.tokenizer.encode(text)))
            assert windowed.token_ids.tolist() == ids[0].tolist()
            with torch.no_grad():
                logits = theirs(ids).logits[0]
            if kind == "sequences":
                found = list(loaded.predict([text])[0]["probabilities"].values())
                assert torch.allclose(torch.tensor(found), logits.softmax(0), atol=2e-5)
            elif kind == "masked LM":
                self._check_mask(loaded, theirs, tokenizer, text)
            else:
                (row,) = loaded.predict([text])
                assert len(row["tags"]) == len(row["words"]) > 0 and set(row["tags"]) <= set(names.values())

    @staticmethod
    def _check_mask(loaded: Any, theirs: Any, tokenizer: Any, text: str) -> None:
        text = f"{text} {tokenizer.mask_token}."  # shorter than the model's positions
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            logits = theirs(ids).logits[0, (ids[0] == tokenizer.mask_token_id).nonzero()[0, 0]]
        probabilities: Tensor = logits.softmax(0)
        for candidate in loaded.predict([text])[0]["masks"][0]:
            number = tokenizer.convert_tokens_to_ids(candidate["token"])
            assert abs(candidate["probability"] - float(probabilities[number])) < 2e-5
