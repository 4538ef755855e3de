"""Sums over the pixels of images, and values spread over them, as products with ones.

XLA's CPU backend sums over pixels one entry at a time, and recomputes what it sums.
As a matrix-vector product the sum is several times faster. The derivative of a value
that is spread over pixels, such as a bias, is a sum over pixels too. So the value is
spread by a product with ones, which the compiler turns into an elementwise product.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives


def image_sums(x: jax.Array, axes: tuple[int, ...]) -> jax.Array | None:
    """Sum over the pixels of images by a product with ones.

    Args:
        x: Images `[N, *spatial, C]`, or any array of three axes or more.
        axes: Axes to sum over: all but the last one, or all but the first and the last.

    Returns:
        Sums `[C]` or `[N, C]`; None for other axes or if `x` is not supported.

    Example:
        >>> image_sums(jnp.ones((2, 3, 3, 1)), (0, 1, 2)).tolist()
        [18.0]
    """
    space = tuple(range(1, x.ndim - 1))
    if axes not in (space, (0, *space)) or not _is_supported(x, x.shape):
        return None
    pixels = x.reshape(len(x), -1, x.shape[-1])
    # One product for each image: the compiler would turn a product with a single
    # vector into a plain sum again.
    ones = _ones_batched_like(pixels[..., 0])
    sums = _multiply(ones, pixels, (((1,), (1,)), ((0,), (0,))))
    return jnp.sum(sums, 0) if 0 in axes else sums


def spread_over_pixels(x: jax.Array, shape: tuple[int, ...]) -> jax.Array | None:
    """Broadcast one value per channel, or per image and channel, to all pixels.

    Args:
        x: Values `[1, ..., 1, C]` or `[N, 1, ..., 1, C]`.
        shape: Shape `(N, *spatial, C)` of the images.

    Returns:
        Array of this shape; None for other shapes or if `x` is not supported.

    Example:
        >>> spread_over_pixels(jnp.ones((1, 1, 1, 2)), (2, 3, 3, 2)).shape
        (2, 3, 3, 2)
    """
    if not _lacks_pixels(x.shape, shape) or not _is_supported(x, shape):
        return None
    rows = jnp.broadcast_to(x.reshape(len(x), -1), (shape[0], shape[-1]))
    pixels = (shape[0], math.prod(shape[1:-1]))
    ones = jnp.broadcast_to(_ones_batched_like(rows[:, :1]), pixels)
    return _multiply(ones, rows, (((), ()), ((0,), (0,)))).reshape(shape)


def _lacks_pixels(small, shape):
    """Whether `small` is `shape` with all spatial axes 1, and the first axis maybe."""
    return (
        len(small) == len(shape) >= 3
        and small[0] in (1, shape[0])
        and small[-1] == shape[-1]
        and math.prod(small[1:-1]) == 1 < math.prod(shape[1:-1])
    )


def _is_supported(x, shape):
    # Products of half precision would round more than sums do.
    wide = x.dtype in (jnp.float32, jnp.float64)
    strong = not jax.typeof(x).weak_type
    return len(shape) >= 3 and math.prod(shape) > 0 and wide and strong


def _ones_batched_like(x):
    """Ones like `x`, with a batch axis under `vmap` if `x` has one.

    If only one factor had the axis, the product would transpose the images.
    """
    ones = jnp.ones_like(x)
    return lax.select(x == x, ones, ones)


def _multiply(a, b, dims):
    # Accelerators would round the factors at the default precision.
    return lax.dot_general(a, b, dims, precision=lax.Precision.HIGHEST)


def _sum(x: jax.Array, **params: Any) -> jax.Array | None:
    """Compute a `reduce_sum` by `image_sums`; None to leave it as it is."""
    return image_sums(x, params["axes"])


def _broadcast(x: jax.Array, *dynamic: jax.Array, **params: Any) -> jax.Array | None:
    """Compute a `broadcast_in_dim` by `spread_over_pixels`; None to leave it."""
    shape, axes = params["shape"], params["broadcast_dimensions"]
    sizes = dict(zip(axes, x.shape, strict=True))
    small = tuple(sizes.get(axis, 1) for axis in range(len(shape)))
    if dynamic or not _lacks_pixels(small, shape):
        return None
    return spread_over_pixels(x.reshape(small), shape)


def _elementwise(primitive: jex.Primitive) -> Callable[..., jax.Array | None]:
    """Make a rule that spreads the operand of `primitive` that lacks the pixels.

    The rule returns None to leave the operation as it is.
    """

    def rule(x: jax.Array, y: jax.Array, **params: Any) -> jax.Array | None:
        shape = jnp.broadcast_shapes(jnp.shape(x), jnp.shape(y))
        small = [_lacks_pixels(jnp.shape(each), shape) for each in (x, y)]
        if not any(small):
            return None
        full = [
            spread_over_pixels(a, shape) if s else a
            for a, s in zip((x, y), small, strict=True)
        ]
        if any(each is None for each in full):
            return None
        return primitive.bind(*full, **params)

    return rule


_ELEMENTWISE = (primitives.add_p, primitives.sub_p, primitives.mul_p, primitives.div_p)

RULES: dict[jex.Primitive, Callable[..., jax.Array | None]] = {
    primitives.reduce_sum_p: _sum,
    primitives.broadcast_in_dim_p: _broadcast,
    **{primitive: _elementwise(primitive) for primitive in _ELEMENTWISE},
}
"""Replacements of primitives; each returns None to leave an operation as it is."""


def has_nothing_to_spread(eqn: jex.JaxprEqn) -> bool:
    """Whether an equation is elementwise and none of its operands lacks the pixels."""
    if eqn.primitive not in _ELEMENTWISE:
        return False
    shapes = [getattr(atom.aval, "shape", ()) for atom in eqn.invars]
    full = jnp.broadcast_shapes(*shapes)
    return not any(_lacks_pixels(shape, full) for shape in shapes)
