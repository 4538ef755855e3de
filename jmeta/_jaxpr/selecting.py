"""Replace branches by selections, so that a rule's derivative can be transposed."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core
import jax.extend.core as jex
import jax.numpy as jnp

from jmeta._core.tree import is_inexact
from jmeta._jaxpr.interpret import Run, apply_equation, apply_with_inner, evaluate
from jmeta._jaxpr.primitives import has_primitive, inner_jaxprs


def with_selections(fun: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function with selections in place of branches, for use in a rule.

    Under `jax.vmap`, JAX turns a branch that differs between tasks into a selection. To
    protect the branches that are not taken, it cuts the derivative of their inputs. In
    a forward-mode rule these inputs include tangents, and reverse mode cannot transpose
    a rule that cuts its tangents. So this makes the selection, with the cut, before the
    derivative is taken.

    Args:
        fun: Function of arrays in pytrees; it may capture traced values.

    Returns:
        A function that computes the same.

    Example:
        >>> relu = lambda x: jax.lax.cond(x > 0, lambda: x, lambda: 0.0)
        >>> "cond" in str(jax.make_jaxpr(with_selections(relu))(2.0))
        False
    """

    def selecting(*args: Any) -> Any:
        closed, shape = jax.make_jaxpr(fun, return_shape=True)(*args)
        outs = evaluate(closed, _visit, jax.tree.leaves(args))
        return jax.tree.structure(shape).unflatten(outs)

    return selecting


def select_branch(
    eqn: jex.JaxprEqn, values: Sequence[Any], moving: Sequence[bool], run: Run
) -> list[Any]:
    """Run every branch of a `cond` and select the outputs of one of them.

    Args:
        eqn: The `cond` equation.
        values: An array for each of its inputs, the branch's index first.
        moving: For each input whether it can carry a derivative.
        run: Computes a branch's outputs from its inputs.

    Returns:
        The outputs of the branch at the index.
    """
    index, *inputs = values
    cases = []
    for i, branch in enumerate(eqn.params["branches"]):
        own = [
            jnp.where(index == i, x, jax.lax.stop_gradient(x)) if moves else x
            for x, moves in zip(inputs, moving[1:], strict=True)
        ]
        cases.append(run(branch, own))
    return [jax.lax.select_n(index, *outs) for outs in zip(*cases, strict=True)]


def _visit(eqn: jex.JaxprEqn, values: list[Any]) -> Sequence[Any]:
    def run(jaxpr, values):
        return evaluate(jaxpr, _visit, values)

    if eqn.primitive.name == "cond":
        return select_branch(eqn, values, [*map(_moves, values)], run)
    outs = None
    if any(has_primitive(inner, {"cond"}) for inner in inner_jaxprs(eqn.params)):
        outs = apply_with_inner(eqn, values, run)
    return apply_equation(eqn, values) if outs is None else outs


def _moves(value: Any) -> bool:
    return isinstance(value, jax.core.Tracer) and is_inexact(value)
