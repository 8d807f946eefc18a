"""Several seeds of one configuration: trained one after the other, summed up, the best one's model folder written last."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from transformer_architectures.errors import ConfigError, LostRankError, TransformerArchitecturesError, UsageError
from transformer_architectures.metrics.metric import Metric
from transformer_architectures.pretrained.model_folder import seal
from transformer_architectures.training.distributed.torchrun import say_once
from transformer_architectures.training.runs.finish import FinishedRun
from transformer_architectures.utils.files import replace_json

SUMMARY = "summary.json"


@dataclass(frozen=True)
class SeedRun:
    """One seed's run: what it left, or why it failed."""

    seed: int
    finished: FinishedRun | None
    error: str | None = None

    @property
    def scores(self) -> Mapping[str, float]:
        """On test; on validation where there is no test part."""
        assert self.finished is not None
        results = self.finished.results
        return results["test"] or results["validation"]

    @property
    def main_validation_score(self) -> float:
        """By which seeds are compared."""
        assert self.finished is not None
        return float(self.finished.results["validation"][self.main.name])

    @property
    def main(self) -> Metric:
        """The main metric. Results of older versions do not name it: there it is the first score, and higher is better."""
        assert self.finished is not None
        results = self.finished.results
        name = results.get("main") or next(iter(results["validation"]))
        return Metric(name, better=results.get("better", {}).get(name, "higher"))


def train_seeds(seeds: Sequence[int], train: Callable[[int], FinishedRun]) -> list[SeedRun]:
    """Trains each seed; one that fails is noted and the others go on, but wrong usage or a lost rank ends all.

    Raises:
        TransformerArchitecturesError: every seed failed.
    """
    runs: list[SeedRun] = []
    for seed in seeds:
        say_once(f"seed {seed} ({len(runs) + 1} of {len(seeds)})")
        try:
            runs.append(SeedRun(seed, train(seed)))
        except (ConfigError, UsageError, LostRankError):
            raise
        except TransformerArchitecturesError as error:
            print(f"seed {seed} failed: {error}", file=sys.stderr)
            runs.append(SeedRun(seed, None, str(error)))
    if all(run.finished is None for run in runs):
        raise TransformerArchitecturesError(f"all {len(runs)} seeds failed: {runs[-1].error}")
    return runs


def write_summary(runs: Iterable[SeedRun]) -> Iterator[str]:
    """Writes ``summary.json`` into the model folder of the seed that was best on validation, and says line by line what is in it."""
    runs = list(runs)
    whole = [run for run in runs if run.finished is not None]
    best = best_run(whole)
    assert best.finished is not None
    scores = {name: [run.scores[name] for run in whole] for name in best.scores}
    part = "validation" if best.finished.results["test"] is None else "test"
    summary = {
        "task": best.finished.results["task"],
        "part": part,
        "mean": {name: fmean(values) for name, values in scores.items()},
        "deviation": {name: deviation(values) for name, values in scores.items()},
        "best_seed": best.seed,
        "failed": len(runs) - len(whole),
        "runs": [_row(run) for run in runs],
    }
    folder = best.finished.model_folder
    replace_json(folder / SUMMARY, summary)
    seal(folder)
    yield f"\n{summary['task']}: {part} scores of {len(whole)} seeds, mean ± standard deviation"
    for name, values in scores.items():
        yield f"  {name:<12} {fmean(values):8.4g} ± {deviation(values):.2g}    " + "  ".join(f"{v:.4g}" for v in values)
    yield f"  {summary['failed']} failed; best on validation: seed {best.seed}"
    yield f"\nmodel folder  {folder}"


def best_run(runs: Sequence[SeedRun]) -> SeedRun:
    """The finished run that was best on validation."""
    return runs[runs[0].main.best({index: run.main_validation_score for index, run in enumerate(runs)})]


def deviation(values: Sequence[float]) -> float:
    """The sample's standard deviation; 0 of a single value."""
    return stdev(values) if len(values) > 1 else 0.0


def _row(run: SeedRun) -> dict[str, Any]:
    if run.finished is None:
        return {"seed": run.seed, "error": run.error}
    results = run.finished.results
    run_folder = run.finished.model_folder.parent.name
    return {"seed": run.seed, "run": run_folder, "validation": results["validation"], "test": results["test"]}
