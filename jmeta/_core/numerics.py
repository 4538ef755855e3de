"""Elementary functions whose derivative is 0 where it would be infinite or NaN."""

import jax
import jax.numpy as jnp

from jmeta._core.derivative_rules import true_derivative
from jmeta._core.tree import allow_mixed_dtypes


def safe_sqrt(x: jax.Array) -> jax.Array:
    """Compute a square root whose derivatives of every order are 0 at 0.

    Where a second moment is 0, its root multiplies a gradient of 0, so the term with
    the root's infinite slope has the limit 0.

    Args:
        x: Array of any shape; negative entries give NaN as usual.

    Returns:
        `sqrt(x)`, of the shape of `x`.

    Example:
        >>> import jax
        >>> float(safe_sqrt(jnp.array(4.0))), float(jax.grad(safe_sqrt)(0.0))
        (2.0, 0.0)
    """
    nonzero = x != 0
    return jnp.where(nonzero, jnp.sqrt(jnp.where(nonzero, x, 1)), 0)


def safe_divide(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """Divide, with the quotient and its derivative 0 where the denominator is 0.

    Args:
        numerator: Array of any shape.
        denominator: Array that broadcasts with `numerator`.

    Returns:
        `numerator / denominator`, and 0 where `denominator` is 0.

    Example:
        >>> import jax
        >>> float(safe_divide(jnp.array(1.0), jnp.array(0.0)))
        0.0
    """
    nonzero = denominator != 0
    return jnp.where(nonzero, numerator / jnp.where(nonzero, denominator, 1), 0)


@jax.custom_jvp
def integer_power(x: jax.Array, n: jax.Array) -> jax.Array:
    """Compute `x ** n` with finite derivatives of every order at 0.

    JAX computes the second derivative of `x ** 1` at 0 as 0 times infinity.

    Args:
        x: Array of any shape.
        n: Array of integers from 0 that broadcasts with `x`.

    Returns:
        `x ** n`, which is 1 where `n` is 0.

    Example:
        >>> import jax
        >>> float(jax.grad(jax.grad(integer_power))(0.0, 1))
        0.0
    """
    # Reverse mode over reverse mode differentiates this by JAX's own rule: for an
    # integer exponent it fails under strict promotion, for 0 as a float it is NaN at 0.
    return jnp.where(n == 0, 1, x) ** jnp.asarray(n, jnp.result_type(x))


@integer_power.defjvp
@true_derivative
def _integer_power_jvp(primals, tangents):
    (x, n), (x_dot, _) = primals, tangents
    slope = jnp.asarray(n, jnp.result_type(x)) * integer_power(x, jnp.maximum(n - 1, 0))
    return integer_power(x, n), slope * x_dot


@jax.custom_jvp
def scale(factor: jax.Array, x: jax.Array) -> jax.Array:
    """Compute `factor * x`, with a fast derivative with respect to a scalar factor.

    The derivative of a product with respect to a scalar is a sum over all entries,
    which XLA's CPU backend adds up one by one. Written as a product with a row of ones,
    the same sum is a matrix-vector product, which is several times faster.

    Args:
        factor: Scalar, or an array that broadcasts with `x`.
        x: Array of any shape.

    Returns:
        `factor * x`.

    Example:
        >>> import jax
        >>> x = jnp.ones((2, 3))
        >>> float(jax.grad(lambda factor: scale(factor, x).sum())(2.0))
        6.0
    """
    with allow_mixed_dtypes(factor, x):
        return factor * x


@scale.defjvp
@true_derivative
def _scale_jvp(primals, tangents):
    (factor, x), (factor_dot, x_dot) = primals, tangents
    return scale(factor, x), scale(factor, x_dot) + _times(factor_dot, x)


def _times(factor, x):
    """Multiply in a form whose transpose with respect to the factor is fast."""
    if not jnp.ndim(factor) and jnp.ndim(x) > 1:
        rows = jnp.broadcast_to(factor, (*jnp.shape(x)[:-1], 1))
        ones = jnp.ones((1, jnp.shape(x)[-1]), jnp.result_type(factor))
        # at the default precision accelerators would round the factors of a product
        factor = jnp.matmul(rows, ones, precision="highest")
    with allow_mixed_dtypes(factor, x):
        return factor * x
