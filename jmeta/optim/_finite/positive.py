"""Lower bounds of an operation's output that hold for any input."""

from typing import Any

import jax.extend.core as jex
import jax.numpy as jnp

SMALLEST_POSITIVE = 1e-18
"""Least number that counts as positive; smaller ones have powers that overflow."""

_OUTPUTS_ARE_INPUTS = frozenset(
    "broadcast_in_dim copy reduce_max reshape squeeze transpose".split()
)


def bound_of_constant(constant: Any) -> float | None:
    """Lower bound of a constant: its value if it is one number of at least 0."""
    if jnp.size(constant) != 1 or jnp.iscomplexobj(constant) or not constant >= 0:
        return None
    return float(constant)


def lower_bound(eqn: jex.JaxprEqn, bounds: list[float | None]) -> float | None:
    """Lower bound of at least 0 of an equation's outputs, None if none is known.

    It is known of `sqrt(x) + 1e-8` and `max(x, 1)`, for example. An output can be NaN
    all the same.

    Args:
        eqn: Equation whose outputs are bounded.
        bounds: Lower bound of each operand, None if none is known.

    Returns:
        The bound of every entry of every output.

    Example:
        >>> import jax
        >>> root, sum = jax.make_jaxpr(lambda x: jnp.sqrt(x) + 1e-8)(1.0).eqns
        >>> lower_bound(root, [None]), lower_bound(sum, [0.0, 1e-8])
        (0.0, 1e-08)
    """
    known = [bound for bound in bounds if bound is not None]
    match eqn.primitive.name:
        case "abs" | "sqrt" | "square":
            return 0.0
        case "integer_pow" if eqn.params["y"] % 2 == 0 and eqn.params["y"] > 0:
            return 0.0
        case "max" if known:
            return max(known)
        case "add" if len(known) == 2:
            return max(known)
        case "reduce_sum" | "mul" if len(known) == len(bounds):
            return 0.0
        case name if name in _OUTPUTS_ARE_INPUTS and known:
            return known[0]
    return None
