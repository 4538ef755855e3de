"""One convolution as matrix products."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Convolution(NamedTuple):
    """Settings of one convolution, as `jax.lax.conv_general_dilated` takes them.

    The inputs are `[N, *spatial, C]`, the kernel is `[*window, C, O]` and the outputs
    are `[N, *spatial, O]`, whatever the layout of the original call.

    Attributes:
        strides: Stride of the window along each spatial axis.
        padding: `(low, high)` along each spatial axis; negative values crop.
        input_dilation: Dilation of the inputs along each spatial axis, more than 1 in a
            transposed convolution.
        kernel_dilation: Dilation of the kernel along each spatial axis.
        precision: Precision of the product, passed on to `jax.lax.dot_general`.
        dtype: Type of the outputs, `preferred_element_type` of `jax.lax.dot_general`.
    """

    strides: Sequence[int]
    padding: Sequence[tuple[int, int]]
    input_dilation: Sequence[int]
    kernel_dilation: Sequence[int]
    precision: Any
    dtype: Any


Product = Callable[[jax.Array, jax.Array, Convolution], jax.Array | None]
"""`(x, w, conv) -> outputs` of a convolution, or None to leave it as it is."""


def patches(x: jax.Array, w: jax.Array, conv: Convolution) -> jax.Array:
    """Convolve by one product of the input's patches with the kernel.

        y[n, i, j, o] = sum_abc x[n, i + a, j + b, c] * w[a, b, c, o]

    The patches are concatenated axis by axis. A window of `a * b` entries then takes
    `a + b` slices, and XLA does not compute `x` again for each of them.

    Args:
        x: Inputs `[N, *spatial, C]`.
        w: Kernel `[*window, C, O]`.
        conv: Strides, padding, dilations, precision and dtype of the convolution.

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
    # From the last axis on, so that the features are [*window, C] like the kernel.
    for axis in range(len(window), 0, -1):
        size, dilation, stride = (
            part[axis - 1] for part in (window, conv.kernel_dilation, conv.strides)
        )
        slices = strided_slices(x, axis, size, dilation, stride)
        x = lax.concatenate(slices, x.ndim - 1)
    # XLA's CPU backend multiplies matrices faster than arrays of more axes.
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


def strided_slices(
    x: jax.Array,
    axis: int,
    size: int,
    dilation: int,
    stride: int,
    count: int | None = None,
) -> list[jax.Array]:
    """Slice an axis once for each entry of a window.

    Args:
        x: Array of any shape.
        axis: Axis along which the window moves.
        size: Number of entries of the window.
        dilation: Distance between two entries of the window.
        stride: Distance between two positions of the window.
        count: Number of positions. None is as many as fit into the axis.

    Returns:
        For each `k < size` the entries `k * dilation + i * stride` with `i < count`.
    """
    if count is None:
        count = (x.shape[axis] - (size - 1) * dilation - 1) // stride + 1
    starts = [k * dilation for k in range(size)]
    return [
        lax.slice_in_dim(x, start, start + (count - 1) * stride + 1, stride, axis)
        for start in starts
    ]
