"""Replace operations of a function where it is differentiated, and only there."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
from jax.core import eval_jaxpr
from jax.custom_derivatives import SymbolicZero

from jmeta._core.derivative_rules import true_derivative
from jmeta._core.tree import is_inexact
from jmeta._jaxpr.interpret import (
    AnyJaxpr,
    apply_with_inner,
    as_function,
    evaluate,
)
from jmeta._jaxpr.primitives import has_primitive
from jmeta._jaxpr.selecting import select_branch
from jmeta.optim._finite.positive import (
    SMALLEST_POSITIVE,
    bound_of_constant,
    lower_bound,
)


class Operand(NamedTuple):
    """A value of a jaxpr with what is known about it.

    Attributes:
        value: The array, or the Python number of a literal.
        moving: Whether it can depend on what is being differentiated.
        bound: Lower bound of its entries from `lower_bound`, None if none is known.
    """

    value: Any
    moving: bool
    bound: float | None = None

    @property
    def positive(self) -> bool:
        """Whether it is known to be positive."""
        return self.bound is not None and self.bound >= SMALLEST_POSITIVE


Guard = Callable[[Callable[..., Any], Mapping[str, Any], list[Operand]], Any]
"""`(bind, params, operands) -> output`; `bind(*args)` is the operation itself."""

Guards = Mapping[str, Guard]
"""Replacements of operations by the name of their primitive."""


def guarded(fun: Callable[..., Any], guards: Guards) -> Callable[..., Any]:
    """Replace operations by guards where a function is differentiated.

    The function is traced. Its jaxpr is evaluated unchanged without differentiation, or
    if it has none of the operations. For derivatives it is evaluated primitive by
    primitive, with guards where the derivative passes. A derivative rule for each
    primitive would be simpler, but `scan` in reverse mode drops the rules inside its
    body, so second derivatives would not see them. Operations with a custom derivative
    rule keep it.

    Args:
        fun: Function of arrays in pytrees; may capture traced values.
        guards: Replacement of each primitive by its name. It must return the values
            that the operation returns.

    Returns:
        A function with the values of `fun`.

    Example:
        >>> import jax.numpy as jnp
        >>> def constant(bind, params, operands):
        ...     return jax.lax.stop_gradient(bind(*(it.value for it in operands)))
        >>> f = guarded(lambda x: x * jnp.sqrt(x), {"sqrt": constant})
        >>> f(4.0).item(), jax.grad(f)(4.0).item()
        (8.0, 2.0)
    """

    def guarded_fun(*args: Any) -> Any:
        closed, shape = jax.make_jaxpr(fun, return_shape=True)(*args)
        compute = _without_guards(closed)
        if has_primitive(closed.jaxpr, guards):
            compute = _with_guards(closed, guards)
        flat = compute(*closed.consts, *jax.tree.leaves(args))
        return jax.tree.structure(shape).unflatten(flat)

    return guarded_fun


def _without_guards(closed: jex.ClosedJaxpr) -> Callable[..., list[Any]]:
    """The jaxpr as a function of its constants and inputs."""
    num_consts = len(closed.consts)

    def compute(*values):
        return eval_jaxpr(closed.jaxpr, values[:num_consts], *values[num_consts:])

    return compute


def _with_guards(closed: jex.ClosedJaxpr, guards: Guards) -> Callable[..., list[Any]]:
    """The jaxpr as such a function, whose derivatives pass through the guards."""
    compute = jax.custom_jvp(_without_guards(closed))
    # The constants may depend on what is being differentiated: they become inputs.
    variables = [*closed.jaxpr.constvars, *closed.jaxpr.invars]
    jaxpr = closed.jaxpr.replace(constvars=[], invars=variables)

    @true_derivative
    def jvp(primals, tangents):
        moving = {
            i: tangent
            for i, tangent in enumerate(tangents)
            if not isinstance(tangent, SymbolicZero)
            and tangent.dtype != jax.dtypes.float0
        }
        flags = [i in moving for i in range(len(primals))]

        def of_moving(*args):
            values = list(primals)
            for i, value in zip(moving, args, strict=True):
                values[i] = value
            return _evaluate(guards, jaxpr, values, flags)

        return jax.jvp(of_moving, [primals[i] for i in moving], list(moving.values()))

    compute.defjvp(jvp, symbolic_zeros=True)
    return compute


def _evaluate(
    guards: Guards,
    jaxpr: AnyJaxpr,
    args: Sequence[Any],
    moving: Sequence[bool] | None = None,
) -> list[Any]:
    """A jaxpr's outputs with guards in it; `moving=None` is all of its inputs."""
    moving = moving or [True] * len(args)
    operands = [_operand(x, flag) for x, flag in zip(args, moving, strict=True)]
    outs = evaluate(jaxpr, partial(_visit, guards), operands, _constant)
    return [out.value for out in outs]


def _visit(guards: Guards, eqn: jex.JaxprEqn, operands: list[Operand]) -> list[Operand]:
    """The outputs of one equation, through its guard where it has one."""
    args = [operand.value for operand in operands]
    moving = [operand.moving for operand in operands]
    apply = as_function(eqn)
    outs = None
    if any(moving):
        if eqn.primitive.name in guards:
            outs = [guards[eqn.primitive.name](apply, eqn.params, operands)]
        else:
            outs = _enter(guards, eqn, args, moving)
    if outs is None:
        out = apply(*args)
        outs = out if eqn.primitive.multiple_results else [out]
    stays_moving = any(moving) and eqn.primitive.name != "stop_gradient"
    bound = lower_bound(eqn, [operand.bound for operand in operands])
    return [_operand(out, stays_moving, bound) for out in outs]


def _enter(guards, eqn, args, moving):
    """The outputs of an equation with guards in its jaxprs, None if it has none."""
    if eqn.primitive.name == "cond":
        run_guarded = lambda branch, args: _evaluate(guards, branch, args, moving[1:])
        return select_branch(eqn, args, moving, run_guarded)
    # In a loop's body any value can become moving after the first step.
    inner_moving = None if eqn.primitive.name in ("scan", "while") else moving
    run_guarded = lambda jaxpr, args: _evaluate(guards, jaxpr, args, inner_moving)
    if eqn.primitive.name == "jit":
        # Inlined, since this leaves one jaxpr less to trace.
        return run_guarded(eqn.params["jaxpr"], args)
    return apply_with_inner(eqn, args, run_guarded)


def _operand(value: Any, moving: bool, bound: float | None = None) -> Operand:
    return Operand(value, moving and is_inexact(value), bound)


def _constant(value: Any) -> Operand:
    return Operand(value, False, bound_of_constant(value))
