"""`matmul_convs` takes sums over pixels as products, with the same derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta.convolution import matmul_convs
from tests.convolution_cases import assert_same, conv, normal, text

IMAGES = (2, 3, 4, 5)


def per_channel(x, v):
    """BatchNorm, with a value per channel that takes part in each operation."""
    mean = x.mean((0, 1, 2), keepdims=True)
    variance = ((x - mean) ** 2).mean((0, 1, 2), keepdims=True)
    x = (x - mean) / jnp.sqrt(variance + 1e-5)
    return v.reshape(1, 1, 1, -1) * x + jnp.broadcast_to(v, x.shape)


def per_image(x, v):
    """Instance normalization and global pooling, with the value on the left."""
    mean = x.mean((1, 2), keepdims=True)
    x = (mean - x) / jnp.cosh(v[None, None, None] + mean)
    return x * jnp.tanh(jnp.cos(x).sum((1, 2)))[:, None, None]


def per_row(x, v):
    """Three axes, one of them summed alone."""
    x = x.reshape(6, 4, 5) - v[None, None]
    return jnp.sin(x.sum((0, 1)))[None, None] * jnp.tanh(x) + x.mean(1, keepdims=True)


FUNCTIONS = {"channel": per_channel, "image": per_image, "row": per_row}


def hypergradient(f, x, v):
    """The gradient of the loss after a step along its gradient."""
    loss = lambda args: jnp.sum(jnp.sin(f(*args)) * f(*args))

    def after_a_step(args):
        step = jax.grad(loss)(args)
        return loss(jax.tree.map(lambda a, g: a - 0.01 * g, args, step))

    return jax.jit(jax.grad(after_a_step))((x, v))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_sums_are_products_with_the_same_derivatives(name):
    f, x, v = FUNCTIONS[name], normal(0, *IMAGES), normal(1, IMAGES[-1])
    rewritten = matmul_convs(f)
    written = text(rewritten, x, v)
    assert "dot_general" in written
    assert text(matmul_convs(f, sums=False), x, v) == text(f, x, v)
    assert_same(rewritten(x, v), f(x, v))
    assert_same(hypergradient(rewritten, x, v), hypergradient(f, x, v))
    grad = jax.grad(lambda f, x, v: jnp.sum(f(x, v) ** 3), 2)
    directions = jnp.cos(x), jnp.sin(v)
    got, want = (
        jax.jvp(lambda x, v, f=f: grad(f, x, v), (x, v), directions)
        for f in (rewritten, f)
    )
    assert_same(got, want)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_sums_of_tasks_are_batched_products(axes):
    x, v = normal(0, 3, *IMAGES), normal(1, 3, IMAGES[-1])
    args = [a if axis == 0 else a[0] for a, axis in zip((x, v), axes, strict=True)]
    rewritten = jax.vmap(matmul_convs(per_channel), axes)
    assert_same(rewritten(*args), jax.vmap(per_channel, axes)(*args))
    sums = lambda rewrite: jax.vmap(rewrite(lambda x: x.sum((0, 1, 2))))
    written = text(sums(matmul_convs), x)
    # no factor without the tasks' axis, which would transpose the other
    assert "dimension_numbers=(([2], [2]), ([0, 1], [0, 1]))" in written


@pytest.mark.parametrize(
    ("f", "shape", "dtype"),
    [
        (lambda x: x.sum((1, 2, 3)), IMAGES, "float32"),
        (lambda x: x.sum((0, 2)), IMAGES, "float32"),
        (lambda x: (x.sum(0), x + x[:1]), (3, 4), "float32"),
        (lambda x: x + x[:1, :1, :1, :1], IMAGES, "float32"),
        (lambda x: x + x[:, :1], IMAGES, "float32"),
        (lambda x: x + x[:1, :1, :1], IMAGES, "bfloat16"),
        (lambda x: x.sum((0, 1, 2)), IMAGES, "int32"),
        (lambda x: x.sum((0, 1, 2)), (0, 3, 4, 5), "float32"),
    ],
    ids=["channels", "mixed", "matrix", "scalar", "row", "half", "integers", "empty"],
)
def test_other_sums_are_left(f, shape, dtype):
    x = jnp.ones(shape, dtype)
    assert text(matmul_convs(f), x) == text(f, x)


def test_infinity_and_nan_stay():
    x = jnp.zeros(IMAGES).at[0, 1, 1, :3].set(jnp.array([jnp.inf, -jnp.inf, jnp.nan]))
    f = lambda x: (x.sum((0, 1, 2)), x + x[:1, 1:2, 1:2])
    for got, want in zip(matmul_convs(f)(x), f(x), strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_function_without_pixels_is_kept_whole():
    inner = jax.jit(lambda x: jnp.tanh(x + 1.0) * x)
    f = lambda x, w: inner(conv({})(x, w))
    written = text(matmul_convs(f), normal(0, 1, 4, 4, 2), normal(1, 3, 3, 2, 2))
    assert written.count("jit[") == text(inner, normal(0, 1, 4, 4, 2)).count("jit[")
