"""One convolution as matrix products."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Convolution(NamedTuple):
    """How a convolution moves: what `jax.lax.conv_general_dilated` is told.

    The inputs are `[N, *spatial, C]`, the kernel `[*window, C, O]`, the outputs
    `[N, *spatial, O]`, whatever the layout of the original call.

    Attributes:
        strides: One per spatial axis.
        padding: `(low, high)` per spatial axis; negative values crop.
        input_dilation: One per spatial axis; more than 1 in a transposed convolution.
        kernel_dilation: One per spatial axis.
        precision: As in `jax.lax.dot_general`.
        dtype: `preferred_element_type` of `jax.lax.dot_general`.
    """

    strides: Sequence[int]
    padding: Sequence[tuple[int, int]]
    input_dilation: Sequence[int]
    kernel_dilation: Sequence[int]
    precision: Any
    dtype: Any


Product = Callable[[jax.Array, jax.Array, Convolution], jax.Array | None]


def patches(x: jax.Array, w: jax.Array, conv: Convolution) -> jax.Array:
    """One product of the input's patches with the kernel.

        y[n, i, j, o] = sum_abc x[n, i + a, j + b, c] * w[a, b, c, o]

    The patches are concatenated axis by axis, so that a window of `a * b` entries takes
    `a + b` slices and what produced `x` is not computed again for each of them.

    Args:
        x: Inputs `[N, *spatial, C]`.
        w: Kernel `[*window, C, O]`.
        conv: Strides, padding, dilations, precision and dtype.

    Returns:
        Outputs `[N, *spatial, O]`.

    Example:
        >>> same = Convolution([1], [(1, 1)], [1], [1], None, None)
        >>> x, w = jnp.array([1.0, 2.0, 4.0]), jnp.array([1.0, 0.0, 1.0])
        >>> patches(x.reshape(1, 3, 1), w.reshape(3, 1, 1), same).ravel().tolist()
        [2.0, 5.0, 2.0]
    """
    window = w.shape[:-2]
    edges = zip(conv.padding, conv.input_dilation, strict=True)
    config = [(0, 0, 0), *((low, high, d - 1) for (low, high), d in edges), (0, 0, 0)]
    x = lax.pad(x, jnp.zeros((), x.dtype), config)
    # the last axis first: features run as [*window, C], like the kernel's rows
    for axis in range(len(window), 0, -1):
        size, step, hop = (
            part[axis - 1] for part in (window, conv.kernel_dilation, conv.strides)
        )
        x = _concatenate_shifts(x, axis, size, step, hop)
    # two axes and no more: XLA's CPU backend multiplies those fastest
    y = lax.dot_general(
        x.reshape(-1, x.shape[-1]),
        w.reshape(-1, w.shape[-1]),
        (((1,), (0,)), ((), ())),
        precision=conv.precision,
        preferred_element_type=conv.dtype,
    )
    return y.reshape(*x.shape[:-1], w.shape[-1])


def _concatenate_shifts(x, axis, size, step, hop):
    """Put `x[i * hop + k * step]` for `k < size` side by side in the last axis."""
    reach = (size - 1) * step
    count = (x.shape[axis] - reach - 1) // hop + 1
    shifts = [
        lax.slice_in_dim(x, k * step, k * step + (count - 1) * hop + 1, hop, axis)
        for k in range(size)
    ]
    return shifts[0] if size == 1 else lax.concatenate(shifts, x.ndim - 1)
