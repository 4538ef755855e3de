"""Run a function with some of the operations in it replaced, for derivatives alone."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
from jax.core import eval_jaxpr
from jax.custom_derivatives import SymbolicZero

from jmeta._core.derivative_rules import true_derivative
from jmeta._core.tree import is_inexact
from jmeta._jaxpr.interpret import JITS, AnyJaxpr, apply_with_inner, as_function, walk
from jmeta._jaxpr.primitives import has_primitive
from jmeta._jaxpr.selecting import select_branch
from jmeta.optim._finite.positive import LEAST, lower_bound, non_negative


class Operand(NamedTuple):
    """A value with what is known of it.

    Attributes:
        value: The array, or a Python number of a literal.
        moves: Whether it can depend on what is being differentiated.
        least: What it is not below, if that is known, see `lower_bound`.
    """

    value: Any
    moves: bool
    least: float | None = None

    @property
    def positive(self) -> bool:
        """Whether it is known to be positive."""
        return self.least is not None and self.least >= LEAST


Guard = Callable[[Callable[..., Any], Mapping[str, Any], list[Operand]], Any]
"""`(bind, params, operands) -> output`; `bind(*args)` is the operation itself."""

Guards = Mapping[str, Guard]
"""What takes the place of an operation, by the name of its primitive."""


def guarded(fun: Callable[..., Any], guards: Guards) -> Callable[..., Any]:
    """Put guards in the place of operations where a function is differentiated.

    The function is traced; without differentiation its jaxpr is evaluated as it is, and
    also where none of the operations is in it. For derivatives it is evaluated
    primitive by primitive, with guards where the derivative goes through. A derivative
    rule for each primitive would read better, but `scan` in reverse mode drops the
    rules inside its body, so that second derivatives would not see it. Operations with
    a custom derivative rule keep it.

    Args:
        fun: Function of arrays in pytrees; may capture traced values.
        guards: What stands for which primitive; must give the operation's own value.

    Returns:
        A function with the same values.

    Example:
        >>> import jax.numpy as jnp
        >>> def constant(bind, params, operands):
        ...     return jax.lax.stop_gradient(bind(*(it.value for it in operands)))
        >>> f = guarded(lambda x: x * jnp.sqrt(x), {"sqrt": constant})
        >>> f(4.0).item(), jax.grad(f)(4.0).item()
        (8.0, 2.0)
    """

    def run(*args: Any) -> Any:
        closed, shape = jax.make_jaxpr(fun, return_shape=True)(*args)
        run = _plain(closed)
        if has_primitive(closed.jaxpr, guards):
            run = _with_rule(closed, guards)
        flat = run(*closed.consts, *jax.tree.leaves(args))
        return jax.tree.structure(shape).unflatten(flat)

    return run


def _plain(closed: jex.ClosedJaxpr) -> Callable[..., list[Any]]:
    """The jaxpr as a function of constants and inputs."""
    num_consts = len(closed.consts)

    def run(*values):
        return eval_jaxpr(closed.jaxpr, values[:num_consts], *values[num_consts:])

    return run


def _with_rule(closed: jex.ClosedJaxpr, guards: Guards) -> Callable[..., list[Any]]:
    """The same with guards when it is differentiated."""
    run = jax.custom_jvp(_plain(closed))
    # constants are inputs here: what they depend on may be differentiated too
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

        def at(*moved):
            values = list(primals)
            for i, value in zip(moving, moved, strict=True):
                values[i] = value
            return _evaluate(guards, jaxpr, values, flags)

        return jax.jvp(at, [primals[i] for i in moving], list(moving.values()))

    run.defjvp(jvp, symbolic_zeros=True)
    return run


def _evaluate(
    guards: Guards,
    jaxpr: AnyJaxpr,
    args: Sequence[Any],
    moving: Sequence[bool] | None = None,
) -> list[Any]:
    """A jaxpr's outputs, with guards; None: all that it takes moves."""
    moving = moving or [True] * len(args)
    operands = [_operand(x, flag) for x, flag in zip(args, moving, strict=True)]
    outs = walk(jaxpr, partial(_visit, guards), operands, _constant)
    return [out.value for out in outs]


def _visit(guards: Guards, eqn: jex.JaxprEqn, operands: list[Operand]) -> list[Operand]:
    args = [operand.value for operand in operands]
    moves = [operand.moves for operand in operands]
    apply = as_function(eqn)
    outs = None
    if any(moves):
        if eqn.primitive.name in guards:
            outs = [guards[eqn.primitive.name](apply, eqn.params, operands)]
        else:
            outs = _enter(guards, eqn, args, moves)
    if outs is None:
        out = apply(*args)
        outs = out if eqn.primitive.multiple_results else [out]
    goes_on = any(moves) and eqn.primitive.name != "stop_gradient"
    least = lower_bound(eqn, [operand.least for operand in operands])
    return [_operand(out, goes_on, least) for out in outs]


def _enter(guards, eqn, args, moves):
    if eqn.primitive.name == "cond":
        run = lambda branch, args: _evaluate(guards, branch, args, moves[1:])
        return select_branch(eqn, args, moves, run)
    # in a loop's body everything moves
    known = None if eqn.primitive.name in ("scan", "while") else moves
    run = lambda jaxpr, args: _evaluate(guards, jaxpr, args, known)
    if eqn.primitive.name in JITS:  # written out, which is one jaxpr less to trace
        return run(eqn.params["jaxpr"], args)
    return apply_with_inner(eqn, args, run)


def _operand(value: Any, moves: bool, least: float | None = None) -> Operand:
    return Operand(value, moves and is_inexact(value), least)


def _constant(value: Any) -> Operand:
    return Operand(value, False, non_negative(value))
