"""No file of the library can run what it reads: nothing that does stands anywhere in its code."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import transformer_architectures

PACKAGE = Path(transformer_architectures.__file__).parent
MODULES = {
    "pickle",
    "cPickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "jsonpickle",
    "code",
    "codeop",
    "runpy",
}
BUILTINS = {"eval", "exec", "compile", "__import__", "breakpoint"}
CALLS = {
    "os.system",
    "os.popen",
    "os.execv",
    "os.execvp",
    "os.execve",
    "os.spawnv",
    "pty.spawn",
    "subprocess.getoutput",
}
UNSAFE_YAML = {"full_load", "unsafe_load", "load_all", "full_load_all", "unsafe_load_all", "Loader", "FullLoader", "UnsafeLoader", "CLoader"}  # fmt: skip


def name_of(node: ast.expr) -> str:
    """``a.b.c`` as it is written; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := name_of(node.value)):
        return f"{before}.{node.attr}"
    return ""


def faults_of(source: str) -> Iterator[str]:
    """What must not stand in a file, each with its line."""
    tree = ast.parse(source)
    safe_loaders = {"yaml.SafeLoader", "yaml.CSafeLoader", "SafeLoader", "CSafeLoader"}
    safe_loaders |= {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and {name_of(base) for base in node.bases} & safe_loaders
    }
    for node in ast.walk(tree):
        for fault in faults_at(node, safe_loaders):
            yield f"line {getattr(node, 'lineno', 0)}: {fault}"


def faults_at(node: ast.AST, safe_loaders: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        yield from (f"imports {module}" for module in modules if module.split(".")[0] in MODULES)
        if isinstance(node, ast.ImportFrom) and node.module == "yaml":
            yield from (f"imports yaml.{alias.name}" for alias in node.names if alias.name in UNSAFE_YAML | {"load"})
    if isinstance(node, ast.Attribute) and name_of(node) in {f"yaml.{name}" for name in UNSAFE_YAML}:
        yield f"uses {name_of(node)}"
    if isinstance(node, ast.Call):
        yield from faults_of_call(node, safe_loaders)


def faults_of_call(node: ast.Call, safe_loaders: set[str]) -> Iterator[str]:
    called = name_of(node.func)
    options = {keyword.arg: keyword.value for keyword in node.keywords}

    def is_true(option: str) -> bool:
        value = options.get(option)
        return isinstance(value, ast.Constant) and value.value is True

    if called in BUILTINS or called in CALLS:
        yield f"calls {called}"
    if called == "yaml.load" and name_of(options.get("Loader", node)) not in safe_loaders:  # type: ignore[arg-type]
        yield "yaml.load without a safe loader"
    if called == "torch.load" and not is_true("weights_only"):
        yield "torch.load without weights_only=True"
    if "allow_pickle" in options and not (
        isinstance(options["allow_pickle"], ast.Constant) and options["allow_pickle"].value is False
    ):
        yield "allow_pickle"
    if "shell" in options and not (isinstance(options["shell"], ast.Constant) and options["shell"].value is False):
        yield "a shell"
    if "trust_remote_code" in options:
        yield "trust_remote_code"


def test_nothing_in_the_library_runs_what_it_reads() -> None:
    paths = sorted(PACKAGE.rglob("*.py"))
    assert len(paths) > 100
    found = [f"{path}: {fault}" for path in paths for fault in faults_of(path.read_text(encoding="utf-8"))]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from marshal import loads",
        "import dill.source",
        "eval('1')",
        "exec(text)",
        "__import__(name)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.load(text, yaml.FullLoader)",
        "yaml.unsafe_load(text)",
        "from yaml import unsafe_load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(command, shell=True)",
        "os.system(command)",
    ],
)
def test_each_of_them_would_be_found(source: str) -> None:
    assert len(list(faults_of(source))) >= 1


def test_what_is_allowed_is_not_found() -> None:
    allowed = """
import yaml
class Mine(yaml.SafeLoader): ...
yaml.load(text, Loader=Mine)
yaml.safe_load(text)
torch.load(path, weights_only=True)
np.load(path)
model.eval()
re.compile(pattern)
subprocess.run([command])
"""
    assert list(faults_of(allowed)) == []
