"""One convolution with windows of three by Winograd's minimal filtering."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jmeta.convolution._product import Convolution, pad, patches, strided_slices

# F(2, 3) of the paper: two outputs of a window of three, with four products, not six.
_INPUT = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
_KERNEL = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]) / 2
_OUTPUT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])


def winograd(x: jax.Array, w: jax.Array, conv: Convolution) -> jax.Array:
    """Convolve with two thirds of the products of `patches`.

    This is for windows of three entries on the last axis:

        y[2j + i] = sum_t OUTPUT[i, t] (INPUT[t] d_j) (KERNEL[t] w)
        d_j       = x[2j : 2j + 4]

    `y` are two neighbouring outputs, `d_j` the four inputs that they depend on. The
    other axes of the window are treated as in `patches`. Sums and differences of inputs
    round more than the direct sum does: the error is about twice as large.

    Args:
        x: Inputs `[N, *spatial, C]`.
        w: Kernel `[*window, C, O]`. `patches` takes over if the last window axis does
            not have length 3, or is strided or dilated.
        conv: Strides, padding, dilations, precision and dtype of the convolution.

    Returns:
        Outputs `[N, *spatial, O]`.

    Example:
        >>> same = Convolution([1], [(1, 1)], [1], [1], None, None)
        >>> x, w = jnp.array([1.0, 2.0, 4.0]), jnp.array([1.0, 0.0, 1.0])
        >>> winograd(x.reshape(1, 3, 1), w.reshape(3, 1, 1), same).ravel().tolist()
        [2.0, 5.0, 2.0]

    References:
        Lavin and Gray (2016), Fast algorithms for convolutional neural networks,
        arXiv:1509.09308.
    """
    *window, last = w.shape[:-2]
    if (last, conv.strides[-1], conv.kernel_dilation[-1]) != (3, 1, 1):
        return patches(x, w, conv)
    x = pad(x, conv)
    axis = x.ndim - 2
    size = x.shape[axis] - 2
    half = -(-size // 2)
    odd = [(0, 0, 0)] * x.ndim
    odd[axis] = (0, 2 * half - size, 0)
    x = lax.pad(x, jnp.zeros((), x.dtype), odd)
    # [4, N, *spatial, C], half as long on the last axis. Concatenating the slices of
    # the other axes then gives [4, N, *spatial, rows of the kernel].
    pieces = strided_slices(x, axis, 4, 1, 2, half)
    d = jnp.stack([_combine(row, pieces) for row in _INPUT])
    for k in range(len(window), 0, -1):
        dilation, stride = conv.kernel_dilation[k - 1], conv.strides[k - 1]
        slices = strided_slices(d, k + 1, window[k - 1], dilation, stride)
        d = lax.concatenate(slices, d.ndim - 1)
    taps = [lax.index_in_dim(w, k, len(window), keepdims=False) for k in range(3)]
    g = jnp.stack([_combine(row, taps) for row in _KERNEL])
    m = lax.dot_general(
        d.reshape(4, -1, d.shape[-1]),
        g.reshape(4, d.shape[-1], -1),
        (((2,), (1,)), ((0,), (0,))),
        precision=conv.precision,
        preferred_element_type=conv.dtype,
    ).reshape(*d.shape[:-1], w.shape[-1])
    y = jnp.stack([_combine(row, list(m)) for row in _OUTPUT], axis + 1)
    y = y.reshape(*y.shape[:axis], 2 * half, w.shape[-1])
    return lax.slice_in_dim(y, 0, size, axis=axis)


def _combine(coefficients, parts):
    """Sum of `parts` with `coefficients`, without the products by 0, 1 and -1."""
    pairs = zip(coefficients.tolist(), parts, strict=True)
    terms = [x if c == 1 else -x if c == -1 else c * x for c, x in pairs if c]
    return functools.reduce(operator.add, terms)
