"""Guards that find slopes that are not finite by computing them."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jmeta.optim._finite.visitor import Guards, Operand

_REGULAR_POINTS = dict.fromkeys(
    "cbrt digamma div exp exp2 expm1 integer_pow lgamma log log1p pow rsqrt sqrt square"
    " tan".split(),
    1.0,
) | {"acos": 0.5, "acosh": 2.0, "asin": 0.5, "atan2": 1.0, "atanh": 0.5, "erf_inv": 0.5}
"""Elementwise primitives whose slope can be infinite or NaN.

Each comes with a point where its slope is finite.
"""


def _constant_where_slope_is_infinite(
    regular_point: float,
    bind: Callable[..., Any],
    params: Mapping[str, Any],
    operands: list[Operand],
) -> Any:
    """Treat the operation as a constant in every entry whose slope is not finite."""
    del params
    args = [operand.value for operand in operands]
    constants = [jax.lax.stop_gradient(x) for x in args]
    good = jnp.array(True)
    chosen = [i for i, operand in enumerate(operands) if operand.moving]
    for i in chosen:
        along = lambda x, i=i: bind(*constants[:i], x, *constants[i + 1 :])
        slope = jax.jvp(along, (constants[i],), (jnp.ones_like(constants[i]),))[1]
        good = good & jnp.isfinite(slope)
    moved = list(args)
    for i in chosen:
        moved[i] = jnp.where(good, args[i], jnp.full_like(args[i], regular_point))
    return jnp.where(good, bind(*moved), bind(*constants))


def _product(
    bind: Callable[..., Any],
    params: Mapping[str, Any],
    operands: list[Operand],
) -> Any:
    """Treat a product as a constant in every entry that is not finite.

    The slope of a product in one operand is the other operand.
    """
    del params
    args = [operand.value for operand in operands]
    out = bind(*map(jax.lax.stop_gradient, args))
    finite = [jnp.where(jnp.isfinite(x), x, jnp.zeros_like(x)) for x in args]
    return jnp.where(jnp.isfinite(out), bind(*finite), out)


SLOPES: Guards = {
    **{
        name: partial(_constant_where_slope_is_infinite, place)
        for name, place in _REGULAR_POINTS.items()
    },
    **dict.fromkeys(("mul", "dot_general"), _product),
}
"""Guards that give an operation slope 0 where its slope is infinite or NaN.

There the operation gets an operand with a finite slope, and its true value replaces the
output as a constant.
"""
