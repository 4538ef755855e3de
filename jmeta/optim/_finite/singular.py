"""Guards that find points of infinite slope by comparing operands."""

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


def _constant_where_singular(
    regular: Callable[..., jax.Array | None],
    operand: int,
    bind: Callable[..., Any],
    params: Mapping[str, Any],
    operands: list[Operand],
) -> Any:
    """Treat the operation as a constant in every entry that is not regular.

    There a selection replaces each operand and the output by itself without derivative.
    The compiler removes these selections, so the values do not change. A derivative of
    any order meets one on each side of the infinite slope, so it is 0 in both modes.

    Args:
        regular: `(*args, **params) -> mask` of the entries with a finite slope, or
            None if every entry has one.
        operand: Index of the operand that decides.
        bind: The operation, a function of its operands.
        params: Parameters of the operation's equation.
        operands: Operands of the operation.
    """
    decides = operands[operand]
    if not decides.moving or not is_float(decides.value):
        return bind(*(it.value for it in operands))
    # An exponent that is a Python number must stay one: `regular` looks at its value.
    constants = (
        lax.stop_gradient(it.value) if it.moving else it.value for it in operands
    )
    good = regular(*constants, **params)
    if good is None:
        return bind(*(it.value for it in operands))

    def without_derivative(x):
        # A scalar operand may be regular in some entries of the output only.
        shape = jnp.broadcast_shapes(jnp.shape(good), jnp.shape(x))
        x = jnp.broadcast_to(x, shape)
        mask = jnp.broadcast_to(good, shape)
        return lax.select(mask, x, lax.stop_gradient(x))

    moved = (without_derivative(it.value) if it.moving else it.value for it in operands)
    return without_derivative(bind(*moved))


def _constant_unless_positive(
    regular: Callable[..., jax.Array | None],
    operand: int,
    bind: Callable[..., Any],
    params: Mapping[str, Any],
    operands: list[Operand],
) -> Any:
    """`_constant_where_singular` of an operation that is regular at positive numbers.

    It needs no guard where its operand is known to be positive.
    """
    if operands[operand].positive:
        return bind(*(it.value for it in operands))
    return _constant_where_singular(regular, operand, bind, params, operands)


def _within_1(x: jax.Array, **params: Any) -> jax.Array:
    return lax.lt(lax.abs(x), x.dtype.type(1))


def _is_nonzero(x: jax.Array, *others: Any, **params: Any) -> jax.Array:
    return lax.ne(x, x.dtype.type(0))


def _is_above(bound: float, x: jax.Array, **params: Any) -> jax.Array:
    return lax.gt(x, x.dtype.type(bound))


def _power_is_finite(exponent: float, x: jax.Array) -> jax.Array:
    """Whether `x ** exponent`, with a negative exponent, does not overflow."""
    largest = float(jnp.finfo(x.dtype).max)
    # float16 overflows at common numbers. Hiding that would hide a mistake.
    smallest = largest ** (1 / exponent) if largest > 1e30 else 0.0
    return lax.gt(lax.abs(x), x.dtype.type(smallest))


def _rsqrt_is_regular(x: jax.Array, **params: Any) -> jax.Array:
    # In float32 the slope overflows at 2e-26, where 1 / sqrt(x) is still finite.
    return lax.bitwise_and(_is_above(0.0, x), _power_is_finite(-1.5, x))


def _integer_power_is_regular(
    x: jax.Array, *, y: int, **params: Any
) -> jax.Array | None:
    return _power_is_finite(y - 1, x) if y < 0 else None


def _power_is_regular(x: jax.Array, y: Any, **params: Any) -> jax.Array:
    if not isinstance(y, Tracer) and jnp.size(y) == 1 and float(y) < 1:
        return (x > 0) & _power_is_finite(float(y) - 1, x)
    whole = y == jnp.round(y)
    return (x > 0) | (whole & ((x < 0) | (y >= 1)))


def _guarded_power(
    bind: Callable[..., Any],
    params: Mapping[str, Any],
    operands: list[Operand],
) -> Any:
    x, y = (it.value for it in operands)
    if is_inexact(y):
        return _constant_where_singular(_power_is_regular, 0, bind, params, operands)
    # A decay rate of 0 has integer powers, and the slope of its first power is 1.
    out = _constant_where_singular(_is_nonzero, 0, bind, params, operands)
    return jnp.where(y >= 0, integer_power(x, jnp.maximum(y, 0)), out)


def _quotient_is_regular(x: jax.Array, y: jax.Array, **params: Any) -> jax.Array:
    del x
    return _power_is_finite(-2.0, y)


def _angle_is_regular(x: jax.Array, y: jax.Array, **params: Any) -> jax.Array:
    return (x != 0) | (y != 0)


SINGULAR: Guards = {
    "acos": partial(_constant_where_singular, _within_1, 0),
    "acosh": partial(_constant_where_singular, partial(_is_above, 1.0), 0),
    "asin": partial(_constant_where_singular, _within_1, 0),
    "atan2": partial(_constant_where_singular, _angle_is_regular, 0),
    "atanh": partial(_constant_where_singular, _within_1, 0),
    "cbrt": partial(_constant_unless_positive, _is_nonzero, 0),
    "div": partial(_constant_unless_positive, _quotient_is_regular, 1),
    "erf_inv": partial(_constant_where_singular, _within_1, 0),
    "integer_pow": partial(_constant_where_singular, _integer_power_is_regular, 0),
    "log": partial(_constant_unless_positive, partial(_is_above, 0.0), 0),
    "log1p": partial(_constant_where_singular, partial(_is_above, -1.0), 0),
    "pow": _guarded_power,
    "rsqrt": partial(_constant_unless_positive, _rsqrt_is_regular, 0),
    "sqrt": partial(_constant_unless_positive, partial(_is_above, 0.0), 0),
}
"""Guards that give an operation slope 0 where its slope is infinite or undefined."""
