"""Which inputs an output depends on, as its derivative sees them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex

from jmeta._compat import scan_counts, split_constants
from jmeta._core.tree import is_inexact
from jmeta._jaxpr.interpret import AnyJaxpr, apply_equation, called_jaxpr, walk
from jmeta._jaxpr.rules import rule_origin

Indices = frozenset[Any]
"""Of inputs that a value depends on; a `Cut` may put in what it wants to find."""

Cut = Callable[[str, jex.JaxprEqn | None, Indices], Indices]
"""`(reason, equation, indices) -> indices` that go on where no derivative does."""

_NESTED = 3
"""Rules within rules that are followed; one that calls itself has no end."""


def dependencies(fun: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    """Find which inputs each output of a function can be differentiated by.

    An input counts when a path of floating-point values leads from it to the output
    that no `stop_gradient` cuts. Of a function with a derivative rule of its own the
    rule counts, not what it computes with.

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
    outputs = follow_indices(closed, own_indices(closed.jaxpr.invars))
    return jax.tree.structure(shape).unflatten(outputs), shape


def own_indices(variables: Sequence[Any]) -> list[Indices]:
    """For each variable its own index, to begin with."""
    return [frozenset((i,)) for i in range(len(variables))]


def drop_all(reason: str, eqn: jex.JaxprEqn | None, indices: Indices) -> Indices:
    """A cut after which nothing goes on."""
    del reason, eqn, indices
    return frozenset()


def follow_indices(
    jaxpr: AnyJaxpr, inputs: Sequence[Indices], cut: Cut = drop_all
) -> list[Indices]:
    """Follow sets of indices from a jaxpr's inputs to its outputs."""
    return _Flow(cut, 0).through(jaxpr, inputs)


class _Flow:
    """What holds for all equations: the cut, and the rules that were traced so far."""

    def __init__(self, cut: Cut, depth: int):
        self.cut, self.depth = cut, depth
        self.rules: dict[int, tuple[list[Indices], list[Indices]]] = {}

    def through(self, jaxpr: AnyJaxpr, inputs: Sequence[Indices]) -> list[Indices]:
        def visit(eqn, inputs):
            outputs = self.equation(eqn, inputs)
            return self.floats(eqn.outvars, outputs, eqn)

        inner, _ = split_constants(jaxpr)
        inputs = self.floats(inner.invars, inputs)
        return walk(jaxpr, visit, inputs, lambda constant: frozenset())

    def floats(self, variables, indices, eqn=None) -> list[Indices]:
        """The indices, cut where a variable is an integer."""
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
        # a rule of JAX's own is followed like an operation, one of jmeta's like a call
        if inner is not None and (found is None or found.owner == "jmeta"):
            return self.through(inner, inputs)
        return [frozenset().union(*inputs)] * len(eqn.outvars)

    def by_rule(self, eqn: jex.JaxprEqn, inputs: list[Indices]) -> list[Indices]:
        """Let go on what the rule reaches, and cut what is only computed with."""
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
        """A loop's carry when no more inputs reach it, and what its body then gives."""
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
    """The inputs that each output is computed with, differentiably or not."""
    if (inner := called_jaxpr(eqn)) is not None:
        return follow_indices(
            inner, own_indices(eqn.invars), lambda reason, eqn, indices: indices
        )
    return [frozenset(range(len(eqn.invars)))] * len(eqn.outvars)


def _reached(eqn: jex.JaxprEqn, depth: int) -> list[Indices]:
    """The inputs that each output's derivative rule reaches.

    The rule is traced, in reverse or else in forward mode. One that cannot be traced by
    itself counts as reaching every input.
    """
    floats = [i for i, v in enumerate(eqn.invars) if is_inexact(v.aval)]
    outputs = [k for k, v in enumerate(eqn.outvars) if is_inexact(v.aval)]
    values = [_struct(v) for v in eqn.invars]
    tangents = [values[i] for i in floats]
    cotangents = [_struct(eqn.outvars[k]) for k in outputs]

    def at(values):
        def run(moving):
            full = list(values)
            for i, value in zip(floats, moving, strict=True):
                full[i] = value
            outs = apply_equation(eqn, full)
            return [outs[k] for k in outputs]

        return run, [values[i] for i in floats]

    def forward(values, tangents):
        run, moving = at(values)
        return jax.jvp(run, (moving,), (tangents,))[1]

    def backward(values, cotangents):
        run, moving = at(values)
        return jax.vjp(run, moving)[1](cotangents)[0]

    def sources(rule, starts):
        closed = jax.make_jaxpr(rule)(values, starts)
        nothing = [frozenset()] * len(values)
        return _Flow(drop_all, depth).through(closed, [*nothing, *own_indices(starts)])

    # an integer output has no rule, and is cut as one by who asks
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
