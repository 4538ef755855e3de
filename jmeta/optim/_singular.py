"""Operations at the points where their slope is infinite, found by comparing."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from jmeta._numerics import integer_power
from jmeta.optim._guarded import Guards


def _guard(
    regular: Callable[..., jax.Array | None],
    harmless: float,
    operand: int,
    bind: Callable[..., Any],
    params: Mapping[str, Any],
    args: list[Any],
    moving: list[bool],
) -> Any:
    """Take the operation for a constant in every entry that is not regular.

    Args:
        regular: `(*args, **params) -> mask`, or None when all entries are.
        harmless: A value at which the operation is regular, whatever the others are.
        operand: Which of the operands takes that value.
        bind: The operation.
        params: Its parameters.
        args: Its operands.
        moving: Which of them can depend on what is being differentiated.
    """
    x = args[operand]
    if not moving[operand] or not jnp.issubdtype(x.dtype, jnp.floating):
        return bind(*args)
    still = [
        lax.stop_gradient(a) if m else a for a, m in zip(args, moving, strict=True)
    ]
    good, moved = regular(*still, **params), list(args)
    if good is None:
        return bind(*args)
    moved[operand] = lax.select(good, x, lax.full_like(x, harmless))
    out = bind(*moved)
    return lax.select(jnp.broadcast_to(good, out.shape), out, bind(*still))


def _inside(x: jax.Array, **params: Any) -> jax.Array:
    return lax.lt(lax.abs(x), 1.0)


def _not_0(x: jax.Array, *others: Any, **params: Any) -> jax.Array:
    return lax.ne(x, 0.0)


def _above(bound: float, x: jax.Array, **params: Any) -> jax.Array:
    return lax.gt(x, bound)


def _has_power(exponent: float, x: jax.Array) -> jax.Array:
    """Whether `x ** exponent`, of a negative exponent, is not too large a number."""
    largest = float(jnp.finfo(x.dtype).max)
    # float16 overflows at everyday numbers, which had better be seen
    smallest = largest ** (1 / exponent) if largest > 1e30 else 0.0
    return lax.gt(lax.abs(x), smallest)


def _rsqrt(x: jax.Array, **params: Any) -> jax.Array:
    # in float32 the slope overflows at 2e-26, the root's inverse does not
    return lax.bitwise_and(_above(0.0, x), _has_power(-1.5, x))


def _integer_power(x: jax.Array, *, y: int, **params: Any) -> jax.Array | None:
    return _has_power(y - 1, x) if y < 0 else None


def _power(x: jax.Array, y: Any, **params: Any) -> jax.Array:
    if not isinstance(y, Tracer) and jnp.size(y) == 1 and float(y) < 1:
        return (x > 0) & _has_power(float(y) - 1, x)
    whole = y == jnp.round(y)
    return (x > 0) | (whole & ((x < 0) | (y >= 1)))


def _guarded_power(
    bind: Callable[..., Any],
    params: Mapping[str, Any],
    args: list[Any],
    moving: list[bool],
) -> Any:
    x, y = args
    if jnp.issubdtype(jnp.result_type(y), jnp.inexact):
        return _guard(_power, 1.0, 0, bind, params, args, moving)
    # as of a decay rate of 0, whose first power has slope 1
    out = _guard(_not_0, 1.0, 0, bind, params, args, moving)
    return jnp.where(y >= 0, integer_power(x, jnp.maximum(y, 0)), out)


def _quotient(x: jax.Array, y: jax.Array, **params: Any) -> jax.Array:
    del x
    return _has_power(-2.0, y)


def _angle(x: jax.Array, y: jax.Array, **params: Any) -> jax.Array:
    return (x != 0) | (y != 0)


SINGULAR: Guards = {
    "acos": partial(_guard, _inside, 0.5, 0),
    "acosh": partial(_guard, partial(_above, 1.0), 2.0, 0),
    "asin": partial(_guard, _inside, 0.5, 0),
    "atan2": partial(_guard, _angle, 1.0, 0),
    "atanh": partial(_guard, _inside, 0.5, 0),
    "cbrt": partial(_guard, _not_0, 1.0, 0),
    "div": partial(_guard, _quotient, 1.0, 1),
    "erf_inv": partial(_guard, _inside, 0.5, 0),
    "integer_pow": partial(_guard, _integer_power, 1.0, 0),
    "log": partial(_guard, partial(_above, 0.0), 1.0, 0),
    "log1p": partial(_guard, partial(_above, -1.0), 0.0, 0),
    "pow": _guarded_power,
    "rsqrt": partial(_guard, _rsqrt, 1.0, 0),
    "sqrt": partial(_guard, partial(_above, 0.0), 1.0, 0),
}
"""Operations with slope 0 where their slope is infinite, or they have no value."""
