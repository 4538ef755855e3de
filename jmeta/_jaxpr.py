"""Functions as data: what a function captures, which inputs an output depends on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import jax.extend.core as jex
import jax.numpy as jnp

Indices = frozenset[int]


class Hoisted(NamedTuple):
    """A function that captures nothing, and what it used to capture.

    Attributes:
        pure: `pure(captured, *args)` gives what the function gave for `args`.
        captured: The captured values.
        jaxpr: The function's jaxpr, with `captured` as its constants.
    """

    pure: Callable[..., Any]
    captured: list[Any]
    jaxpr: jex.ClosedJaxpr


def hoist(fun: Callable[..., Any], *args: Any) -> Hoisted:
    """Split a function into a pure one and the values that it captures.

    Custom derivative rules cannot close over traced values. This traces `fun` once and
    turns every value that it captures, whatever its type, into an argument.

    Args:
        fun: Function of arrays in pytrees.
        *args: What it is going to be called with, or arrays of that shape and dtype.

    Returns:
        The pure function and the captured values.

    Example:
        >>> import jax.numpy as jnp
        >>> scale = jnp.array(3.0)
        >>> pure, captured, _ = hoist(lambda x: scale * x, jnp.array(2.0))
        >>> float(pure(captured, 2.0)), float(pure([10.0], 2.0)), len(captured)
        (6.0, 20.0, 1)
    """
    closed, shape = jax.make_jaxpr(fun, return_shape=True)(*args)
    out_tree = jax.tree.structure(shape)

    def pure(captured: Sequence[Any], *args: Any) -> Any:
        flat = jax.core.eval_jaxpr(closed.jaxpr, captured, *jax.tree.leaves(args))
        return out_tree.unflatten(flat)

    return Hoisted(pure, list(closed.consts), closed)


def dependencies(fun: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    """Find which inputs each output of a function can be differentiated by.

    An input counts when a path of floating-point values leads from it to the output
    that no `stop_gradient` cuts.

    Args:
        fun: Function of arrays in pytrees; what it captures is not reported.
        *args: What it is called with.

    Returns:
        A pytree like the output whose leaves are the indices of the leaves of `args`
        they depend on, and the output's shapes.

    Example:
        >>> import jax
        >>> f = lambda x, y, z: (x * y, jax.lax.stop_gradient(x) * z)
        >>> [sorted(leaf) for leaf in dependencies(f, 1.0, 2.0, 3.0)[0]]
        [[0, 1], [2]]
    """
    closed, shape = jax.make_jaxpr(fun, return_shape=True)(*args)
    inputs = [frozenset((i,)) for i in range(len(closed.jaxpr.invars))]
    outputs = flow(closed, inputs)
    return jax.tree.structure(shape).unflatten(outputs), shape


def flow(
    jaxpr: jex.Jaxpr | jex.ClosedJaxpr, inputs: Sequence[Indices]
) -> list[Indices]:
    """Follow sets of indices from a jaxpr's inputs to its outputs."""
    if isinstance(jaxpr, jex.ClosedJaxpr):
        jaxpr = jaxpr.jaxpr
    known = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom):
        if isinstance(atom, jex.Literal) or not _is_float(atom):
            return frozenset()
        return known.get(atom, frozenset())

    for eqn in jaxpr.eqns:
        outs = _through(eqn, [read(atom) for atom in eqn.invars])
        known.update(zip(eqn.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _through(eqn: jex.JaxprEqn, inputs: list[Indices]) -> list[Indices]:
    params = eqn.params
    match eqn.primitive.name:
        case "stop_gradient":
            return [frozenset()] * len(eqn.outvars)
        case "jit" | "pjit" | "checkpoint" | "remat2":
            return flow(params["jaxpr"], inputs)
        case "closed_call" | "custom_jvp_call" | "custom_vjp_call":
            return flow(params["call_jaxpr"], inputs)
        case "cond":
            branches = [flow(b, inputs[1:]) for b in params["branches"]]
            return [frozenset().union(*outs) for outs in zip(*branches, strict=True)]
        case "scan":
            consts = inputs[: params["num_consts"]]
            return _until_stable(params["jaxpr"], consts, inputs, params["num_carry"])
        case "while":
            skip = params["cond_nconsts"]
            end = skip + params["body_nconsts"]
            carry = len(inputs) - end
            return _until_stable(
                params["body_jaxpr"], inputs[skip:end], inputs[skip:], carry
            )
    return [frozenset().union(*inputs)] * len(eqn.outvars)


def scan_counts(params: Mapping[str, Any]) -> tuple[int, int]:
    """How many constants and carried values a scan has, from its parameters."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    # since jax 0.11 the inputs stand in a tree of constants, carry and slices
    consts, carry, _ = params["ft_in"].unpack()
    return len(consts), len(carry)


def has_foreign_rule(jaxpr: jex.Jaxpr) -> bool:
    """Whether a reverse-mode rule stands in a jaxpr that is not one of jmeta's own.

    Such a rule may give something else than the derivative (gradient reversal,
    clipping on the way back), which forward mode does not see. jmeta's own marks its
    gradient with `keep`.
    """
    for eqn in jaxpr.eqns:
        inner = [_open(sub) for sub in jex.jaxprs_in_params(eqn.params)]
        if eqn.primitive.name == "custom_vjp_call" and not any(
            sub.primitive.name == "name" for body in inner for sub in body.eqns
        ):
            return True
        if any(has_foreign_rule(body) for body in inner):
            return True
    return False


def _open(jaxpr):
    return jaxpr.jaxpr if isinstance(jaxpr, jex.ClosedJaxpr) else jaxpr


def _until_stable(body, consts, inputs, num_carry):
    """Pass a loop's carry through its body until no more inputs reach it."""
    carry = list(inputs[len(consts) : len(consts) + num_carry])
    xs = list(inputs[len(consts) + num_carry :])
    while True:
        outs = flow(body, [*consts, *carry, *xs])
        grown = [a | b for a, b in zip(carry, outs[:num_carry], strict=True)]
        if grown == carry:
            return grown + outs[num_carry:]
        carry = grown


def _is_float(atom):
    return jnp.issubdtype(atom.aval.dtype, jnp.inexact)
