"""The end of a run: which weights are the best, what they score, and the model folder that others will use."""

import platform
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from transformer_architectures.errors import CheckpointError
from transformer_architectures.training.checkpointing.checkpoints import copy_of_weights, weights_of
from transformer_architectures.training.distributed.ranks import DistributedMapBatches
from transformer_architectures.training.loop import Trainer
from transformer_architectures.training.optimization import mean_of_weights
from transformer_architectures.training.runs.run_folder import MODEL, read_own
from transformer_architectures.training.task import Artifact, Scores

VERSIONS_OF = ("transformer-architectures", "torch", "numpy", "torchvision", "pillow", "tokenizers", "sacrebleu")


@dataclass(frozen=True)
class FinishedRun:
    """What a run leaves: its model folder, the contents of `results.json`, sample outputs, and the task's images and tables.

    One that an earlier process or another rank has finished (not ``is_new``) has only the first two.
    """

    model_folder: Path
    results: dict[str, Any]
    samples: list[dict[str, str]] = field(default_factory=list)
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    is_new: bool = True


def finish(trainer: Trainer, model: nn.Module, run_folder: Path) -> FinishedRun | None:
    """Scores the candidates on validation and the winner on test, whose weights ``model`` has then. Nothing is written yet.

    Candidates are the weights that were best while training; where that was their moving average, the last single ones too;
    and the mean of the last k checkpoints where the config asks for it. All are scored by the path that `predict` takes, by all
    ranks together; the first one alone reads the weights, and says the rest. None on the others.
    """
    ranks = trainer.ranks
    work = DistributedMapBatches(ranks, trainer.stop_if_asked, trainer.config.hang_timeout)
    candidates = candidate_weights(trainer, model, run_folder)

    def take(name: str) -> None:
        if ranks.is_main:
            model.load_state_dict(candidates[name])
        ranks.copy_weights(model)
        model.eval()

    validation: dict[str, Scores] = {}
    for name in ranks.agree(list(candidates)):
        take(name)
        validation[name] = trainer.task.evaluate(model, "validation", work)
    main, *_ = metrics = trainer.task.metrics
    chosen = ranks.agree(main.best({name: scores[main.name] for name, scores in validation.items()}))
    take(chosen)
    test = trainer.task.evaluate(model, "test", work) or None
    if not ranks.is_main:
        return None
    state = trainer.state
    part = "validation" if test is None else "test"
    results = {
        "task": trainer.task.name,
        "weights": chosen,
        "validation": validation[chosen],
        "validation_of_candidates": validation,
        "test": test,
        "baseline": trainer.task.baseline(part),
        "main": main.name,
        "better": {metric.name: metric.better for metric in metrics},
        "signatures": {metric.name: metric.signature for metric in metrics},
        "cost": {
            "wall_seconds": round(time.perf_counter() - trainer.started, 1),
            f"{trainer.task.unit}_per_second": round(state.num_tokens / max(state.training_seconds, 1e-9), 1),
        },
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "global_step": state.global_step,
        "weights_step": state.best_step if chosen == best_name(trainer) else state.global_step,
        "precision": trainer.precision.name,
        "seed": trainer.config.seed,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in VERSIONS_OF}},
    }
    return FinishedRun(
        run_folder / MODEL, results, trainer.task.samples(model, part), trainer.task.artifacts(model, part)
    )


def candidate_weights(trainer: Trainer, model: nn.Module, run_folder: Path) -> dict[str, Mapping[str, Tensor]]:
    """The weights that might be exported, by the name that `results.json` gives them; none on all ranks but the first.

    Args:
        model: with the last weights.
    """
    best, last = saved_best(trainer, run_folder) if trainer.ranks.is_main else None, copy_of_weights(model)
    if trainer.ranks.any(trainer.ranks.is_main and best is None):
        best = last if trainer.ema is None else copy_of_weights(trainer.parallelism.full_model(trainer.ema.module))
    if best is None or not trainer.ranks.is_main:
        return {}
    candidates: dict[str, Mapping[str, Tensor]] = {best_name(trainer): best}
    if trainer.ema is not None:  # while training only the moving average was scored
        candidates["single"] = last
    scheduled = list(trainer.state.scheduled)[-trainer.config.average_last :] if trainer.config.average_last > 1 else []
    if len(scheduled) > 1:
        try:
            candidates["averaged"] = mean_of_weights([saved_weights(run_folder / name, model) for name in scheduled])
        except CheckpointError as error:
            print(f"{error}; the last checkpoints are not averaged", file=sys.stderr)
    return candidates


def saved_best(trainer: Trainer, run_folder: Path) -> Mapping[str, Tensor] | None:
    """The weights that have scored best; None where their file cannot be used."""
    try:
        return cast(Mapping[str, Tensor], read_own(run_folder / trainer.state.best_filename)["model"])
    except CheckpointError as error:
        print(f"{error}; the last weights take the place of the best ones", file=sys.stderr)
        return None


def saved_weights(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """The state dict that a checkpoint of the run holds; ``model`` may have it afterwards.

    Raises:
        CheckpointError: the checkpoint cannot be used.
    """
    return weights_of(read_own(path), model)


def best_name(trainer: Trainer) -> str:
    """What the weights are called that were scored while training."""
    return "single" if trainer.ema is None else "ema"


def report(finished: FinishedRun) -> Iterator[str]:
    """What a user wants to know at the end, line by line: scores beside the baseline, cost, samples, the model folder."""
    results = finished.results
    part = "validation" if results["test"] is None else "test"
    yield f"\n{results['task']}: {part} scores of the {results['weights']} weights, step {results['weights_step']}"
    for name, value in (results["test"] or results["validation"]).items():
        signature = results["signatures"].get(name, "")
        yield f"  {name:<12} {value:8.4g}    baseline {results['baseline'][name]:8.4g}    {signature}"
    cost = results["cost"]
    throughput = "  ".join(f"{name} {value:,.0f}" for name, value in cost.items() if name != "wall_seconds")
    yield f"  {results['parameters']:,} parameters  {cost['wall_seconds']:,.0f} s  {throughput}"
    for sample in finished.samples[:3]:
        yield ""
        yield from (f"  {name:<11} {text}" for name, text in sample.items())
    yield f"\nmodel folder  {finished.model_folder}"
