"""Pooling over windows that do not overlap, elementwise on a reshaped array."""

import itertools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax


def sum_pool(x: jax.Array, window: Sequence[int]) -> jax.Array:
    """Sum the entries of each window.

    Args:
        x: Array of any shape.
        window: Size of the window along each axis, which is its stride too. Entries
            left over at the end of an axis are dropped.

    Returns:
        Array with `size // window` entries along each axis.

    Example:
        >>> sum_pool(jnp.arange(5.0), [2]).tolist()
        [1.0, 5.0]
    """
    return _reduce(operator.add, x, window)


def max_pool(x: jax.Array, window: Sequence[int]) -> jax.Array:
    """Take the maximum of each window.

    Of equal entries the first takes the derivative, as in `jax.lax.reduce_window` and
    in both modes of differentiation. `jnp.max` would divide it among them.

    Args:
        x: Array of any shape.
        window: Size of the window along each axis, which is its stride too. Entries
            left over at the end of an axis are dropped.

    Returns:
        Array with `size // window` entries along each axis.

    Example:
        >>> jax.jacobian(lambda x: max_pool(x, [2]))(jnp.ones(2)).tolist()
        [[1.0, 0.0]]
    """
    return _reduce(_larger, x, window)


def _larger(left, right):
    # A NaN stays, as in `jax.lax.max`, which would halve the derivative of ties.
    return jnp.where((left >= right) | (left != left), left, right)


def _reduce(combine, x, window):
    """Combine the entries of each window.

    XLA's CPU backend fuses reductions with other operations, and then reduces one entry
    at a time. Elementwise operations on pieces of the array are several times faster,
    and so are their derivatives.
    """
    tiles = _tiles(x, window)
    # From the last axis on, so that equal entries meet in row-major order.
    for axis in reversed(range(1, tiles.ndim, 2)):
        tiles = _fold(combine, tiles, axis)
    return tiles


def _fold(combine, x, axis):
    """Combine neighbouring entries along an axis until one is left; drop the axis."""
    size = x.shape[axis]
    if size == 1:
        return lax.squeeze(x, (axis,))
    if size % 2:
        first, rest = lax.split(x, (1, size - 1), axis)
        return combine(lax.squeeze(first, (axis,)), _fold(combine, rest, axis))
    pairs = x.reshape(*x.shape[:axis], size // 2, 2, *x.shape[axis + 1 :])
    left, right = lax.split(pairs, (1, 1), axis + 1)
    halved = combine(lax.squeeze(left, (axis + 1,)), lax.squeeze(right, (axis + 1,)))
    return _fold(combine, halved, axis)


def _tiles(x, window):
    """Cut axis `i` into `[size // window[i], window[i]]`."""
    counts = [size // w for size, w in zip(x.shape, window, strict=True)]
    ends = [count * w for count, w in zip(counts, window, strict=True)]
    pairs = zip(counts, window, strict=True)
    cut = lax.slice(x, [0] * x.ndim, ends)
    return cut.reshape(tuple(itertools.chain.from_iterable(pairs)))
