"""`matmul_convs` gives the numbers and derivatives of the convolutions it replaces."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta.convolution import matmul_convs, patches, winograd
from tests.convolution_cases import assert_same, conv, normal, pool, text

# id: shape of inputs, shape of kernel, settings of lax.conv_general_dilated
CONVOLUTIONS = {
    "same": ((2, 5, 6, 3), (3, 3, 3, 4), {"padding": "SAME"}),
    "valid": ((2, 5, 6, 3), (3, 2, 3, 4), {"padding": "VALID"}),
    "one": ((2, 4, 3, 3), (1, 1, 3, 2), {"padding": "SAME"}),
    "strides": ((2, 7, 6, 2), (3, 3, 2, 3), {"window_strides": (2, 3)}),
    "dilated": ((2, 9, 8, 2), (3, 2, 2, 3), {"rhs_dilation": (2, 3)}),
    "transposed": (
        (2, 4, 3, 2),
        (3, 3, 2, 3),
        {"lhs_dilation": (2, 2), "padding": ((1, 2), (2, 2))},
    ),
    "all": (
        (1, 7, 6, 2),
        (3, 2, 2, 3),
        {
            "window_strides": (2, 1),
            "padding": ((2, 0), (-1, 3)),
            "lhs_dilation": (2, 3),
            "rhs_dilation": (1, 2),
        },
    ),
    "nchw": ((2, 3, 5, 6), (4, 3, 3, 3), {"dimension_numbers": None}),
    "mixed": (
        (5, 3, 2, 6),
        (4, 3, 2, 3),
        {"dimension_numbers": ("HCNW", "OHWI", "WNCH"), "rhs_dilation": (2, 1)},
    ),
    "one axis": (
        (2, 7, 3),
        (4, 3, 2),
        {"window_strides": (2,), "dimension_numbers": ("NWC", "WIO", "NWC")},
    ),
    "three axes": (
        (1, 3, 4, 3, 2),
        (2, 3, 2, 2, 3),
        {
            "window_strides": (1, 1, 2),
            "dimension_numbers": ("NDHWC", "DHWIO", "NDHWC"),
        },
    ),
}
WINOGRAD = {
    "one axis of three": (
        (2, 8, 3),
        (3, 3, 2),
        {"padding": ((2, 1),), "window_strides": (1,), "lhs_dilation": (2,)}
        | {"dimension_numbers": ("NWC", "WIO", "NWC")},
    ),
    "rows": (
        (1, 7, 5, 2),
        (2, 3, 2, 3),
        {"window_strides": (2, 1), "rhs_dilation": (2, 1)},
    ),
}
PRODUCTS = (patches, winograd)
SECOND_ORDER = {"same", "all", "mixed", "one axis"}
POOLINGS = {
    "divides": (nn.max_pool, (2, 6, 4, 3), {"window_shape": (3, 2)}),
    "left over": (nn.max_pool, (2, 7, 5, 3), {"window_shape": (2, 2)}),
    "one axis": (nn.max_pool, (2, 7, 3), {"window_shape": (3,)}),
    "many ties": (nn.max_pool, (2, 7, 4, 3), {"window_shape": (7, 4)}),
    "average": (nn.avg_pool, (2, 7, 4, 3), {"window_shape": (3, 2)}),
}


def first_order(f, *args):
    """The gradient of sum(f ** 3)."""
    return jax.jit(jax.grad(lambda args: jnp.sum(f(*args) ** 3)))(args)


def second_order(f, *args):
    """Of `loss = sum(f ** 3)`: the gradient of the squared length of its gradient."""

    def length(args):
        grads = jax.grad(lambda args: jnp.sum(f(*args) ** 3))(args)
        return sum(jnp.sum(g**2) for g in jax.tree.leaves(grads))

    return jax.jit(jax.grad(length))(args)


def forward_over_reverse(f, *args):
    """Of the same loss: the derivative of its gradient in some direction."""
    grad = jax.grad(lambda args: jnp.sum(f(*args) ** 3))
    direction = jax.tree.map(jnp.sin, args)
    return jax.jit(lambda args: jax.jvp(grad, (args,), (direction,)))(args)


@pytest.mark.parametrize("row", CONVOLUTIONS)
def test_convolution_is_a_product_with_the_same_derivatives(row):
    x_shape, w_shape, settings = CONVOLUTIONS[row]
    x, w, f = normal(0, *x_shape), normal(1, *w_shape), conv(settings)
    rewritten = matmul_convs(f)
    assert "conv_general" in text(f, x, w)
    assert "conv_general" not in text(rewritten, x, w)
    assert_same(rewritten(x, w), f(x, w))
    derivative = second_order if row in SECOND_ORDER else first_order
    assert_same(derivative(rewritten, x, w), derivative(f, x, w))


@pytest.mark.parametrize("row", ["same", "one axis of three", "rows"])
def test_winograd_is_the_same_convolution(row):
    x_shape, w_shape, settings = WINOGRAD.get(row) or CONVOLUTIONS[row]
    x, w, f = normal(0, *x_shape), normal(1, *w_shape), conv(settings)
    rewritten = matmul_convs(f, product=winograd)
    assert text(rewritten, x, w).count("dot_general") == 1
    assert "[4," in text(rewritten, x, w)
    assert_same(rewritten(x, w), f(x, w))
    assert_same(second_order(rewritten, x, w), second_order(f, x, w))


def test_the_product_follows_the_shape():
    def taken(x_shape, dtype=jnp.float32):
        x = jnp.zeros((1, *x_shape), dtype)
        w = jnp.zeros((3, 3, x_shape[-1], 2), dtype)
        chosen = text(matmul_convs(conv({})), x, w)
        by_name = {p: text(matmul_convs(conv({}), product=p), x, w) for p in PRODUCTS}
        return [p for p, each in by_name.items() if each == chosen]

    assert taken((7, 7, 16)) == [winograd]
    assert taken((7, 4, 16)) == taken((7, 7, 15)) == [patches]
    assert taken((7, 7, 16), jnp.bfloat16) == [patches]


def test_convolution_in_forward_mode():
    x_shape, w_shape, settings = CONVOLUTIONS["all"]
    args, f = (normal(0, *x_shape), normal(1, *w_shape)), conv(settings)
    got = forward_over_reverse(matmul_convs(f), *args)
    assert_same(got, forward_over_reverse(f, *args))


@pytest.mark.parametrize("row", ["same", "all", "one axis"])
def test_weights_per_task_make_batched_products(row):
    x_shape, w_shape, settings = CONVOLUTIONS[row]
    x, w, f = normal(0, *x_shape), normal(1, 3, *w_shape), conv(settings)
    batched = jax.vmap(matmul_convs(f), (None, 0))
    assert "conv_general" not in text(batched, x, w)
    assert_same(batched(x, w), jnp.stack([f(x, each) for each in w]))
    xs = jnp.stack([x, 2 * x, x - 1])
    both = jax.vmap(matmul_convs(f))(xs, w)
    assert_same(both, jnp.stack([f(*each) for each in zip(xs, w, strict=True)]))


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "settings"),
    [
        ((2, 5, 6, 4), (3, 3, 2, 4), {"feature_group_count": 2}),
        ((4, 5, 6, 3), (3, 3, 3, 4), {"batch_group_count": 2}),
        ((0, 5, 6, 3), (3, 3, 3, 4), {}),
    ],
    ids=["feature groups", "batch groups", "empty"],
)
def test_what_is_no_plain_convolution_is_left(x_shape, w_shape, settings):
    x, w, f = normal(0, *x_shape), normal(1, *w_shape), conv(settings)
    assert text(matmul_convs(f), x, w) == text(f, x, w)
    np.testing.assert_array_equal(matmul_convs(f)(x, w), f(x, w))


@pytest.mark.standard_promotion("Flax's average pooling mixes dtypes")
@pytest.mark.parametrize("row", POOLINGS)
def test_pooling_is_a_reduction_with_the_same_derivatives(row):
    function, shape, settings = POOLINGS[row]
    f, x = pool(function, **settings), jnp.round(2 * normal(0, *shape)) + 0.5
    assert "reduce_window" in text(f, x)
    assert "reduce_window" not in text(matmul_convs(f), x)
    assert text(matmul_convs(f, pooling=False), x) == text(f, x)
    assert_same(second_order(matmul_convs(f), x), second_order(f, x))
    got = forward_over_reverse(matmul_convs(f), x)
    assert_same(got, forward_over_reverse(f, x))


def test_ties_would_tell_a_divided_derivative():
    x = jnp.ones((1, 2, 2, 1))
    first = jax.grad(lambda x: matmul_convs(pool(nn.max_pool, (2, 2)))(x).sum())(x)
    assert first.ravel().tolist() == [1.0, 0.0, 0.0, 0.0]
    assert jax.grad(jnp.max)(x).ravel().tolist() == [0.25] * 4


def test_max_pooling_keeps_nan_and_infinity():
    x = jnp.array([1.0, jnp.nan, jnp.nan, 1.0, -jnp.inf, -jnp.inf, jnp.inf, 0.0])
    f = pool(nn.max_pool, (2,))
    got = matmul_convs(f)(x[None, :, None])
    np.testing.assert_array_equal(got, f(x[None, :, None]))


@pytest.mark.parametrize("change", [{"padding": "SAME"}, {"strides": (1, 1)}])
def test_padded_or_overlapping_pooling_is_left(change):
    f = lambda x: nn.max_pool(x, (2, 2), **({"strides": (2, 2)} | change))
    x = normal(0, 1, 5, 5, 2)
    assert text(matmul_convs(f), x) == text(f, x)
