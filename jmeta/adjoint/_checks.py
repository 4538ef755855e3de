"""Checks of what users pass to implicit differentiation."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr, tree_leaves_with_path

from jmeta._core import validate
from jmeta._core.typing import PyTree


def solver(solver: Any) -> None:
    """Require a solver: it can be called with a matrix as a function and with `b`.

    Args:
        solver: What the user passed as `solver`.
    """
    must = "a solver such as `CG()`, or a function `(matvec, b) -> x`"
    validate.strategy("solver", solver, must, "matvec", "b")


def condition(condition: Any, own: tuple[type, ...]) -> None:
    """Require one of jmeta's conditions, or an object with a method `residual`.

    Args:
        condition: What the user passed as `condition`.
        own: The classes of jmeta's conditions.
    """
    residual = None if inspect.isclass(condition) else _residual_of(condition)
    if residual is not None:
        validate.takes("condition", residual, "loop", "carry", "x", "params")
        return
    use = "Wrap a function: `Root(fn)`." if callable(condition) else ""
    must = "`StationaryPoint()`, `FixedPoint()` or `Root(fn)`"
    validate.instance("condition", condition, own, must, use=use)


def solution(x: PyTree, b: PyTree) -> None:
    """Require a solver's solution to be a tree like the right-hand side.

    Args:
        x: What the solver gave.
        b: The right-hand side, a tree like the parameters.
    """
    validate.traceable("solver", x)
    _like("solver", x, b, "the right-hand side", dtypes=True)


def residual(name: str, residual: PyTree, params: PyTree) -> None:
    """Require a condition's residual to be a tree like the parameters.

    Args:
        name: Name of the argument that computes the residual.
        residual: What it gave.
        params: The trained parameters.
    """
    validate.traceable(name, residual)
    _like(name, residual, params, "the parameters", dtypes=True)


def center(center: PyTree, params: PyTree) -> None:
    """Require the center of `proximal` to be a tree like its parameters.

    Args:
        center: What the user passed as `center`.
        params: What the user passed as `params`.
    """
    validate.arrays("params", params)
    validate.arrays("center", center)
    _like("center", center, params, "`params`", dtypes=False)


def _residual_of(condition):
    residual = getattr(condition, "residual", None)
    return residual if callable(residual) else None


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
