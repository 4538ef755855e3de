"""Operations whose slope is not finite, found by computing the slope."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jmeta.optim._finite.visitor import Guards, Operand

_HARMLESS = dict.fromkeys(
    "cbrt digamma div exp exp2 expm1 integer_pow lgamma log log1p pow rsqrt sqrt square"
    " tan".split(),
    1.0,
) | {"acos": 0.5, "acosh": 2.0, "asin": 0.5, "atan2": 1.0, "atanh": 0.5, "erf_inv": 0.5}
"""Primitives that act entry by entry and whose slope can be infinite or NaN.

With a place where it is neither.
"""


def _elementwise(
    harmless: float,
    bind: Callable[..., Any],
    params: Mapping[str, Any],
    operands: list[Operand],
) -> Any:
    """Take the operation for a constant in every entry whose slope is not finite."""
    del params
    args = [operand.value for operand in operands]
    still = [jax.lax.stop_gradient(x) for x in args]
    good = jnp.array(True)
    chosen = [i for i, operand in enumerate(operands) if operand.moves]
    for i in chosen:
        along = lambda x, i=i: bind(*still[:i], x, *still[i + 1 :])
        slope = jax.jvp(along, (still[i],), (jnp.ones_like(still[i]),))[1]
        good = good & jnp.isfinite(slope)
    moved = list(args)
    for i in chosen:
        moved[i] = jnp.where(good, args[i], jnp.full_like(args[i], harmless))
    return jnp.where(good, bind(*moved), bind(*still))


def _bilinear(
    bind: Callable[..., Any],
    params: Mapping[str, Any],
    operands: list[Operand],
) -> Any:
    """The same for a product, whose slope in the one operand is the other."""
    del params
    args = [operand.value for operand in operands]
    out = bind(*map(jax.lax.stop_gradient, args))
    finite = [jnp.where(jnp.isfinite(x), x, jnp.zeros_like(x)) for x in args]
    return jnp.where(jnp.isfinite(out), bind(*finite), out)


SLOPES: Guards = {
    **{name: partial(_elementwise, place) for name, place in _HARMLESS.items()},
    **dict.fromkeys(("mul", "dot_general"), _bilinear),
}
"""Every operation whose slope can be infinite or NaN has slope 0 where it is.

It sees a harmless operand there, and its own value, as a constant, is put in place of
what comes out.
"""
