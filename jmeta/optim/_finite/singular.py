"""Operations at the points where their slope is infinite, found by comparing."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from jmeta._core.numerics import integer_power
from jmeta._core.tree import is_float, is_inexact
from jmeta.optim._finite.visitor import Guards, Operand


def _guard(
    regular: Callable[..., jax.Array | None],
    operand: int,
    bind: Callable[..., Any],
    params: Mapping[str, Any],
    operands: list[Operand],
) -> Any:
    """Take the operation for a constant in every entry that is not regular.

    What goes in and what comes out is selected there from itself without derivative.
    The compiler takes these selections away, so the values are what they were; a
    derivative of any order has them on both sides of the infinite slope, and 0 goes on
    in either direction.

    Args:
        regular: `(*args, **params) -> mask`, or None when all entries are.
        operand: Which of the operands decides.
        bind: The operation.
        params: Its parameters.
        operands: Its operands.
    """
    decides = operands[operand]
    if not decides.moves or not is_float(decides.value):
        return bind(*(it.value for it in operands))
    # an exponent that is a Python number stays one
    still = (lax.stop_gradient(it.value) if it.moves else it.value for it in operands)
    good = regular(*still, **params)
    if good is None:
        return bind(*(it.value for it in operands))

    def cut(x):
        # a scalar operand beside an array is one for each entry here
        shape = jnp.broadcast_shapes(jnp.shape(good), jnp.shape(x))
        x = jnp.broadcast_to(x, shape)
        mask = jnp.broadcast_to(good, shape)
        return lax.select(mask, x, lax.stop_gradient(x))

    moved = (cut(it.value) if it.moves else it.value for it in operands)
    return cut(bind(*moved))


def _unless_positive(
    regular: Callable[..., jax.Array | None],
    operand: int,
    bind: Callable[..., Any],
    params: Mapping[str, Any],
    operands: list[Operand],
) -> Any:
    """The same for an operation that is regular at positive numbers."""
    if operands[operand].positive:
        return bind(*(it.value for it in operands))
    return _guard(regular, operand, bind, params, operands)


def _inside(x: jax.Array, **params: Any) -> jax.Array:
    return lax.lt(lax.abs(x), x.dtype.type(1))


def _not_0(x: jax.Array, *others: Any, **params: Any) -> jax.Array:
    return lax.ne(x, x.dtype.type(0))


def _above(bound: float, x: jax.Array, **params: Any) -> jax.Array:
    return lax.gt(x, x.dtype.type(bound))


def _has_power(exponent: float, x: jax.Array) -> jax.Array:
    """Whether `x ** exponent`, of a negative exponent, is not too large a number."""
    largest = float(jnp.finfo(x.dtype).max)
    # float16 overflows at everyday numbers, which had better be seen
    smallest = largest ** (1 / exponent) if largest > 1e30 else 0.0
    return lax.gt(lax.abs(x), x.dtype.type(smallest))


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
    operands: list[Operand],
) -> Any:
    x, y = (it.value for it in operands)
    if is_inexact(y):
        return _guard(_power, 0, bind, params, operands)
    # as of a decay rate of 0, whose first power has slope 1
    out = _guard(_not_0, 0, bind, params, operands)
    return jnp.where(y >= 0, integer_power(x, jnp.maximum(y, 0)), out)


def _quotient(x: jax.Array, y: jax.Array, **params: Any) -> jax.Array:
    del x
    return _has_power(-2.0, y)


def _angle(x: jax.Array, y: jax.Array, **params: Any) -> jax.Array:
    return (x != 0) | (y != 0)


SINGULAR: Guards = {
    "acos": partial(_guard, _inside, 0),
    "acosh": partial(_guard, partial(_above, 1.0), 0),
    "asin": partial(_guard, _inside, 0),
    "atan2": partial(_guard, _angle, 0),
    "atanh": partial(_guard, _inside, 0),
    "cbrt": partial(_unless_positive, _not_0, 0),
    "div": partial(_unless_positive, _quotient, 1),
    "erf_inv": partial(_guard, _inside, 0),
    "integer_pow": partial(_guard, _integer_power, 0),
    "log": partial(_unless_positive, partial(_above, 0.0), 0),
    "log1p": partial(_guard, partial(_above, -1.0), 0),
    "pow": _guarded_power,
    "rsqrt": partial(_unless_positive, _rsqrt, 0),
    "sqrt": partial(_unless_positive, partial(_above, 0.0), 0),
}
"""Operations with slope 0 where their slope is infinite, or they have no value."""
