"""The source itself: nothing that runs what it reads."""

import ast
import re
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

FOLDERS = ("app", "keys", "models", "client", "benchmarks", "docker")
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}
CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput", "tempfile.mktemp"),
    *("torch.hub.load", "torch.jit.load", "pandas.read_pickle", "pd.read_pickle"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load"),
}
ONLY_WITH = {"torch.load": "weights_only"}  # which makes it read tensors and nothing else
NEVER_WITH = ("shell", "allow_pickle", "trust_remote_code")
JOSE = "keys/tokens.py"


@cache
def sources() -> dict[str, str]:
    """The text of every Python file of the product, by its place."""
    paths = (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}


WORDS = {name.rpartition(".")[2] for name in {*MODULES, *CALLS, *ONLY_WITH, *NEVER_WITH}}
SUSPECT = re.compile("|".join(sorted(WORDS)))


def dotted(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            return f"{dotted(value)}.{name}"
    return ""


def dangers(tree: ast.AST) -> Iterator[str]:
    """What a file imports or calls that could run what it reads."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names if name.name.partition(".")[0] in MODULES)
            case ast.ImportFrom(module=str(module), names=names):
                yield from {module.partition(".")[0]} & MODULES
                yield from {f"{module}.{name.name}" for name in names} & (CALLS | ONLY_WITH.keys())
            case ast.Call(func=func, keywords=keywords):
                yield from _dangers_of(dotted(func), {given.arg: dotted_or_value(given.value) for given in keywords})


def _dangers_of(called: str, given: Mapping[str | None, object]) -> Iterator[str]:
    yield from {called} & CALLS
    if called in ONLY_WITH and given.get(ONLY_WITH[called]) is not True:
        yield called
    yield from (f"{called}({name})" for name in NEVER_WITH if given.get(name, False) is not False)


def dotted_or_value(node: ast.expr) -> object:
    return node.value if isinstance(node, ast.Constant) else dotted(node)


def test_no_file_loads_a_pickle_evaluates_text_or_starts_a_shell() -> None:
    assert len(sources()) > 150
    found = {path: list(dangers(ast.parse(text))) for path, text in sources().items() if SUSPECT.search(text)}
    assert {path: calls for path, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "from torch import load",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
        "yaml.load(text)",
        "run(text, shell=True)",
        "run(text, shell=flag)",
        "import joblib.numpy_pickle",
    ],
)
def test_the_search_finds_each(text: str) -> None:
    assert list(dangers(ast.parse(text)))


def test_python_jose_is_imported_by_one_file() -> None:
    assert [path for path, text in sources().items() if _imports(text, "jose")] == [JOSE]


def _imports(text: str, package: str) -> bool:
    if package not in text:
        return False
    tree = ast.parse(text)
    names = [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    names += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return any(name.partition(".")[0] == package for name in names)


def test_no_weights_are_kept_in_a_format_that_runs_code() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout  # noqa: S607
    names = listed.split()
    assert names
    assert [name for name in names if Path(name).suffix in {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib"}] == []
