"""Refuse what implicit differentiation cannot take, and say what to pass."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_leaves_with_path

from jmeta._core import validate
from jmeta._core.typing import PyTree


def solver(solver: Any) -> None:
    """`solver` can be called with a matrix as a function and a right-hand side."""
    must = "a solver such as `CG()`, or a function `(matvec, b) -> x`"
    validate.strategy("solver", solver, must, "matvec", "b")


def solution(x: PyTree, b: PyTree) -> None:
    """What a solver gives is like the right-hand side."""
    validate.traceable("solver", x)
    _like("solver", x, b, "the right-hand side", dtypes=True)


def residual(residual: PyTree, params: PyTree) -> None:
    """What the function of `Root` gives is like the parameters."""
    validate.traceable("fn", residual)
    _like("fn", residual, params, "the parameters", dtypes=True)


def center(center: PyTree, params: PyTree) -> None:
    """The center of `proximal` is like its parameters."""
    validate.arrays("params", params)
    validate.arrays("center", center)
    _like("center", center, params, "`params`", dtypes=False)


def _like(name, tree, params, other, dtypes):
    message = f"`{name}` must be" if name == "center" else f"`{name}` must give"
    use = f"Give one number for each in {other}."
    message = f"{message} a tree like {other}"
    got, expected = map(jax.tree.structure, (tree, params))
    if got != expected:
        raise ValueError(f"{message}; got {got}, expected {expected}. {use}")
    pairs = zip(tree_leaves_with_path(tree), jax.tree.leaves(params), strict=True)
    for (path, leaf), param in pairs:
        got, expected = (_form(x, dtypes) for x in (leaf, param))
        if got != expected:
            raise ValueError(
                f"{message}; got {got} at the leaf {keystr(path)!r}, expected"
                f" {expected}. {use}"
            )


def _form(leaf, dtypes):
    shape = f"shape {jnp.shape(leaf)}"
    return f"{shape} and dtype {jnp.result_type(leaf)}" if dtypes else shape
