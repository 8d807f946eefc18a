"""Older module paths and names go on working, each with a warning that gives the new one."""

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest

from transformer_architectures.utils import moved


@pytest.mark.parametrize("older", moved.MOVED)
def test_an_older_module_path_is_that_of_the_new_module(older: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, f"{moved.PACKAGE}.{older}", raising=False)
    today = f"{moved.PACKAGE}.{moved.MOVED[older]}"
    with pytest.warns(DeprecationWarning, match=f"import {today}"):
        module = import_module(f"{moved.PACKAGE}.{older}")
    names = [name for name in vars(import_module(today)) if not name.startswith("_")]
    assert names
    assert all(getattr(module, name) is getattr(import_module(today), name) for name in names)
    assert set(names) <= set(dir(module))


@pytest.mark.parametrize("older", moved.MOVED)
def test_no_file_has_an_older_path(older: str) -> None:
    spec = find_spec(f"{moved.PACKAGE}.{older}")
    assert spec is not None and spec.origin is None


def test_older_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for older in ("loading", "linear"):  # Python warns on the first import only
        monkeypatch.delitem(sys.modules, f"{moved.PACKAGE}.{older}", raising=False)
    with pytest.warns(DeprecationWarning):
        from transformer_architectures.loading import SpareBatch
    from transformer_architectures.datasets.loading import DummyBatch

    assert SpareBatch is DummyBatch
    with pytest.warns(DeprecationWarning, match="ImageClassifier"):
        from transformer_architectures.architectures.vit import PictureClassifier
    from transformer_architectures.architectures.vit import ImageClassifier

    assert PictureClassifier is ImageClassifier
    with pytest.raises(ImportError), pytest.warns(DeprecationWarning):
        from transformer_architectures.linear import nothing_of_this_name  # noqa: F401


def test_the_warning_names_the_line_of_the_user(tmp_path: object) -> None:
    code = (
        "import warnings\nwarnings.simplefilter('error', DeprecationWarning)\nimport transformer_architectures.dropout"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1
    assert "DeprecationWarning: transformer_architectures.dropout has moved" in run.stderr
