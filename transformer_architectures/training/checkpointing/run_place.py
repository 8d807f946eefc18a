"""Where the files of the active MLflow run lie."""

from pathlib import Path

from transformer_architectures.errors import TrackingError


def path_in_run(checkpoint_root: str | Path, model_name: str, filename: str) -> tuple[Path, str]:
    """Where a checkpoint of the active MLflow run lies, and the run's id.

    Raises:
        TrackingError: no MLflow run is active.
    """
    import mlflow

    run = mlflow.active_run()
    if run is None:
        raise TrackingError("no MLflow run is active: a checkpoint is written to the folder of its run")
    folder = Path(checkpoint_root) / model_name / f"{run.info.run_name}_{run.info.run_id[:6]}"
    return folder / filename, run.info.run_id
