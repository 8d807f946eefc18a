"""A suite: several configs that one command trains one after the other, some from the model that an earlier one left."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from pydantic import Field, field_validator, model_validator

from transformer_architectures.config import StrictModel, load_config
from transformer_architectures.config.yaml_reader import read_yaml
from transformer_architectures.errors import ConfigError
from transformer_architectures.training.distributed.torchrun import say_once
from transformer_architectures.training.runs.seeds import SeedRun, best_run, deviation

SECTION = "Suite"
SET_BY_SUITE = {"Model.pretrained": "`pretrained`", "Training.run_name": "`name`"}


class SuiteRun(StrictModel):
    """One training of a suite."""

    name: str = Field(min_length=1, description="what others start from, and the run's Training.run_name")
    config: str = Field(description="a file beside the suite's")
    pretrained: str | None = Field(None, description="name of the earlier run whose model this one starts from")
    overrides: list[str] = Field(
        [],
        description="KEY=VALUE as with --set; for a control, which has no model to take them from, the sizes of the others' model",
    )

    @field_validator("overrides")
    @classmethod
    def leave_what_the_suite_sets(cls, overrides: list[str]) -> list[str]:
        for override in overrides:
            if (key := override.partition("=")[0].strip()) in SET_BY_SUITE:
                raise ValueError(f"a suite sets {key} itself, from the run's {SET_BY_SUITE[key]}")
        return overrides


class SuiteConfig(StrictModel):
    """The `Suite:` section: what is trained, in this order."""

    runs: list[SuiteRun] = Field(min_length=1)

    @model_validator(mode="after")
    def names_fit(self) -> "SuiteConfig":
        earlier: set[str] = set()
        for run in self.runs:
            if run.name in earlier:
                raise ValueError(f"two runs are called {run.name}")
            if run.pretrained is not None and run.pretrained not in earlier:
                raise ValueError(f"{run.name}: there is no earlier run {run.pretrained} to start from")
            earlier.add(run.name)
        return self


def suite_of(path: str | Path) -> SuiteConfig | None:
    """The suite that a config file describes; None where it describes one training.

    Raises:
        ConfigError: it is not a right one. Beside `Suite:` there is only ``Model.architecture``.
    """
    # As it stands: variables of a config that is no suite may be unset, and overridden.
    document = read_yaml(path)
    if not isinstance(document, dict) or SECTION not in document:
        return None
    model = document.get("Model") or {}
    if others := [
        *(name for name in document if name not in (SECTION, "Model")),
        *(f"Model.{key}" for key in model if key != "architecture"),
    ]:
        raise ConfigError(f"{path}: {others[0]} belongs into the configs that the suite names")
    return load_config(path, SECTION, SuiteConfig)


def train_suite(
    suite: SuiteConfig, folder: Path, train: Callable[[str, list[str]], Sequence[SeedRun]]
) -> dict[str, list[SeedRun]]:
    """Trains all runs; returns them by name.

    Args:
        folder: where the configs lie.
        train: trains a config with these overrides, each of its seeds.

    Raises:
        ConfigError: a config is missing, or a suite itself.
    """
    for run in suite.runs:
        if suite_of(folder / run.config) is not None:
            raise ConfigError(f"{folder / run.config}: a suite: name its configs here instead")
    found: dict[str, list[SeedRun]] = {}
    for number, run in enumerate(suite.runs, start=1):
        say_once(f"{run.name} ({number} of {len(suite.runs)})")
        # Said for all: a config may read the folder from an environment variable, and a control must not.
        start = "" if run.pretrained is None else best_folder(found[run.pretrained])
        overrides = [*run.overrides, f"Training.run_name={run.name}", f"Model.pretrained={start}"]
        found[run.name] = list(train(str(folder / run.config), overrides))
    return found


def best_folder(runs: Sequence[SeedRun]) -> Path:
    """The model folder of the seed that was best on validation."""
    finished = best_run(_whole(runs)).finished
    assert finished is not None
    return finished.model_folder


def compare(suite: SuiteConfig, found: Mapping[str, Sequence[SeedRun]]) -> Iterator[str]:
    """The scores of all runs beside the trivial baseline's, and where their models are, line by line."""
    whole = {name: _whole(runs) for name, runs in found.items()}
    for config in dict.fromkeys(run.config for run in suite.runs):
        names = [run.name for run in suite.runs if run.config == config]
        first = whole[names[0]][0]
        assert first.finished is not None
        yield f"\n{first.finished.results['task']} ({config})"
        yield f"  {'':<24}" + "".join(f"{score:>18}" for score in first.scores)
        baseline = first.finished.results["baseline"]
        yield f"  {'baseline':<24}" + "".join(f"{baseline[score]:18.4g}" for score in first.scores)
        for name in names:
            values = [[run.scores[score] for run in whole[name]] for score in first.scores]
            yield f"  {name:<24}" + "".join(f"{_shown(of_score):>18}" for of_score in values)
    yield ""
    yield from (f"model folder  {best_folder(runs)}" for runs in whole.values())


def _whole(runs: Sequence[SeedRun]) -> list[SeedRun]:
    return [run for run in runs if run.finished is not None]


def _shown(values: Sequence[float]) -> str:
    return f"{fmean(values):.4g}" + (f" ± {deviation(values):.2g}" if len(values) > 1 else "")
