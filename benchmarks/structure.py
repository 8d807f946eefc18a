"""How far a reader has to go: frames, files and lines, counted in a real training step.

uv run python -m benchmarks.structure [--config configs/vanilla_default.yaml] [--package DIR]

It starts `tarch train` on the config with one step of few examples, and stops it before the backward pass:

- frames, files: calls of the package on the stack at the first softmax or fused attention product, and the files that they are in;
- inside the model: those of them from the model's own method on;
- files of an example: files of the package in which a function ran from the call for the first batch to the end of the loss. The model's
  own calls, and what they call, are not counted;
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
    """The loss was reached: everything is counted."""


def package_frames(frame: FrameType | None, package: Path) -> Iterator[str]:
    """``file:function`` of the package's calls on the stack, the innermost first."""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        # Wrappers that the compiler or a decorator adds have no file.
        if package in path.parents and not frame.f_code.co_name.startswith("<"):
            yield f"{path.relative_to(package)}:{frame.f_code.co_name}"
        frame = frame.f_back


def is_of_model(path: Path) -> bool:
    """Whether a file of the package is that of an architecture's model."""
    return path.parts[0] == "architectures" and path.name == "transformer.py"


def count(config: str) -> dict[str, Any]:
    """Runs the training and counts."""
    import transformer_architectures
    from transformer_architectures import cli

    package = Path(transformer_architectures.__file__).resolve().parent
    found: dict[str, Any] = {}
    files_of_example: set[str] = set()
    is_loading = False

    def watch(original: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            if is_loading and not found:  # a softmax before the first batch is none of attention
                found.update(frames=list(package_frames(sys._getframe(1), package)))
            return original(*arguments, **options)

        return watched

    def backward(*arguments: Any, **options: Any) -> None:
        sys.setprofile(None)
        raise Seen

    inside_model: FrameType | None = None

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal is_loading, inside_model
        if event == "return" and frame is inside_model:
            inside_model = None
        if event != "call" or inside_model is not None:
            return
        if frame.f_code.co_name == "train_dataloader":
            is_loading = True
        path = Path(frame.f_code.co_filename)
        if is_loading and package in path.parents and not frame.f_code.co_name.startswith("<"):
            if is_of_model(path.relative_to(package)):
                inside_model = frame
            else:
                files_of_example.add(str(path.relative_to(package)))

    torch.Tensor.softmax = watch(torch.Tensor.softmax)  # type: ignore[method-assign]
    F.scaled_dot_product_attention = watch(F.scaled_dot_product_attention)
    torch.Tensor.backward = backward  # type: ignore[assignment]
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
    of_model = [index for index, frame in enumerate(frames) if is_of_model(Path(frame.split(":")[0]))]
    inside = frames[: of_model[-1] + 1] if of_model else []
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in package.rglob("*.py")}
    return {
        "config": config,
        "frames": len(frames),
        "files on the stack": len({frame.split(":")[0] for frame in frames}),
        "calls inside the model": len(inside),
        "files of an example": len(files_of_example),
        "files of the package": len(lines),
        "lines of the package": sum(lines.values()),
        "stack": frames[::-1],
        "example": sorted(files_of_example),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/vanilla_default.yaml")
    print(json.dumps(count(parser.parse_args().config), indent=2))


if __name__ == "__main__":
    main()
