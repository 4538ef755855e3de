"""Imports point down, files stay short, and extras are imported where they are used."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# A module imports from the rows above its own in this table, never from its own row.
# In a folder modules import one another, without a circle, and no `__init__` above.
LAYERS = (
    ("_compat",),
    ("_core",),
    ("_jaxpr", "estimators", "models", "schedules", "tasks"),
    ("adjoint", "convolution", "data", "optim"),
    ("_loop", "diagnose"),
    ("algorithms", "higher", "plot", "train"),
    ("__init__",),
)
ROW = {name: row for row, names in enumerate(LAYERS) for name in names}

# Come with extras of the package, so they are imported inside the functions.
EXTRAS = {
    *("PIL", "equinox", "haiku", "matplotlib", "orbax", "sklearn"),
    *("tensorboardX", "tqdm"),
}
FORBIDDEN = ("jax._src", "torch")

MODULES = {
    ".".join(path.relative_to(ROOT / "jmeta").with_suffix("").parts): path
    for path in sorted((ROOT / "jmeta").rglob("*.py"))
}
FILES = [
    path
    for folder in ("jmeta", "tests", "examples", "bench")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


@pytest.mark.parametrize("module", MODULES)
def test_imports(module):
    assert not list(violations(module, MODULES[module].read_text()))


def test_imports_have_no_circle():
    # private modules of a folder may import one another, so the table does not say
    graph = {
        module: {
            _target(name)
            for _, name in _imports(ast.parse(path.read_text()))
            if name.startswith("jmeta.")
        }
        for module, path in MODULES.items()
    }
    graphlib.TopologicalSorter(graph).prepare()


def test_no_public_module_has_the_name_of_what_it_defines():
    # or `jmeta.optim.sgd` could be either
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text())
        names = {getattr(node, "name", None) for node in tree.body}
        private = any(part.startswith("_") for part in module.split("."))
        assert private or module.rpartition(".")[2] not in names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_is_short(path):
    assert len(path.read_text().splitlines()) <= 350


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("_core.tree", "from jmeta._loop.step import Carry", "does not point down"),
        ("_core.tree", "import jmeta._loop.step", "does not point down"),
        ("_core.tree", "from jmeta._jaxpr import flow", "does not point down"),
        ("_core.tree", "from jmeta._core import tree", "does not point down"),
        ("models._ema", "import jmeta", "does not point down"),
        ("models._ema", "from jmeta import inner_loop", "does not point down"),
        ("models._ema", "from jmeta.optim import sgd", "does not point down"),
        ("models.functional._haiku", "import haiku as hk", "inside the functions"),
        ("optim._sgd", "from jmeta.optim import adam", "does not point down"),
        ("optim._base", "from jmeta.optim import sgd", "does not point down"),
        (
            "optim._finite.update_guard",
            "from jmeta.optim import sgd",
            "does not point down",
        ),
        ("optim._sgd", "from ._base import per_leaf", "relative"),
        ("optim._sgd", "def f():\n    import numpy", "inside a function"),
        ("plot", "import matplotlib.pyplot as plt", "inside the functions"),
        ("plot", "f = lambda: 0\nfrom torch import nn", "never imported"),
        ("plot", "def f():\n    import torch", "never imported"),
        ("plot", "from jax._src import core", "never imported"),
        ("plot", "import jax._src.core", "never imported"),
        ("plot", "from jax import _src", "never imported"),
        ("newcomer", "import jax", "no row"),
    ],
)
def test_violations_are_found(module, source, message):
    (violation,) = violations(module, source)
    assert message in violation


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("_core.tree", "import jax\nfrom jmeta._core.typing import Path, PyTree"),
        ("optim._adam", "from jmeta.optim import _base"),
        ("optim._sgd", "from jmeta.optim._base import per_leaf, Rule"),
        ("optim.__init__", "from jmeta.optim._sgd import sgd as sgd"),
        ("models.__init__", "from jmeta.models.functional import make_functional"),
        ("_loop.inner_loop", "from jmeta._core import validate\nimport jmeta.optim"),
        ("plot", "def f():\n    import matplotlib.pyplot as plt\n    import orbax.x"),
        ("__init__", "from jmeta import optim as optim"),
    ],
)
def test_downward_imports_pass(module, source):
    assert not list(violations(module, source))


def violations(module: str, source: str) -> Iterator[str]:
    """What a module of the package, named from within it, imports and must not."""
    tree = ast.parse(source)
    if _folder(module) not in ROW:
        yield f"`{module}` has no row in the table of layers"
        return
    inside = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node, name in _imports(tree):
        if name.startswith("."):
            yield f"`{name}` is a relative import"
        elif any(f"{name}.".startswith(f"{bad}.") for bad in FORBIDDEN):
            yield f"`{name}` is never imported by the library"
        elif name.split(".")[0] in EXTRAS:
            if node not in inside:
                yield f"`{name}` must be imported inside the functions that use it"
        elif node in inside:
            yield f"`{name}` is imported inside a function"
        elif name.split(".")[0] == "jmeta" and not _points_down(module, _target(name)):
            yield f"`{module}` imports `{_target(name)}`, which does not point down"


def _imports(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Each import statement with the dotted names that it reaches."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                yield node, f"{base}.{alias.name}"


def _target(name: str) -> str:
    """The module of the package behind `jmeta.a.b`, where `b` may be a name in `a`."""
    parts = name.split(".")[1:]
    for length in range(len(parts), -1, -1):
        for candidate in (parts[:length], [*parts[:length], "__init__"]):
            if ".".join(candidate) in MODULES:
                return ".".join(candidate)
    raise AssertionError(f"`{name}` is not in the package")


def _folder(module: str) -> str:
    return module.split(".")[0]


def _points_down(module: str, target: str) -> bool:
    """To a row above or, within a folder, to a module or to a folder within it."""
    if _folder(module) != _folder(target):
        return ROW[_folder(target)] < ROW[_folder(module)]
    around = target.removesuffix("__init__")
    return module != target and (around == target or not module.startswith(around))
