"""Find the inputs that an output depends on differentiably.

The walk goes through the equations of a jaxpr in order with a set of input indices for
each variable: an equation's outputs get the sets of all its inputs, except where no
derivative passes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex

from jmeta._compat import scan_counts, split_constants
from jmeta._core.tree import is_inexact
from jmeta._jaxpr.interpret import AnyJaxpr, apply_equation, called_jaxpr, evaluate
from jmeta._jaxpr.rule_origin import rule_origin

Indices = frozenset[Any]
"""Indices of the inputs that a value depends on; a `Cut` may add marks of its own."""

Cut = Callable[[str, jex.JaxprEqn | None, Indices], Indices]
"""`(reason, equation, indices) -> indices`: what still goes on where a path is cut."""

_NESTED = 3
"""How deep rules within rules are followed: one that calls itself has no end."""


def dependencies(fun: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    """Find which inputs each output of a function can be differentiated by.

    An input counts when a path of floating-point values leads from it to the output
    that no `stop_gradient` cuts. For a function with a derivative rule of its own the
    rule decides, not the function's operations.

    Args:
        fun: Function of arrays in pytrees; values that it captures are not reported.
        *args: Arguments of `fun`, pytrees of arrays.

    Returns:
        A pytree like the output of `fun`, with a set of indices of leaves of `args` as
        each leaf, and the output's shapes.

    Example:
        >>> import jax
        >>> f = lambda x, y, z: (x * y, jax.lax.stop_gradient(x) * z)
        >>> [sorted(leaf) for leaf in dependencies(f, 1.0, 2.0, 3.0)[0]]
        [[0, 1], [2]]
    """
    closed, shape = jax.make_jaxpr(fun, return_shape=True)(*args)
    outputs = follow_indices(closed, own_indices(closed.jaxpr.invars))
    return jax.tree.structure(shape).unflatten(outputs), shape


def own_indices(variables: Sequence[Any]) -> list[Indices]:
    """Give each variable the set of its own index, as the start of a walk.

    Args:
        variables: The inputs of a jaxpr.
    """
    return [frozenset((i,)) for i in range(len(variables))]


def drop_all(reason: str, eqn: jex.JaxprEqn | None, indices: Indices) -> Indices:
    """Let no index go on after a cut.

    Args:
        reason: Why no derivative passes.
        eqn: The equation where the path is cut, None at an input.
        indices: The indices that arrive there.

    Returns:
        The empty set.
    """
    del reason, eqn, indices
    return frozenset()


def follow_indices(
    jaxpr: AnyJaxpr, inputs: Sequence[Indices], cut: Cut = drop_all
) -> list[Indices]:
    """Follow sets of indices from a jaxpr's inputs to its outputs.

    Args:
        jaxpr: The jaxpr to walk through.
        inputs: A set of indices for each of its inputs.
        cut: Decides what goes on where no derivative passes.

    Returns:
        A set of indices for each output.
    """
    return _Flow(cut, 0).through(jaxpr, inputs)


class _Flow:
    """A walk through jaxprs, with the derivative rules that it has traced so far."""

    def __init__(self, cut: Cut, depth: int):
        self.cut, self.depth = cut, depth
        self.rules: dict[int, tuple[list[Indices], list[Indices]]] = {}

    def through(self, jaxpr: AnyJaxpr, inputs: Sequence[Indices]) -> list[Indices]:
        def visit(eqn, inputs):
            outputs = self.equation(eqn, inputs)
            return self.floats(eqn.outvars, outputs, eqn)

        inner, _ = split_constants(jaxpr)
        inputs = self.floats(inner.invars, inputs)
        return evaluate(jaxpr, visit, inputs, lambda constant: frozenset())

    def floats(self, variables, indices, eqn=None) -> list[Indices]:
        """Cut the indices where a variable is no float."""
        return [
            i if is_inexact(v.aval) else self.cut("integer", eqn, i)
            for v, i in zip(variables, indices, strict=True)
        ]

    def equation(self, eqn: jex.JaxprEqn, inputs: list[Indices]) -> list[Indices]:
        params = eqn.params
        match eqn.primitive.name:
            case "stop_gradient":
                return [self.cut("stop_gradient", eqn, inputs[0])]
            case "cond":
                branches = [self.through(b, inputs[1:]) for b in params["branches"]]
                return [inputs[0].union(*outs) for outs in zip(*branches, strict=True)]
            case "scan":
                consts, carry = scan_counts(params)
                carry, outs = self.stable(params["jaxpr"], consts, inputs, carry)
                return outs if params["length"] else carry + outs[len(carry) :]
            case "while":
                skip, consts = params["cond_nconsts"], params["body_nconsts"]
                carry = len(inputs) - skip - consts
                body, rest = params["body_jaxpr"], inputs[skip:]
                outs, _ = self.stable(body, consts, rest, carry)
                (ends,) = self.through(params["cond_jaxpr"], [*inputs[:skip], *outs])
                return [out | ends for out in outs]
        found, inner = rule_origin(eqn), called_jaxpr(eqn)
        if found and found.owner == "user" and self.depth < _NESTED:
            return self.by_rule(eqn, inputs)
        # A rule of JAX counts like an operation, whose outputs depend on all inputs. A
        # rule of jmeta may wrap a user's function, so the walk goes into it.
        if inner is not None and (found is None or found.owner == "jmeta"):
            return self.through(inner, inputs)
        return [frozenset().union(*inputs)] * len(eqn.outvars)

    def by_rule(self, eqn: jex.JaxprEqn, inputs: list[Indices]) -> list[Indices]:
        """Pass on what a user's rule reaches, and cut what it only computes with."""
        if not any(inputs):
            return [frozenset()] * len(eqn.outvars)
        if id(eqn) not in self.rules:
            self.rules[id(eqn)] = _used(eqn), _reached(eqn, self.depth + 1)
        results = []
        for used, reached in zip(*self.rules[id(eqn)], strict=True):
            follows = frozenset().union(*(inputs[i] for i in reached))
            rest = frozenset().union(*(inputs[i] for i in used)) - follows
            results.append(follows | self.cut("custom rule", eqn, rest))
        return results

    def stable(self, body, num_consts, inputs, num_carry):
        """Repeat a loop's body until no more indices reach its carry.

        Returns:
            The carry's indices, and those of the body's outputs.
        """
        consts = inputs[:num_consts]
        carry = list(inputs[num_consts : num_consts + num_carry])
        xs = list(inputs[num_consts + num_carry :])
        while True:
            outs = self.through(body, [*consts, *carry, *xs])
            grown = [a | b for a, b in zip(carry, outs[:num_carry], strict=True)]
            if grown == carry:
                return grown, outs
            carry = grown


def _used(eqn: jex.JaxprEqn) -> list[Indices]:
    """Return the inputs that each output is computed from, differentiably or not."""
    if (inner := called_jaxpr(eqn)) is not None:
        return follow_indices(
            inner, own_indices(eqn.invars), lambda reason, eqn, indices: indices
        )
    return [frozenset(range(len(eqn.invars)))] * len(eqn.outvars)


def _reached(eqn: jex.JaxprEqn, depth: int) -> list[Indices]:
    """Return the inputs that the derivative rule of each output reaches.

    The rule is traced in reverse mode, or in forward mode where that fails. A rule that
    cannot be traced by itself counts as reaching every input.
    """
    floats = [i for i, v in enumerate(eqn.invars) if is_inexact(v.aval)]
    outputs = [k for k, v in enumerate(eqn.outvars) if is_inexact(v.aval)]
    values = [_struct(v) for v in eqn.invars]
    tangents = [values[i] for i in floats]
    cotangents = [_struct(eqn.outvars[k]) for k in outputs]

    def of_floats(values):
        def apply_to(moving):
            full = list(values)
            for i, value in zip(floats, moving, strict=True):
                full[i] = value
            outs = apply_equation(eqn, full)
            return [outs[k] for k in outputs]

        return apply_to, [values[i] for i in floats]

    def forward(values, tangents):
        fun, moving = of_floats(values)
        return jax.jvp(fun, (moving,), (tangents,))[1]

    def backward(values, cotangents):
        fun, moving = of_floats(values)
        return jax.vjp(fun, moving)[1](cotangents)[0]

    def sources(rule, starts):
        closed = jax.make_jaxpr(rule)(values, starts)
        nothing = [frozenset()] * len(values)
        return _Flow(drop_all, depth).through(closed, [*nothing, *own_indices(starts)])

    # an integer output has no derivative; the walk cuts it, so it may reach all here
    reached = [frozenset(range(len(eqn.invars)))] * len(eqn.outvars)
    try:
        back = sources(backward, cotangents)
        numbers = range(len(outputs))
        found = [{j for j, ks in enumerate(back) if k in ks} for k in numbers]
    except Exception:  # a tangent in a while loop, or whatever the rule raises
        try:
            found = sources(forward, tangents)
        except Exception:
            return reached
    for k, indices in zip(outputs, found, strict=True):
        reached[k] = frozenset(floats[j] for j in indices)
    return reached


def _struct(atom):
    return jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype)
