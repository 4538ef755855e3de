"""What an operation's output is not below, whatever goes in."""

from typing import Any

import jax.extend.core as jex
import jax.numpy as jnp

LEAST = 1e-18
"""What counts as positive is at least this, so that its powers do not overflow."""

_SAME = frozenset("broadcast_in_dim copy reduce_max reshape squeeze transpose".split())


def non_negative(constant: Any) -> float | None:
    """A single number of at least 0; None of anything else."""
    if jnp.size(constant) != 1 or not constant >= 0:
        return None
    return float(constant)


def lower_bound(eqn: jex.JaxprEqn, bounds: list[float | None]) -> float | None:
    """The least that an equation gives, 0 or more, where that is known.

    Such as of `sqrt(x) + 1e-8` and `max(x, 1)`. A NaN may come out all the same.

    Args:
        eqn: The equation.
        bounds: The same of each operand.

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
        case name if name in _SAME and known:
            return known[0]
    return None
