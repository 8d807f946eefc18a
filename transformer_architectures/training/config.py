"""The `Training:` section that every architecture shares."""

import os
from typing import Annotated, Literal

from pydantic import Field, model_validator

from transformer_architectures.config import StrictModel

Beta = Annotated[float, Field(ge=0, lt=1)]

DEFAULT_WARMUP = 1000  # steps


class TrainingConfig(StrictModel):
    """How a run is trained, watched and kept. Steps are optimizer steps, never micro-batches."""

    seed: int = Field(0, ge=0, lt=2**62)
    seeds: int = Field(1, ge=1, le=1000, description="runs, with seed, seed + 1, ...")
    precision: Literal["fp32", "bf16", "auto"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_threads: int | None = Field(None, ge=1, le=4096, description="CPU threads; torch's own choice unless given")
    compile: bool = Field(False, description="torch.compile, a graph for every shape")
    sharding: Literal["ddp", "fsdp"] = Field(
        "ddp", description="each of several processes holds the whole model (ddp) or a share of it (fsdp)"
    )
    cpu_offload: bool = Field(False, description="with fsdp: shares and moments lie in the host's memory")
    activation_checkpointing: bool = Field(
        False, description="blocks keep their inputs only and compute again: less memory, a third more computing"
    )
    hang_timeout: float = Field(
        600.0, gt=0, description="seconds to wait for another rank, or for a worker that loads batches"
    )

    # How long. At least one limit is needed; early stopping may come first.
    max_steps: int | None = Field(None, ge=1)
    max_epochs: int | None = Field(None, ge=1)
    patience: int | None = Field(None, ge=1, description="validations without a better score before the run stops")

    # Optimization.
    accumulation_steps: int = Field(1, ge=1, description="micro-batches of one optimizer step")
    learning_rate: float = Field(1e-3, gt=0)
    schedule: Literal["constant", "linear", "cosine", "inverse_sqrt"] = "inverse_sqrt"
    warmup_steps: int | None = Field(
        None, ge=0, description="steps up to the full learning rate; 1,000, or a tenth of max_steps if that is less"
    )
    weight_decay: float = Field(0.0, ge=0, description="on matrices only")
    adam_betas: tuple[Beta, Beta] = (0.9, 0.98)
    adam_eps: float = Field(1e-8, gt=0)
    clip_norm: float | None = Field(1.0, gt=0)
    ema_decay: float | None = Field(None, gt=0, lt=1, description="exponential moving average of the weights")
    average_last: int = Field(0, ge=0, description="score the mean of the last k checkpoints as a candidate at the end")

    # Watching and keeping.
    validation_interval: int | None = Field(None, ge=1, description="steps; the end of each epoch unless given")
    log_interval: int = Field(50, ge=1)
    histogram_interval: int | None = Field(None, ge=1, description="steps between histograms; none unless given")
    checkpoint_interval: int | None = Field(None, ge=1, description="steps; the end of each epoch besides")
    keep_checkpoints: int = Field(3, ge=1)
    checkpoint_root: str = Field(
        default_factory=lambda: os.environ.get("CHECKPOINT_ROOT") or "outputs",
        description="else $CHECKPOINT_ROOT, else outputs",
    )
    run_name: str | None = None
    experiment: str | None = Field(None, description="MLflow experiment; the architecture's name unless given")

    @property
    def warmup(self) -> int:
        """Steps of the warm-up: without a rule of their own short runs would end before the learning rate is there."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return DEFAULT_WARMUP if self.max_steps is None else min(DEFAULT_WARMUP, self.max_steps // 10)

    @model_validator(mode="after")
    def is_consistent(self) -> "TrainingConfig":
        if self.max_steps is None and self.max_epochs is None:
            raise ValueError("max_steps or max_epochs is needed, or the run would never end")
        if self.schedule in ("linear", "cosine") and self.max_steps is None:
            raise ValueError(f"schedule {self.schedule} needs max_steps: it falls to zero there")
        if self.cpu_offload and self.sharding != "fsdp":
            raise ValueError("cpu_offload needs sharding fsdp: it is shares of the model that lie in the host's memory")
        if self.average_last == 1:
            raise ValueError("average_last 1 averages nothing: leave it out, or take at least 2")
        if self.average_last > self.keep_checkpoints:
            raise ValueError(
                f"average_last {self.average_last} needs keep_checkpoints of at least {self.average_last}, "
                f"not {self.keep_checkpoints}"
            )
        return self
