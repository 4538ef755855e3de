"""Run a function with every derivative in it kept finite."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax.core import Tracer, eval_jaxpr
from jax.custom_derivatives import SymbolicZero

from jmeta._jaxpr import bind
from jmeta._primitives import scan_counts
from jmeta._rules import true_derivative

_ELEMENTWISE = dict.fromkeys(
    "cbrt digamma div exp exp2 expm1 integer_pow lgamma log log1p pow rsqrt sqrt square"
    " tan".split(),
    1.0,
) | {"acos": 0.5, "acosh": 2.0, "asin": 0.5, "atan2": 1.0, "atanh": 0.5, "erf_inv": 0.5}
"""Primitives that act entry by entry and whose slope can be infinite or NaN.

With a place where it is neither.
"""

_BILINEAR = frozenset({"mul", "dot_general"})
"""Primitives of two operands whose slope in the one is the other."""


def guarded(fun: Callable[..., Any]) -> Callable[..., Any]:
    """Take an operation as constant, in derivatives, where its slope is not finite.

    The function is traced; without differentiation its jaxpr is evaluated as it is.
    For derivatives it is evaluated primitive by primitive, and those whose slope can
    be infinite or NaN see a harmless operand where it is, and their own value, as a
    constant, is put in place of what comes out. A derivative rule for each primitive
    would read better, but `scan` in reverse mode drops the rules inside its body, so
    that second derivatives would be NaN again. Operations with a custom derivative
    rule keep it.

    Args:
        fun: Function of arrays in pytrees; may capture traced values.

    Returns:
        A function with the same values.

    Example:
        >>> f = lambda x: jnp.sqrt(x) * jnp.log(x)
        >>> jax.grad(f)(0.0).item(), jax.grad(guarded(f))(0.0).item()
        (nan, 0.0)
    """

    def run(*args: Any) -> Any:
        closed, shape = jax.make_jaxpr(fun, return_shape=True)(*args)
        flat = _with_rule(closed)(*closed.consts, *jax.tree.leaves(args))
        return jax.tree.structure(shape).unflatten(flat)

    return run


def _with_rule(closed: jex.ClosedJaxpr) -> Callable[..., list[Any]]:
    """The jaxpr as a function of constants and inputs, guarded when differentiated."""
    num_consts = len(closed.consts)

    @jax.custom_jvp
    def run(*values):
        consts, args = values[:num_consts], values[num_consts:]
        return list(eval_jaxpr(closed.jaxpr, consts, *args))

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
            return _evaluate(closed.jaxpr, values[:num_consts], *values[num_consts:])

        return jax.jvp(at, [primals[i] for i in moving], list(moving.values()))

    run.defjvp(jvp, symbolic_zeros=True)
    return run


def _evaluate(jaxpr: jex.Jaxpr, consts: Sequence[Any], *args: Any) -> list[Any]:
    values = dict(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))

    def read(atom):
        return atom.val if isinstance(atom, jex.Literal) else values[atom]

    for eqn in jaxpr.eqns:
        out = _apply(eqn, [read(atom) for atom in eqn.invars])
        outs = out if eqn.primitive.multiple_results else [out]
        values.update(zip(eqn.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(eqn: jex.JaxprEqn, args: list[Any]) -> Any:
    """The equation's outputs, with guards in it and in the jaxprs that it calls."""
    params = eqn.params
    match eqn.primitive.name:
        case "jit" | "closed_call":
            return _closed(params["jaxpr"])(*args)
        case "checkpoint" | "remat2":
            # its jaxpr is an open one
            again = jax.checkpoint(
                partial(_evaluate, params["jaxpr"], ()),
                policy=params["policy"],
                prevent_cse=params["prevent_cse"],
            )
            return again(*args)
        case "cond":
            return jax.lax.switch(
                args[0], [*map(_closed, params["branches"])], *args[1:]
            )
        case "while":
            return _while(params, args)
        case "scan":
            return _scan(params, args)
        case name if name in _ELEMENTWISE and _is_float(args):
            return _elementwise(
                partial(bind, eqn.primitive, eqn.params), args, _ELEMENTWISE[name]
            )
        case name if name in _BILINEAR and _is_float(args):
            return _bilinear(partial(bind, eqn.primitive, eqn.params), args)
    return bind(eqn.primitive, eqn.params, *args)


def _closed(closed: jex.ClosedJaxpr) -> Callable[..., list[Any]]:
    return partial(_evaluate, closed.jaxpr, closed.consts)


def _while(params: dict[str, Any], args: list[Any]) -> list[Any]:
    body_start = params["cond_nconsts"]
    start = body_start + params["body_nconsts"]
    cond, body = _closed(params["cond_jaxpr"]), _closed(params["body_jaxpr"])
    return jax.lax.while_loop(
        lambda carry: cond(*args[:body_start], *carry)[0],
        lambda carry: body(*args[body_start:start], *carry),
        args[start:],
    )


def _scan(params: dict[str, Any], args: list[Any]) -> list[Any]:
    start, num_carry = scan_counts(params)
    body = _closed(params["jaxpr"])

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


def _elementwise(bind: Callable, args: list[Any], harmless: float) -> Any:
    still = [jax.lax.stop_gradient(x) for x in args]
    good = jnp.array(True)
    moving = list(args)
    # only what is traced can be differentiated
    traced = [i for i, x in enumerate(args) if isinstance(x, Tracer) and _is_float([x])]
    for i in traced:
        along = lambda x, i=i: bind(*still[:i], x, *still[i + 1 :])
        slope = jax.jvp(along, (still[i],), (jnp.ones_like(still[i]),))[1]
        good = good & jnp.isfinite(slope)
    for i in traced:
        moving[i] = jnp.where(good, args[i], jnp.full_like(args[i], harmless))
    return jnp.where(good, bind(*moving), bind(*still))


def _bilinear(bind: Callable, args: list[Any]) -> Any:
    out = bind(*map(jax.lax.stop_gradient, args))
    finite = [jnp.where(jnp.isfinite(x), x, jnp.zeros_like(x)) for x in args]
    return jnp.where(jnp.isfinite(out), bind(*finite), out)


def _is_float(args: Sequence[Any]) -> bool:
    return jnp.issubdtype(jnp.result_type(args[0]), jnp.inexact)
