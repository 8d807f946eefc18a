"""A toy training by several processes: its data, its config, and a job whose ranks a test can talk to."""

import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

from learning.toy_runs import MODULE

from transformer_architectures.training.runs.run_folder import RunFolder

HANG_TIMEOUT = 30
GENEROUS = HANG_TIMEOUT + 30 + 60  # seconds; the last minute is for a machine that does other things too
CONFIG = f"""
Model: {{vocab_size: 200, embed_dim: 16, num_heads: 2, ff_dim: 32, num_layers: 1, dropout: 0.0, max_length: 32}}
Training:
  seed: 5
  num_threads: 1
  precision: fp32
  max_steps: 400
  batch_tokens: 200
  accumulation_steps: 2
  learning_rate: 0.003
  warmup_steps: 10
  ema_decay: 0.9
  validation_interval: 40
  validation_sentences: 4
  num_beams: 2
  checkpoint_interval: 20
  keep_checkpoints: 30
  log_interval: 1
  hang_timeout: {HANG_TIMEOUT}
  checkpoint_root: ${{CHECKPOINT_ROOT}}
Data: {{train: {{file: pairs.tsv}}, num_workers: 1, validation_fraction: 0.1, max_length: 31, cache_dir: cache}}
"""


def write_pairs(path: Path) -> None:
    """120 short lines, and the same backwards."""
    words = ["".join(random.choices("abdefgiklmnoprstu", k=4)) for _ in range(40)]
    lines = [" ".join(random.choices(words, k=random.randint(1, 5))) for _ in range(120)]
    path.write_text("".join(f"{line} {n}\t{line[::-1]} {n}\n" for n, line in enumerate(lines)))


class Job:
    """All ranks of one run, each a process that we started: torchrun would hide their exit codes."""

    def __init__(self, folder: Path, world_size: int, *options: str, root: str = "outputs") -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        self.root = folder / root
        (folder / "temporary").mkdir(exist_ok=True)
        shared = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        self.ranks = [
            subprocess.Popen(
                [sys.executable, "-m", MODULE, "--config", "config.yaml", "--resume", "auto", *options],
                env={
                    **os.environ,
                    **shared,
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "CHECKPOINT_ROOT": str(self.root),
                    "TMPDIR": str(folder / "temporary"),
                },
                cwd=folder,
                text=True,
                stdout=subprocess.PIPE,
                stderr=(folder / f"{root}_{rank}.err").open("w"),
                start_new_session=True,
            )
            for rank in range(world_size)
        ]
        self.errors = [folder / f"{root}_{rank}.err" for rank in range(world_size)]

    @property
    def run_folder(self) -> Path:
        (found,) = (self.root / "vanilla").iterdir()
        return found

    def checkpoints(self) -> list[Path]:
        return RunFolder(self.run_folder).checkpoints()[::-1]

    def wait_for_step(self, step: int) -> None:
        """Until the first rank has logged it."""
        while f"step {step}/" not in self.errors[0].read_text():
            assert self.ranks[0].poll() is None, self.said(0)
            time.sleep(0.05)

    def said(self, rank: int) -> str:
        return self.errors[rank].read_text()

    def codes(self, timeout: float | None = None) -> list[int]:
        return [rank.wait(timeout) for rank in self.ranks]

    def finish(self) -> None:
        assert self.codes() == [0] * len(self.ranks), "\n".join(map(self.said, range(len(self.ranks))))
