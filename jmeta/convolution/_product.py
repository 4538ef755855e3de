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
    x = pad(x, conv)
    # the last axis first: features run as [*window, C], like the kernel's rows
    for axis in range(len(window), 0, -1):
        size, step, hop = (
            part[axis - 1] for part in (window, conv.kernel_dilation, conv.strides)
        )
        x = lax.concatenate(shifts(x, axis, size, step, hop), x.ndim - 1)
    # two axes and no more: XLA's CPU backend multiplies those fastest
    y = lax.dot_general(
        x.reshape(-1, x.shape[-1]),
        w.reshape(-1, w.shape[-1]),
        (((1,), (0,)), ((), ())),
        precision=conv.precision,
        preferred_element_type=conv.dtype,
    )
    return y.reshape(*x.shape[:-1], w.shape[-1])


def pad(x: jax.Array, conv: Convolution) -> jax.Array:
    """Pad, crop and dilate the inputs as the convolution asks."""
    edges = zip(conv.padding, conv.input_dilation, strict=True)
    config = [(0, 0, 0), *((low, high, d - 1) for (low, high), d in edges), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), config)


def shifts(
    x: jax.Array, axis: int, size: int, step: int, hop: int, count: int | None = None
) -> list[jax.Array]:
    """`x[k * step + i * hop]` for `i < count`, one array for each `k < size`.

    The default count is that of the windows that fit into the axis.
    """
    if count is None:
        count = (x.shape[axis] - (size - 1) * step - 1) // hop + 1
    return [
        lax.slice_in_dim(x, k * step, k * step + (count - 1) * hop + 1, hop, axis)
        for k in range(size)
    ]
