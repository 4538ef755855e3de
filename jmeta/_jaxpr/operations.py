"""Count the arithmetic of a jaxpr, with every pass of its loops."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.extend.core as jex

from jmeta._compat import scan_counts, split_constants
from jmeta._jaxpr.interpret import called_jaxpr


def count_operations(closed: jex.ClosedJaxpr) -> float:
    """Count the additions, multiplications and function evaluations of a jaxpr.

    A product of matrices or a convolution counts two for each multiplication and
    addition, an elementwise function one for each output element, a reduction one for
    each input element. A scan counts its body once for each step, `cond` its most
    expensive branch, `while` a single pass, since its number of passes is not known.
    Operations that no output needs count nothing, and neither do those that only move
    numbers.

    Args:
        closed: The jaxpr.

    Returns:
        The number of operations.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> body = lambda w, x: (w + x, None)
        >>> sums = lambda w: jax.lax.scan(body, w, jnp.ones((10, 3)))[0]
        >>> count_operations(jax.make_jaxpr(sums)(jnp.ones(3)))
        30.0
    """
    return _count(closed, [True] * len(closed.jaxpr.outvars))[0]


def _count(jaxpr, wanted: Sequence[bool]) -> tuple[float, list[bool]]:
    """Count the operations for the wanted outputs.

    Returns:
        The count, and for each input whether the wanted outputs need it.
    """
    jaxpr, _ = split_constants(jaxpr)
    needed, total = set(), 0.0

    # backwards, so that each equation knows whether a later one needs its outputs
    def need(atoms, flags):
        needed.update(
            atom
            for atom, flag in zip(atoms, flags, strict=True)
            if flag and not isinstance(atom, jex.Literal)
        )

    need(jaxpr.outvars, wanted)
    for eqn in reversed(jaxpr.eqns):
        outs = [v in needed for v in eqn.outvars]
        if any(outs):
            operations, ins = _of_equation(eqn, outs)
            need(eqn.invars, ins)
            total += operations
    return total, [v in needed for v in jaxpr.invars]


def _of_equation(eqn: jex.JaxprEqn, wanted: list[bool]) -> tuple[float, list[bool]]:
    all_inputs = [True] * len(eqn.invars)
    if (inner := called_jaxpr(eqn)) is not None:
        return _count(inner, wanted)
    match eqn.primitive.name:
        case "scan":
            return _scan(eqn, wanted)
        case "cond":
            branches = [_count(branch, wanted) for branch in eqn.params["branches"]]
            ins = [any(flags) for flags in zip(*(b[1] for b in branches), strict=True)]
            return max(b[0] for b in branches), [True, *ins]
        case "while":
            parts = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]
            return sum(map(count_operations, parts)), all_inputs
        case "custom_linear_solve":
            return count_operations(eqn.params["jaxprs"].solve), all_inputs
        case "shard_map":
            inner = eqn.params["jaxpr"]
            return _count(inner, [True] * len(inner.outvars))[0], all_inputs
    return _primitive(eqn), all_inputs


def _scan(eqn, wanted):
    body, (start, num_carry) = eqn.params["jaxpr"], scan_counts(eqn.params)
    carry, ys = wanted[:num_carry], wanted[num_carry:]
    # what a step feeds to the next one is wanted too: repeat until nothing is added
    while True:
        operations, ins = _count(body, [*carry, *ys])
        fed_back = ins[start : start + num_carry]
        grown = [a or b for a, b in zip(carry, fed_back, strict=True)]
        if grown == carry:
            return operations * eqn.params["length"], ins
        carry = grown


def _primitive(eqn: jex.JaxprEqn) -> float:
    name = eqn.primitive.name
    if name in _COUNTS:
        return _COUNTS[name](eqn)
    if name in _FREE:
        return 0.0
    if name.startswith(("reduce_", "arg", "cum", "scatter", "select_and")):
        return float(max(_size(v) for v in eqn.invars))
    return float(sum(_size(v) for v in eqn.outvars))


# These only rearrange, select or convert numbers.
_FREE = frozenset(
    """
    broadcast_in_dim concatenate convert_element_type copy copy_p dynamic_slice
    dynamic_update_slice expand_dims gather iota name optimization_barrier pad pvary
    random_unwrap random_wrap reduce_precision reshape rev scatter select_n slice split
    squeeze stop_gradient transpose
    """.split()
)


def _shape(atom: Any) -> tuple[int, ...]:
    return getattr(atom.aval, "shape", ())


def _size(atom: Any) -> int:
    return math.prod(_shape(atom))


def _dot_general(eqn: jex.JaxprEqn) -> float:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    shape = _shape(eqn.invars[0])
    return 2.0 * _size(eqn.outvars[0]) * math.prod(shape[i] for i in contracted)


def _convolution(eqn: jex.JaxprEqn) -> float:
    # a grouped kernel's input dimension holds the features of one group alone
    kernel, dims = _shape(eqn.invars[1]), eqn.params["dimension_numbers"]
    return 2.0 * _size(eqn.outvars[0]) * math.prod(kernel[i] for i in dims.rhs_spec[1:])


def _factorisation(share: float) -> Callable[[jex.JaxprEqn], float]:
    return lambda eqn: share * _size(eqn.invars[0]) * _shape(eqn.invars[0])[-1]


def _triangular_solve(eqn: jex.JaxprEqn) -> float:
    return float(_size(eqn.invars[1]) * _shape(eqn.invars[0])[-1])


_COUNTS: dict[str, Callable[[jex.JaxprEqn], float]] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    "cholesky": _factorisation(1 / 3),
    "lu": _factorisation(2 / 3),
    "triangular_solve": _triangular_solve,
}
