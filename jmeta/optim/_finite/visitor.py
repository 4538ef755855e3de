"""Run a function with some of the operations in it replaced, for derivatives alone."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax.core import eval_jaxpr
from jax.custom_derivatives import SymbolicZero

from jmeta._core.derivative_rules import true_derivative
from jmeta._jaxpr.hoist import bind
from jmeta._jaxpr.primitives import has_primitive, scan_counts
from jmeta.optim._finite.positive import positive


class Operand(NamedTuple):
    """What a guard is told of an operand.

    Attributes:
        moves: Whether it can depend on what is being differentiated.
        positive: Whether it is known to be positive, see `positive`.
    """

    moves: bool
    positive: bool


Guard = Callable[[Callable[..., Any], Mapping[str, Any], list[Any], list[Operand]], Any]
"""`(bind, params, args, operands) -> output`; `bind(*args)` is the operation itself."""

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
        >>> def constant(bind, params, args, operands):
        ...     return jax.lax.stop_gradient(bind(*args))
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


def selecting(fun: Callable[..., Any]) -> Callable[..., Any]:
    """The function with selections in place of branches, for a rule's derivative of it.

    JAX makes a selection of a branch that differs between the tasks of a `jax.vmap`,
    and protects the branches that are not taken by cutting the derivative of what goes
    into them. In a rule of forward mode that is done to tangents, and reverse mode
    cannot go back through it. Here it is done before the derivative is taken.

    Args:
        fun: Function of arrays in pytrees; may capture traced values.
    """

    def run(*args: Any) -> Any:
        closed, shape = jax.make_jaxpr(fun, return_shape=True)(*args)
        flat = jax.tree.leaves(args)
        if has_primitive(closed.jaxpr, {"cond"}):
            flags = [True] * (len(closed.consts) + len(flat))
            outs = _evaluate({}, closed.jaxpr, closed.consts, flat, flags)
        else:
            outs = eval_jaxpr(closed.jaxpr, closed.consts, *flat)
        return jax.tree.structure(shape).unflatten(outs)

    return run


def _plain(closed: jex.ClosedJaxpr) -> Callable[..., list[Any]]:
    """The jaxpr as a function of constants and inputs."""
    num_consts = len(closed.consts)

    def run(*values):
        return eval_jaxpr(closed.jaxpr, values[:num_consts], *values[num_consts:])

    return run


def _with_rule(closed: jex.ClosedJaxpr, guards: Guards) -> Callable[..., list[Any]]:
    """The same with guards when it is differentiated."""
    num_consts = len(closed.consts)
    run = jax.custom_jvp(_plain(closed))

    @true_derivative
    def jvp(primals, tangents):
        moving = {
            i: tangent
            for i, tangent in enumerate(tangents)
            if not isinstance(tangent, SymbolicZero)
            and tangent.dtype != jax.dtypes.float0
        }

        def at(*moved):
            values = list(primals)
            for i, value in zip(moving, moved, strict=True):
                values[i] = value
            consts, args = values[:num_consts], values[num_consts:]
            flags = [i in moving for i in range(len(values))]
            return _evaluate(guards, closed.jaxpr, consts, args, flags)

        return jax.jvp(at, [primals[i] for i in moving], list(moving.values()))

    run.defjvp(jvp, symbolic_zeros=True)
    return run


def _evaluate(
    guards: Guards,
    jaxpr: jex.Jaxpr,
    consts: Sequence[Any],
    args: Sequence[Any],
    moving: Sequence[bool],
) -> list[Any]:
    inputs = [*jaxpr.constvars, *jaxpr.invars]
    values = dict(zip(inputs, [*consts, *args], strict=True))
    moves = {v for v, flag in zip(inputs, moving, strict=True) if flag and _is_float(v)}

    above_0 = positive(jaxpr)

    def read(atom):
        return atom.val if isinstance(atom, jex.Literal) else values[atom]

    def look(atom):
        if isinstance(atom, jex.Literal):
            return Operand(False, False)
        return Operand(atom in moves, atom in above_0)

    for eqn in jaxpr.eqns:
        operands = [look(atom) for atom in eqn.invars]
        flags = [operand.moves for operand in operands]
        inputs = [read(atom) for atom in eqn.invars]
        if eqn.primitive.name in guards and any(flags):
            apply = partial(bind, eqn.primitive, eqn.params)
            out = guards[eqn.primitive.name](apply, eqn.params, inputs, operands)
        elif any(flags):
            out = _apply(guards, eqn, inputs, flags)
        else:
            out = bind(eqn.primitive, eqn.params, *inputs)
        outs = out if eqn.primitive.multiple_results else [out]
        values.update(zip(eqn.outvars, outs, strict=True))
        if any(flags) and eqn.primitive.name != "stop_gradient":
            moves.update(filter(_is_float, eqn.outvars))
    return [read(atom) for atom in jaxpr.outvars]


def _is_float(var: Any) -> bool:
    return jnp.issubdtype(var.aval.dtype, jnp.inexact)


def _apply(
    guards: Guards, eqn: jex.JaxprEqn, args: list[Any], moving: list[bool]
) -> Any:
    """The equation's outputs, with guards in it and in the jaxprs that it calls."""
    params = eqn.params
    match eqn.primitive.name:
        case "jit" | "pjit":
            return _closed(guards, params["jaxpr"], moving)(*args)
        case "closed_call" | "eval_jaxpr":  # its name from jax 0.12 on
            return _closed(guards, params["call_jaxpr"], moving)(*args)
        case "checkpoint" | "remat2":
            # its jaxpr is an open one
            again = jax.checkpoint(
                lambda *args: _evaluate(guards, params["jaxpr"], (), args, moving),
                policy=params["policy"],
                prevent_cse=params["prevent_cse"],
            )
            return again(*args)
        case "cond":
            return _selection(guards, params["branches"], args, moving)
        case "while":
            return _while(guards, params, args)
        case "scan":
            return _scan(guards, params, args)
    return bind(eqn.primitive, eqn.params, *args)


def _selection(
    guards: Guards, branches: Any, args: list[Any], moving: list[bool]
) -> list[Any]:
    """Every branch, and the outputs of one of them; see `selecting`."""
    index, *inputs = args
    cases = []
    for i, branch in enumerate(branches):
        own = [
            jnp.where(index == i, x, jax.lax.stop_gradient(x)) if moves else x
            for x, moves in zip(inputs, moving[1:], strict=True)
        ]
        cases.append(_closed(guards, branch, moving[1:])(*own))
    return [jax.lax.select_n(index, *outs) for outs in zip(*cases, strict=True)]


def _closed(
    guards: Guards, closed: jex.ClosedJaxpr, moving: Sequence[bool] | None = None
) -> Callable[..., list[Any]]:
    """A jaxpr with its constants as a function; None: all that it takes moves."""

    def run(*args):
        flags = [False] * len(closed.consts) + list(moving or [True] * len(args))
        return _evaluate(guards, closed.jaxpr, closed.consts, args, flags)

    return run


def _while(guards: Guards, params: Mapping[str, Any], args: list[Any]) -> list[Any]:
    body_start = params["cond_nconsts"]
    start = body_start + params["body_nconsts"]
    cond, body = (_closed(guards, params[f"{name}_jaxpr"]) for name in ("cond", "body"))
    return jax.lax.while_loop(
        lambda carry: cond(*args[:body_start], *carry)[0],
        lambda carry: body(*args[body_start:start], *carry),
        args[start:],
    )


def _scan(guards: Guards, params: Mapping[str, Any], args: list[Any]) -> list[Any]:
    start, num_carry = scan_counts(params)
    body = _closed(guards, params["jaxpr"])

    def step(carry, xs):
        outs = body(*args[:start], *carry, *xs)
        return outs[:num_carry], outs[num_carry:]

    carry, ys = jax.lax.scan(
        step,
        args[start : start + num_carry],
        args[start + num_carry :],
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*carry, *ys]
