"""Walk through a jaxpr with a visitor that computes the outputs of each equation.

`evaluate` calls the visitor for the equations in the order in which they run, and
passes the outputs on to later equations. The visitor chooses what stands for a value:
an array, an array with facts about it, or the facts alone. Visitors replace
convolutions, keep derivatives finite, put selections in place of branches, find where a
NaN arises and find what depends on what. An equation can hold jaxprs of its own (a
loop, a branch, a call); a visitor walks through these with `called_jaxpr` or
`apply_with_inner`.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.core
import jax.extend.core as jex

from jmeta._compat import (
    INLINED_CALLS,
    bind,
    scan_counts,
    scan_options,
    split_constants,
)
from jmeta._jaxpr.primitives import inner_jaxprs

AnyJaxpr = jex.Jaxpr | jex.ClosedJaxpr
"""A jaxpr with constants of its own or without."""

Visit = Callable[[jex.JaxprEqn, list[Any]], Sequence[Any]]
"""`(equation, inputs) -> outputs`."""

Run = Callable[[AnyJaxpr, Sequence[Any]], Sequence[Any]]
"""`(jaxpr, inputs) -> outputs`, which runs a jaxpr within an equation."""


def evaluate(
    jaxpr: AnyJaxpr,
    visit: Visit,
    inputs: Sequence[Any],
    lift: Callable[[Any], Any] = lambda value: value,
) -> list[Any]:
    """Visit the equations of a jaxpr in the order in which they run.

    Args:
        jaxpr: The jaxpr to walk through.
        visit: Computes the outputs of an equation from its inputs.
        inputs: What stands for each input of the jaxpr.
        lift: Maps a literal or a constant of the jaxpr to what stands for it.

    Returns:
        What stands for each output of the jaxpr.

    Example:
        >>> import jax.numpy as jnp
        >>> names = lambda eqn, sets: [{eqn.primitive.name}.union(*sets)]
        >>> closed = jax.make_jaxpr(lambda x, y: (jnp.sin(x) * y, jnp.cos(y)))(1.0, 2.0)
        >>> [
        ...     sorted(s)
        ...     for s in evaluate(closed, names, [set(), set()], lambda _: set())
        ... ]
        [['mul', 'sin'], ['cos']]
    """
    inner, consts = split_constants(jaxpr)
    values = dict(zip(inner.constvars, map(lift, consts), strict=True))
    values.update(zip(inner.invars, inputs, strict=True))

    def read(atom):
        return lift(atom.val) if isinstance(atom, jex.Literal) else values[atom]

    for eqn in inner.eqns:
        outputs = visit(eqn, [read(atom) for atom in eqn.invars])
        values.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in inner.outvars]


def apply_equation(eqn: jex.JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Apply an equation, unchanged, to arrays.

    Args:
        eqn: The equation.
        values: An array for each of its inputs.

    Returns:
        An array for each output.
    """
    inputs = {
        atom: value
        for atom, value in zip(eqn.invars, values, strict=True)
        if not isinstance(atom, jex.Literal)
    }
    single = _empty_jaxpr().replace(
        invars=list(inputs), outvars=eqn.outvars, eqns=[eqn], effects=eqn.effects
    )
    return jax.core.eval_jaxpr(single, (), *inputs.values())


def as_function(eqn: jex.JaxprEqn) -> Callable[..., Any]:
    """Turn an equation into a function, to call it on other operands.

    Args:
        eqn: The equation, whose primitive and parameters are used.

    Returns:
        A function of the operands that gives an array, or a list of arrays.
    """
    return functools.partial(bind, eqn.primitive, eqn.params)


def called_jaxpr(eqn: jex.JaxprEqn) -> AnyJaxpr | None:
    """Return the jaxpr that an equation runs once on its inputs.

    Args:
        eqn: Any equation.

    Returns:
        The jaxpr, or None where the equation is no such call.
    """
    match eqn.primitive.name:
        case "jit" | "remat2":
            return eqn.params["jaxpr"]
        case name if name in INLINED_CALLS:
            return eqn.params["call_jaxpr"]
        case "custom_jvp_call" | "custom_vjp_call" | "remembered_call":
            return eqn.params["call_jaxpr"]
        case "custom_vmap_call":
            return eqn.params["call"]
    return None


def apply_with_inner(
    eqn: jex.JaxprEqn, values: Sequence[Any], run: Run
) -> Sequence[Any] | None:
    """Apply an equation with `run` in place of the jaxprs in it.

    It enters calls, `jax.checkpoint`, `cond`, `scan` and `while`. It does not enter a
    function with a derivative rule of its own, since that rule would not belong to what
    `run` computes.

    Args:
        eqn: The equation.
        values: An array for each of its inputs.
        run: Computes a jaxpr's outputs from its inputs; traced for each jaxpr in a
            branch or a loop.

    Returns:
        An array for each output, or None where the equation has nothing to enter.
    """
    params = eqn.params
    match eqn.primitive.name:
        case "jit":
            return _enter_jit(eqn, values, run)
        case name if name in INLINED_CALLS:
            return run(params["call_jaxpr"], values)
        case "remat2":
            again = jax.checkpoint(
                lambda *values: run(params["jaxpr"], values),
                policy=params["policy"],
                prevent_cse=params["prevent_cse"],
            )
            return again(*values)
        case "cond":
            branches = [_taking_inputs(run, branch) for branch in params["branches"]]
            return jax.lax.switch(values[0], branches, *values[1:])
        case "while":
            return _enter_while(params, values, run)
        case "scan":
            return _enter_scan(params, values, run)
    return None


def enterable_jaxprs(eqn: jex.JaxprEqn) -> Iterator[jex.Jaxpr]:
    """Yield the jaxprs in an equation that `apply_with_inner` runs.

    Args:
        eqn: Any equation.

    Yields:
        Jaxprs without their constants.
    """
    if eqn.primitive.name in _ENTERED:
        yield from inner_jaxprs(eqn.params)


_ENTERED = frozenset({"jit", "remat2", "cond", "scan", "while"}) | INLINED_CALLS


def _taking_inputs(run: Run, jaxpr: AnyJaxpr) -> Callable[..., list[Any]]:
    return lambda *values: list(run(jaxpr, values))


def _enter_jit(eqn, values, run):
    # stays a jit call: its parameters may hold shardings of its values
    jaxpr = eqn.params["jaxpr"]
    again = jax.make_jaxpr(_taking_inputs(run, jaxpr))(*jaxpr.in_avals)
    return bind(eqn.primitive, {**eqn.params, "jaxpr": again}, *values)


def _enter_while(params, values, run):
    body_start = params["cond_nconsts"]
    start = body_start + params["body_nconsts"]
    cond, body = (
        _taking_inputs(run, params[f"{name}_jaxpr"]) for name in ("cond", "body")
    )
    return jax.lax.while_loop(
        lambda carry: cond(*values[:body_start], *carry)[0],
        lambda carry: body(*values[body_start:start], *carry),
        list(values[start:]),
    )


def _enter_scan(params, values, run):
    start, num_carry = scan_counts(params)
    body = _taking_inputs(run, params["jaxpr"])

    def step(carry, xs):
        outs = body(*values[:start], *carry, *xs)
        return outs[:num_carry], outs[num_carry:]

    carry, ys = jax.lax.scan(
        step,
        list(values[start : start + num_carry]),
        list(values[start + num_carry :]),
        **scan_options(params),
    )
    return [*carry, *ys]


@functools.cache
def _empty_jaxpr() -> jex.Jaxpr:
    return jax.make_jaxpr(lambda: ())().jaxpr
