"""Beam search on the same weights: ours, `transformers` generate and CTranslate2, all in true fp32, in turn.

    .bench/bin/python -m benchmarks.decoding_speed [--model MODEL_DIR] [--sentences 1000] [--sizes "4+4 x 128,6+6 x 512"]

Models of random weights have their end token suppressed, so that all systems give outputs of one length (``--length``); with
``--model`` a trained model of this library is decoded to its own ends, and the share of equal outputs is reported.
To `transformers` our pre-norm model is a Pegasus; CTranslate2 converts that one.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ctranslate2
import torch
from ctranslate2.converters.transformers import BartLoader
from torch import Tensor
from transformers import PegasusConfig, PegasusForConditionalGeneration

from benchmarks.environment import environment
from benchmarks.training_systems import EOS, PAD, Size
from transformer_architectures import load_model
from transformer_architectures.architectures.vanilla import (
    Transformer,
    TransformerDataModule,
    Translator,
    VanillaDataConfig,
    VanillaModelConfig,
)
from transformer_architectures.architectures.vanilla.published import CROSS_ATTENTION, EMBEDDING, LAYER
from transformer_architectures.generation import beam_search
from transformer_architectures.pretrained.weight_map import Rename, WeightMap, for_each

BEAMS = 5
SIZES = (Size("4+4 x 128", 4, 128, 4, 256), Size("6+6 x 512", 6, 512, 8, 2048))
Outputs = list[list[int]]


def random_model(size: Size) -> Transformer:
    return Transformer(
        VanillaModelConfig(
            vocab_size=size.vocab, embed_dim=size.dim, num_heads=size.heads, ff_dim=size.ff_dim, num_layers=size.layers
        )
    ).eval()


def as_pegasus(model: Transformer) -> PegasusForConditionalGeneration:
    """The same weights in `transformers`."""
    c = model.config
    pegasus = PegasusForConditionalGeneration(
        PegasusConfig(
            vocab_size=c.vocab_size,
            d_model=c.embed_dim,
            encoder_layers=c.encoder_layers,
            decoder_layers=c.decoder_layers,
            encoder_attention_heads=c.num_heads,
            decoder_attention_heads=c.num_heads,
            encoder_ffn_dim=c.ff_dim,
            decoder_ffn_dim=c.ff_dim,
            activation_function="relu",
            scale_embedding=True,
            max_position_embeddings=c.max_length,
            pad_token_id=c.pad_id,
            eos_token_id=c.eos_id,
            bos_token_id=c.bos_id,
            decoder_start_token_id=c.start_id,
            forced_eos_token_id=None,
        )
    ).eval()
    kinds = ("weight", "bias")
    names = WeightMap(
        [
            EMBEDDING,
            *for_each(LAYER, stack=["encoder"], i=range(c.encoder_layers), kind=kinds),
            *for_each(LAYER + CROSS_ATTENTION, stack=["decoder"], i=range(c.decoder_layers), kind=kinds),
            *for_each(
                [Rename("{stack}.final_norm.{kind}", "model.{stack}.layer_norm.{kind}")],
                stack=["encoder", "decoder"],
                kind=kinds,
            ),
        ]
    )
    weights = names.to_theirs(model.state_dict())
    positions = model.source_positions(c.max_length)
    weights |= {f"model.{stack}.embed_positions.weight": positions for stack in ("encoder", "decoder")}
    weights["final_logits_bias"] = torch.zeros(1, c.vocab_size)
    pegasus.load_state_dict(weights)
    return pegasus


def as_ctranslate2(pegasus: PegasusForConditionalGeneration, folder: Path) -> ctranslate2.Translator:
    """The same weights in CTranslate2."""
    config = pegasus.config
    config.normalize_before, config.normalize_embedding = True, False
    spec = BartLoader().get_model_spec(pegasus)
    tokens = [str(number) for number in range(config.vocab_size)]
    tokens[:4] = ["<pad>", "<s>", "</s>", "<unk>"]
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    spec.config.bos_token, spec.config.eos_token, spec.config.unk_token = "<s>", "</s>", "<unk>"
    spec.config.decoder_start_token = tokens[config.decoder_start_token_id]
    spec.validate()
    spec.optimize()
    folder.mkdir()
    spec.save(str(folder))
    return ctranslate2.Translator(str(folder), device="cpu", compute_type="float32", inter_threads=1, intra_threads=2)


def source_batches(vocab_size: int, sentences: int, batch_size: int, sources: list[list[int]] | None) -> list[Outputs]:
    """Real sentences, sorted by length; the end token is added by each system's caller."""
    if sources is None:
        config = VanillaDataConfig.model_validate({"train": {"bible": {"source": "web", "target": "darby"}}})
        data = TransformerDataModule(config, vocab_size, seed=1, batch_tokens=4096)
        data.setup()
        sources = [data.dataset("test")[index].source.tolist() for index in range(len(data.dataset("test")))]
    chosen = sorted(sources[:sentences], key=len)
    return [chosen[start : start + batch_size] for start in range(0, len(chosen), batch_size)]


def padded(batch: Outputs) -> tuple[Tensor, Tensor]:
    rows = [torch.tensor([*row, EOS]) for row in batch]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
    return ids, torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]


def systems(model: Transformer, fixed_length: int | None, folder: Path) -> dict[str, Callable[[Outputs], Outputs]]:
    """Each gives the best output of five beams, length penalty 1, for a batch of sources."""
    pegasus = as_pegasus(model)
    translator = as_ctranslate2(pegasus, folder)
    never = [model.config.pad_id, model.config.bos_id]
    limits = {"factor": 2, "offset": 10}

    def limit(longest: int) -> int:
        return fixed_length or limits["factor"] * longest + limits["offset"]

    @torch.inference_mode()
    def ours(batch: Outputs) -> Outputs:
        ids, mask = padded(batch)
        longest = limit(ids.shape[1])
        found = beam_search(
            model.start_decoding(ids, mask, BEAMS, longest),
            len(batch),
            num_beams=BEAMS,
            n_best=1,
            start_token=model.config.start_id,
            end_token=EOS,
            max_lengths=torch.full((len(batch),), longest),
            suppress_tokens=[*never, EOS] if fixed_length else never,
        )
        return [ranked[0] for ranked in found.to_lists()]

    @torch.inference_mode()
    def generate(batch: Outputs) -> Outputs:
        ids, mask = padded(batch)
        longest = limit(ids.shape[1])
        found = pegasus.generate(
            input_ids=ids,
            attention_mask=mask.long(),
            num_beams=BEAMS,
            do_sample=False,
            max_new_tokens=longest,
            suppress_tokens=[*never, EOS] if fixed_length else never,
            length_penalty=1.0,
            early_stopping=True,  # as ours and CTranslate2: five finished beams end a sentence
        )
        rows = found[:, 1:].tolist()
        return [[token for token in row if token not in (EOS, PAD)] for row in rows]

    def ct2(batch: Outputs) -> Outputs:
        names = [[*map(_name, row), "</s>"] for row in batch]
        longest = limit(max(map(len, batch)) + 1)
        found = translator.translate_batch(
            names,
            beam_size=BEAMS,
            max_batch_size=0,
            max_decoding_length=longest,
            min_decoding_length=longest if fixed_length else 1,
            length_penalty=1.0,
            suppress_sequences=[["<pad>"], ["<s>"]],
        )
        return [[int(token) if token.isdigit() else 3 for token in result.hypotheses[0]] for result in found]

    return {"transformer_architectures": ours, "transformers generate": generate, "CTranslate2": ct2}


def _name(token: int) -> str:
    return str(token) if token > 3 else ("<pad>", "<s>", "</s>", "<unk>")[token]


def compare(
    name: str, model: Transformer, work: list[Outputs], fixed_length: int | None, rounds: int
) -> dict[str, object]:
    """Seconds for all sentences, the median of rounds in which the systems take turns batch by batch."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        runners = systems(model, fixed_length, Path(folder) / "ct2")
        for run in runners.values():
            run(work[0])
        totals: dict[str, list[float]] = {system: [] for system in runners}
        outputs: dict[str, Outputs] = {}
        for _ in range(rounds):
            seconds = dict.fromkeys(runners, 0.0)
            outputs = {system: [] for system in runners}
            for batch in work:
                for system, run in runners.items():
                    started = time.perf_counter()
                    outputs[system] += run(batch)
                    seconds[system] += time.perf_counter() - started
            for system, value in seconds.items():
                totals[system].append(value)
    reference = outputs["transformer_architectures"]
    rows: dict[str, object] = {"name": name, "sentences": sum(map(len, work)), "batch_size": len(work[0])}
    our_seconds = statistics.median(totals["transformer_architectures"])
    print(f"\n{name}, {rows['sentences']} sentences in batches of {rows['batch_size']}, beam {BEAMS}")
    for system, times in totals.items():
        equal = sum(a == b for a, b in zip(reference, outputs[system], strict=True)) / len(reference)
        tokens = sum(map(len, outputs[system]))
        rows[system] = {"seconds": statistics.median(times), "tokens": tokens, "equal_to_ours": equal}
        print(
            f"  {system:<28} {statistics.median(times):8.2f} s   {statistics.median(times) / our_seconds:5.2f} x ours   {tokens} tokens   {equal:.1%} equal outputs",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path)
    parser.add_argument("--sentences", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--length", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", default=",".join(size.name for size in SIZES))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/decoding_speed.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("highest")
    arguments.output.parent.mkdir(exist_ok=True)
    found = []
    if arguments.model:
        translator = load_model(arguments.model, device="cpu")
        assert isinstance(translator, Translator)
        config = VanillaDataConfig.model_validate({"train": {"bible": {"source": "web", "target": "darby"}}})
        data = TransformerDataModule(config, translator.model.config.vocab_size, seed=1, batch_tokens=4096)
        data.setup()
        sources = translator.tokenizer.encode_batch(data.evaluation_texts("test")[0])
        work = source_batches(0, arguments.sentences, arguments.batch_size, sources)
        found.append(compare("trained Bible model", translator.model, work, None, arguments.rounds))
    else:
        for size in SIZES:
            if size.name in arguments.sizes.split(","):
                torch.manual_seed(1)
                work = source_batches(size.vocab, arguments.sentences, arguments.batch_size, None)
                found.append(compare(size.name, random_model(size), work, arguments.length, arguments.rounds))
    place = environment("transformers", "ctranslate2")
    with arguments.output.open("a") as file:
        file.writelines(json.dumps({**rows, "rounds": arguments.rounds, "environment": place}) + "\n" for rows in found)


if __name__ == "__main__":
    main()
