"""Functions as data: what a function captures, which inputs an output depends on."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.core
import jax.extend.core as jex
import jax.numpy as jnp

from jmeta._primitives import scan_counts

Indices = frozenset[Any]
"""Of inputs that a value depends on; `Watch.cut` may put in what it wants to find."""


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


class Watch(NamedTuple):
    """What becomes of a dependency that no derivative follows; by default, nothing.

    Attributes:
        cut: `(reason, equation, indices) -> indices` that go on from a cut.
        rule: `equation -> [inputs that each output's derivative rule reaches]` of a
            function with a custom rule, or None for all that it computes with.
    """

    cut: Callable[[str, jex.JaxprEqn | None, Indices], Indices] = (
        lambda reason, eqn, indices: frozenset()
    )
    rule: Callable[[jex.JaxprEqn], list[set[int]] | None] = lambda eqn: None


_DROP = Watch()


def flow(
    jaxpr: jex.Jaxpr | jex.ClosedJaxpr,
    inputs: Sequence[Indices],
    watch: Watch = _DROP,
) -> list[Indices]:
    """Follow sets of indices from a jaxpr's inputs to its outputs."""
    if isinstance(jaxpr, jex.ClosedJaxpr):
        jaxpr = jaxpr.jaxpr
    known = {}

    def write(variables, indices, eqn=None):
        for v, i in zip(variables, indices, strict=True):
            known[v] = i if _is_float(v) else watch.cut("integer", eqn, i)

    def read(atom):
        if isinstance(atom, jex.Literal):
            return frozenset()
        return known.get(atom, frozenset())

    write(jaxpr.invars, inputs)
    for eqn in jaxpr.eqns:
        write(eqn.outvars, _through(eqn, [read(v) for v in eqn.invars], watch), eqn)
    return [read(atom) for atom in jaxpr.outvars]


def called(eqn: jex.JaxprEqn) -> jex.Jaxpr | jex.ClosedJaxpr | None:
    """The jaxpr that an equation runs once on its inputs, if it is such a call."""
    match eqn.primitive.name:
        case "jit" | "pjit" | "checkpoint" | "remat2":
            return eqn.params["jaxpr"]
        case "closed_call" | "custom_jvp_call" | "custom_vjp_call":
            return eqn.params["call_jaxpr"]
    return None


def evaluate(eqn: jex.JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """What an equation gives for these inputs."""
    inputs = {
        atom: value
        for atom, value in zip(eqn.invars, values, strict=True)
        if not isinstance(atom, jex.Literal)
    }
    single = _empty_jaxpr().replace(
        invars=list(inputs), outvars=eqn.outvars, eqns=[eqn], effects=eqn.effects
    )
    return jax.core.eval_jaxpr(single, (), *inputs.values())


@functools.cache
def _empty_jaxpr() -> jex.Jaxpr:
    return jax.make_jaxpr(lambda: ())().jaxpr


def place(eqn: jex.JaxprEqn) -> str:
    """The line that an equation comes from, as `file.py:12 in function`.

    The user's where it is known; jax forgets who called a loop within its body, and
    then it is jmeta's.
    """
    traceback = eqn.source_info.traceback
    own = ""
    for frame in traceback.frames if traceback else ():
        path = Path(frame.file_name)
        if "site-packages" in path.parts:
            continue
        function = frame.function_name.rpartition(".")[2]
        line = f"{path.name}:{frame.line_num} in {function}"
        if _PACKAGE not in path.parents:
            return line
        own = own or f"jmeta/{line}"
    return own


_PACKAGE = Path(__file__).parent


def _through(eqn: jex.JaxprEqn, inputs: list[Indices], watch: Watch) -> list[Indices]:
    params = eqn.params
    match eqn.primitive.name:
        case "stop_gradient":
            return [watch.cut("stop_gradient", eqn, inputs[0])]
        case "custom_jvp_call" | "custom_vjp_call":
            outs = flow(params["call_jaxpr"], inputs, watch)
            return _by_rule(eqn, inputs, outs, watch)
        case "cond":
            branches = [flow(b, inputs[1:], watch) for b in params["branches"]]
            return [inputs[0].union(*outs) for outs in zip(*branches, strict=True)]
        case "scan":
            consts, carry = scan_counts(params)
            return _until_stable(params["jaxpr"], consts, inputs, carry, watch)
        case "while":
            skip, consts = params["cond_nconsts"], params["body_nconsts"]
            carry = len(inputs) - skip - consts
            body, rest = params["body_jaxpr"], inputs[skip:]
            outs = _until_stable(body, consts, rest, carry, watch)
            (ends,) = flow(params["cond_jaxpr"], [*inputs[:skip], *outs], watch)
            return [out | ends for out in outs]
    if (inner := called(eqn)) is not None:
        return flow(inner, inputs, watch)
    return [frozenset().union(*inputs)] * len(eqn.outvars)


def _by_rule(eqn, inputs, outs, watch):
    """Cut what a function computes with but its derivative rule leaves out."""
    reached = watch.rule(eqn)
    if reached is None:
        return outs
    results = []
    for out, indices in zip(outs, reached, strict=True):
        follows = frozenset().union(*(inputs[i] for i in indices))
        cut = watch.cut("custom rule", eqn, out - follows)
        results.append((out & follows) | cut)
    return results


def _until_stable(body, num_consts, inputs, num_carry, watch):
    """Pass a loop's carry through its body until no more inputs reach it."""
    consts = inputs[:num_consts]
    carry = list(inputs[num_consts : num_consts + num_carry])
    xs = list(inputs[num_consts + num_carry :])
    while True:
        outs = flow(body, [*consts, *carry, *xs], watch)
        grown = [a | b for a, b in zip(carry, outs[:num_carry], strict=True)]
        if grown == carry:
            return grown + outs[num_carry:]
        carry = grown


def _is_float(atom):
    return jnp.issubdtype(atom.aval.dtype, jnp.inexact)
