"""Pooling over windows that do not overlap, as a reduction of a reshaped array."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def sum_pool(x: jax.Array, window: Sequence[int]) -> jax.Array:
    """Sum of each window.

    Args:
        x: Array of any shape.
        window: Size, and stride, of the window along each axis. What is left over at
            the end of an axis is dropped.

    Returns:
        Array with `size // window` entries along each axis.

    Example:
        >>> sum_pool(jnp.arange(5.0), [2]).tolist()
        [1.0, 5.0]
    """
    return jnp.sum(_tiles(x, window), axis=_window_axes(2 * x.ndim))


def max_pool(x: jax.Array, window: Sequence[int]) -> jax.Array:
    """Maximum of each window; of equal entries the first takes the derivative.

    That is the rule of `jax.lax.reduce_window`, in both modes of differentiation.
    `jnp.max` would divide the derivative among them.

    Args:
        x: Array of any shape.
        window: Size, and stride, of the window along each axis. What is left over at
            the end of an axis is dropped.

    Returns:
        Array with `size // window` entries along each axis.

    Example:
        >>> jax.jacobian(lambda x: max_pool(x, [2]))(jnp.ones(2)).tolist()
        [[1.0, 0.0]]
    """
    return _largest(_tiles(x, window))[0]


@jax.custom_jvp
def _largest(tiles: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maximum of each window, and the place of its first occurrence.

    One reduction for both: a later test for equality with the maximum would fail where
    the compiler computes an entry twice, with another rounding.
    """

    def larger(left, right):
        (a, i), (b, j) = left, right
        # a NaN stays, as in `jax.lax.max`
        keep = (a > b) | (a != a) | ((a == b) & (i < j))
        return jnp.where(keep, a, b), jnp.where(keep, i, j)

    axes = _window_axes(tiles.ndim)
    place = _place(tiles.shape)
    lowest = jnp.array(-jnp.inf, tiles.dtype), jnp.array(tiles.size, place.dtype)
    maximum, first = lax.reduce((tiles, place), lowest, larger, axes)
    return maximum, first


def _largest_jvp(primals: Any, tangents: Any) -> Any:
    (tiles,), (tangent,) = primals, tangents
    axes = _window_axes(tiles.ndim)
    maximum, first = _largest(tiles)
    chosen = _place(tiles.shape) == lax.expand_dims(first, axes)
    maximum_dot = jnp.sum(jnp.where(chosen, tangent, 0), axis=axes)
    return (maximum, first), (maximum_dot, np.zeros(first.shape, jax.dtypes.float0))


_largest.defjvp(_largest_jvp)


def _place(shape):
    """Number of each entry within its window, in row-major order."""
    place = jnp.zeros(shape, jnp.int32)
    for axis in _window_axes(len(shape)):
        place = place * shape[axis] + lax.broadcasted_iota(jnp.int32, shape, axis)
    return place


def _tiles(x, window):
    """Cut axis `i` into `[size // window[i], window[i]]`."""
    counts = [size // w for size, w in zip(x.shape, window, strict=True)]
    ends = [count * w for count, w in zip(counts, window, strict=True)]
    pairs = zip(counts, window, strict=True)
    cut = lax.slice(x, [0] * x.ndim, ends)
    return cut.reshape(tuple(itertools.chain.from_iterable(pairs)))


def _window_axes(ndim):
    return tuple(range(1, ndim, 2))
