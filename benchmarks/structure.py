"""How far a reader has to go: frames, files and lines, counted in a real training step.

uv run python -m benchmarks.structure [--config configs/vanilla_default.yaml] [--package DIR]

It starts `tarch train` on the config with one step of few examples, and stops it at the first softmax or fused attention product:

- frames, files: calls of the package on the stack at that moment, and the files that they are in;
- inside the model: those of them from the model's own method on;
- files of an example: files of the package in which a function ran between the call for the first batch and the model;
- files, lines of the package: all of it.

The counts of another checkout: ``PYTHONPATH=OTHER python benchmarks/structure.py --config ...``.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.nn import functional as F

SMALL = {
    "vanilla": ["Training.batch_tokens=64"],
    "vit": ["Training.batch_size=2"],
    "bert": ["Training.batch_tokens=256"],
}


class Seen(BaseException):
    """The product was reached: everything is counted."""


def package_frames(frame: FrameType | None, package: Path) -> Iterator[str]:
    """``file:function`` of the package's calls on the stack, the innermost first."""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        # Wrappers that the compiler or a decorator adds have no file.
        if package in path.parents and not frame.f_code.co_name.startswith("<"):
            yield f"{path.relative_to(package)}:{frame.f_code.co_name}"
        frame = frame.f_back


def count(config: str) -> dict[str, Any]:
    """Runs the training and counts."""
    import transformer_architectures
    from transformer_architectures import cli

    package = Path(transformer_architectures.__file__).resolve().parent
    found: dict[str, Any] = {}
    files_of_example: set[str] = set()
    is_loading = False

    def stop(original: Callable[..., Any]) -> Callable[..., Any]:
        def stopped(*arguments: Any, **options: Any) -> Any:
            if not is_loading:  # a softmax before the first batch is none of attention
                return original(*arguments, **options)
            sys.setprofile(None)
            frames = list(package_frames(sys._getframe(1), package))
            found.update(frames=frames)
            raise Seen

        return stopped

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal is_loading
        if event != "call":
            return
        if frame.f_code.co_name == "train_dataloader":
            is_loading = True
        path = Path(frame.f_code.co_filename)
        if is_loading and package in path.parents:
            files_of_example.add(str(path.relative_to(package)))

    torch.Tensor.softmax = stop(torch.Tensor.softmax)  # type: ignore[method-assign]
    F.scaled_dot_product_attention = stop(F.scaled_dot_product_attention)
    name = Path(config).stem.split("_")[0]
    overrides = ["Training.max_steps=1", "Training.precision=fp32", "Data.num_workers=0", *SMALL.get(name, [])]
    sys.setprofile(profile)
    try:
        cli.main(["train", config, *(word for override in overrides for word in ("--set", override))])
    except Seen:
        pass
    finally:
        sys.setprofile(None)
    frames: list[str] = found["frames"]
    of_model = [
        index
        for index, frame in enumerate(frames)
        if frame.split(":")[0].startswith("architectures/") and "transformer.py" in frame
    ]
    inside = frames[: of_model[-1] + 1] if of_model else []
    model_files = {frame.split(":")[0] for frame in inside}
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in package.rglob("*.py")}
    return {
        "config": config,
        "frames": len(frames),
        "files on the stack": len({frame.split(":")[0] for frame in frames}),
        "calls inside the model": len(inside),
        "files of an example": len(files_of_example - model_files),
        "files of the package": len(lines),
        "lines of the package": sum(lines.values()),
        "stack": frames[::-1],
        "example": sorted(files_of_example - model_files),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/vanilla_default.yaml")
    print(json.dumps(count(parser.parse_args().config), indent=2))


if __name__ == "__main__":
    main()
