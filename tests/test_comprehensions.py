"""No comprehension takes away a variable that a nested function closes over.

Python 3.12 and 3.13 inline comprehensions. One whose target has the name of a variable
of an enclosing function gives the function that it stands in a new, empty variable of
that name, and a closure there that means the outer one raises NameError (CPython's
fault; 3.11 is right). The rule here is wider than the fault, by the case without a
closure.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [
    path
    for folder in ("jmeta", "tests", "examples", "bench")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
INLINED = ast.ListComp | ast.SetComp | ast.DictComp
# a generator expression is a function of its own, on every version
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.GeneratorExp
SCOPE = INLINED | FUNCTION | ast.ClassDef


def test_no_comprehension_takes_a_variable():
    assert not [
        f"{path.relative_to(ROOT)}:{line} `{name}`"
        for path in FILES
        for name, line in taken(path.read_text())
    ]


@pytest.mark.parametrize(
    "body",
    [
        "[x for x in xs], lambda: x",
        "{x for x in xs}, lambda: x",
        "{x: 0 for x in xs}, (x for _ in xs)",
        "[[x for x in xs] for _ in xs], lambda: x",
        "[(lambda: x)() for x in xs], x",
    ],
)
def test_taken_variables_are_found(body):
    source = f"def outer(x, xs):\n    def inner():\n        return {body}"
    assert taken(source) == [("x", 3)]


@pytest.mark.parametrize(
    "body",
    [
        "[y for y in xs], lambda: x",
        "list(x for x in xs), lambda: x",
        "lambda x: [x for x in xs]",
    ],
)
def test_other_variables_pass(body):
    assert not taken(f"def outer(x, xs):\n    def inner():\n        return {body}")


def taken(source: str) -> list[tuple[str, int]]:
    """Targets of comprehensions that are variables of an enclosing function."""
    return sorted(_taken(ast.parse(source), frozenset()))


def _taken(scope: ast.AST, outer: frozenset[str]) -> Iterator[tuple[str, int]]:
    inside = outer | _bound(scope) if isinstance(scope, FUNCTION) else outer
    for node in _scopes(scope):
        if isinstance(node, INLINED) and isinstance(scope, FUNCTION):
            targets = _bound(node).union(*map(_bound, _nested_comprehensions(node)))
            for name in targets & _free(scope) & outer:
                yield name, node.lineno
        yield from _taken(node, inside)


def _free(scope: ast.AST) -> frozenset[str]:
    """The names that a scope, or one within it, takes from outside."""
    names = [node for node in _own(scope) if isinstance(node, ast.Name)]
    used = {name.id for name in names if isinstance(name.ctx, ast.Load)}
    return frozenset(used).union(*map(_free, _scopes(scope))) - _bound(scope)


def _bound(scope: ast.AST) -> frozenset[str]:
    """The names that a scope assigns, arguments and inner functions included."""
    names, outside = set(), set()
    for node in _own(scope):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                names.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.alias(name=name, asname=other):
                names.add(other or name.split(".")[0])
            case ast.Nonlocal(names=several) | ast.Global(names=several):
                outside.update(several)
    return frozenset(names - outside)


def _own(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a scope, with the scopes that stand in it but not their nodes."""
    for node in ast.iter_child_nodes(scope):
        yield node
        if not isinstance(node, SCOPE):
            yield from _own(node)


def _scopes(scope: ast.AST) -> list[ast.AST]:
    return [node for node in _own(scope) if isinstance(node, SCOPE)]


def _nested_comprehensions(scope: ast.AST) -> Iterator[ast.AST]:
    for node in _scopes(scope):
        if isinstance(node, INLINED):
            yield node
            yield from _nested_comprehensions(node)
