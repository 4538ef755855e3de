"""Which values in a jaxpr are positive, whatever goes in."""

from typing import Any

import jax.extend.core as jex
import jax.numpy as jnp

LEAST = 1e-18
"""What counts as positive is at least this, so that its powers do not overflow."""

_SAME = frozenset("broadcast_in_dim copy reduce_max reshape squeeze transpose".split())


def positive(jaxpr: jex.Jaxpr) -> set[jex.Var]:
    """The variables of a jaxpr that are at least `LEAST`, or NaN.

    Such as `sqrt(x) + 1e-8` and `max(x, 1)`. Jaxprs within it are not looked into.

    Example:
        >>> import jax
        >>> root = jax.make_jaxpr(lambda x: (jnp.sqrt(x), jnp.sqrt(x) + 1e-8))(1.0)
        >>> [var in positive(root.jaxpr) for var in root.jaxpr.outvars]
        [False, True]
    """
    lower: dict[jex.Var, float] = {}
    for eqn in jaxpr.eqns:
        bounds = [
            _literal(v) if isinstance(v, jex.Literal) else lower.get(v)
            for v in eqn.invars
        ]
        bound = _bound(eqn, bounds)
        if bound is not None:
            lower[eqn.outvars[0]] = bound
    return {var for var, bound in lower.items() if bound >= LEAST}


def _literal(literal: jex.Literal) -> float | None:
    value: Any = literal.val
    if jnp.size(value) != 1 or jnp.iscomplexobj(value) or not value >= 0:
        return None
    return float(value)


def _bound(eqn: jex.JaxprEqn, bounds: list[float | None]) -> float | None:
    """The least that comes out, 0 or more, of operands with such bounds."""
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
