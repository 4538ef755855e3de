"""`matmul_convs` gives the numbers and derivatives of the convolutions it replaces."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from jmeta.convolution import matmul_convs, patches
from tests.helpers import F64_SAME, assert_trees_close

NHWC = ("NHWC", "HWIO", "NHWC")
ATOL = 1e-12  # beside entries of size 1, where products cancel

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
SECOND_ORDER = {"same", "all", "mixed", "one axis"}
POOLINGS = {
    "divides": (nn.max_pool, (2, 6, 4, 3), {"window_shape": (3, 2)}),
    "left over": (nn.max_pool, (2, 7, 5, 3), {"window_shape": (2, 2)}),
    "one axis": (nn.max_pool, (2, 7, 3), {"window_shape": (3,)}),
    "average": (nn.avg_pool, (2, 7, 4, 3), {"window_shape": (3, 2)}),
}


def conv(settings):
    rest = {
        "window_strides": (1, 1),
        "padding": "SAME",
        "dimension_numbers": NHWC,
    } | settings
    return lambda x, w: lax.conv_general_dilated(x, w, **rest)


def pool(function, window_shape):
    return lambda x: function(x, window_shape, strides=window_shape)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


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


def text(f, *args):
    return str(jax.make_jaxpr(f)(*args))


def assert_same(actual, expected):
    size = max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(expected))
    assert size > 0.1, "the expected numbers are too small to tell"
    assert_trees_close(actual, expected, F64_SAME, ATOL * size)


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


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        x = nn.Conv(3, (3, 3), use_bias=False, param_dtype=x.dtype)(x)
        x = nn.BatchNorm(use_running_average=not train, param_dtype=x.dtype)(x)
        x = nn.max_pool(nn.relu(x), (2, 2), (2, 2))
        return nn.Dense(2, param_dtype=x.dtype)(x.reshape(len(x), -1))


def test_linen_network_with_state_and_python_arguments():
    x, model = normal(0, 3, 9, 9, 1), Net()
    variables = model.init(jax.random.key(0), x)

    def apply(variables, x, *, train):
        assert isinstance(train, bool)
        out = model.apply(variables, x, train, mutable=["batch_stats"])
        return *out, "text", 1.0

    rewritten = matmul_convs(apply)
    got, want = rewritten(variables, x, train=True), apply(variables, x, train=True)
    assert got[2:] == want[2:] == ("text", 1.0)
    assert type(got[3]) is float
    assert_same(got[:2], want[:2])

    def hypergrad(apply):
        def loss(params):
            out = apply({**variables, "params": params}, x, train=True)[0]
            return jnp.mean((out - 1.0) ** 2)

        def adapted(params):
            grads = jax.grad(loss)(params)
            return loss(jax.tree.map(lambda p, g: p - 0.1 * g, params, grads))

        return jax.jit(jax.value_and_grad(adapted))(variables["params"])

    assert_same(hypergrad(rewritten), hypergrad(apply))


def test_nnx_network():
    model = nnx.Conv(2, 3, (3, 3), rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    graph, params = nnx.split(model, nnx.Param)
    f = lambda params, x: nnx.merge(graph, params)(x)
    x = normal(0, 2, 5, 5, 2)
    assert "conv_general" not in text(matmul_convs(f), params, x)
    assert_same(matmul_convs(f)(params, x), f(params, x))


def test_custom_rules_are_bound_as_they_are():
    same = conv({})
    x, w = normal(0, 1, 4, 4, 2), normal(1, 3, 3, 2, 2)

    @jax.custom_vjp
    def scaled(x):
        return same(x, w)

    scaled.defvjp(lambda x: (same(x, w), None), lambda _, g: (3.0 * g,))
    assert text(matmul_convs(scaled), x).count("conv_general") == 1
    grads = jax.grad(lambda x: matmul_convs(scaled)(x).sum())(x)
    np.testing.assert_array_equal(grads, 3.0 * jnp.ones_like(x))

    relu_at_zero = lambda x: jax.nn.relu(same(x, 0.0 * w)).sum()
    grads = jax.grad(matmul_convs(lambda b: jax.nn.relu(same(x, 0 * w) + b).sum()))(0.0)
    assert grads == 0.0
    assert jax.grad(matmul_convs(relu_at_zero))(x).sum() == 0.0


def test_wrappers_are_entered_and_kept():
    same = conv({})
    x, w = normal(0, 1, 4, 4, 2), 0.3 * normal(1, 3, 3, 2, 2)

    def f(x, w, flag):
        step = jax.checkpoint(
            jax.jit(lambda x: jnp.tanh(same(x, w))),
            policy=jax.checkpoint_policies.dots_saveable,
        )
        x, _ = lax.scan(lambda x, _: (step(x), None), x, None, length=3, unroll=3)
        return lax.cond(flag, lambda x: same(x, w), lambda x: 2 * x, x)

    got, want = text(matmul_convs(f), x, w, True), text(f, x, w, True)
    assert "conv_general" not in got
    for kept in ("jit[", "remat2[", "scan[", "cond[", "unroll=3", "dots_saveable"):
        assert want.count(kept) == got.count(kept) > 0, kept
    for flag in (True, False):
        rewritten = lambda x, w, flag=flag: jnp.sum(matmul_convs(f)(x, w, flag) ** 2)
        plain = lambda x, w, flag=flag: jnp.sum(f(x, w, flag) ** 2)
        grads = jax.jit(jax.grad(rewritten, (0, 1)))(x, w)
        assert_same(grads, jax.jit(jax.grad(plain, (0, 1)))(x, w))


def test_captured_tracers_keys_and_nesting():
    same, x = conv({}), normal(0, 1, 4, 4, 2)

    def loss(w, key):
        captured = matmul_convs(lambda x: same(x, w))
        inner = lambda x, key: captured(x) * jax.random.normal(key, x.shape)
        return jnp.sum(matmul_convs(inner)(x, key) ** 2)

    def plain(w, key):
        return jnp.sum((same(x, w) * jax.random.normal(key, x.shape)) ** 2)

    w = normal(1, 3, 3, 3, 2, 2)
    keys = jax.random.split(jax.random.key(0), 3)
    got = jax.jit(jax.vmap(jax.grad(loss)))(w, keys)
    assert_same(got, jax.vmap(jax.grad(plain))(w, keys))


def test_dtype_and_precision_are_kept():
    f = conv({"preferred_element_type": jnp.float32, "precision": "highest"})
    x, w = (
        a.astype(jnp.bfloat16) for a in (normal(0, 1, 4, 4, 2), normal(1, 3, 3, 2, 2))
    )
    rewritten = matmul_convs(f)
    assert rewritten(x, w).dtype == f(x, w).dtype == jnp.float32
    assert "HIGHEST" in text(rewritten, x, w)
    assert matmul_convs(conv({}))(x, w).dtype == jnp.bfloat16


def test_the_product_can_be_chosen():
    seen = []

    def only_wide(x, w, convolution):
        seen.append((x.shape, w.shape, convolution.strides))
        return patches(x, w, convolution) if w.shape[-2] > 2 else None

    def f(x, v, w):
        return conv({"dimension_numbers": None})(
            conv({})(x, v).transpose(0, 3, 1, 2), w
        )

    args = normal(0, 1, 4, 5, 2), normal(1, 3, 3, 2, 3), normal(2, 4, 3, 1, 2)
    rewritten = matmul_convs(f, product=only_wide)
    assert text(rewritten, *args).count("conv_general") == 1
    seen.clear()
    assert_same(rewritten(*args), f(*args))
    assert seen == [
        ((1, 4, 5, 2), (3, 3, 2, 3), (1, 1)),
        ((1, 4, 5, 3), (1, 2, 3, 4), (1, 1)),
    ]


def test_a_weakly_typed_carry_keeps_its_type():
    same, w = conv({}), normal(1, 3, 3, 1, 1)

    def f(x):
        def step(carry, _):
            scale, x = carry
            return (scale * 0.5, same(x, w)), scale

        return lax.scan(step, (1.0, x), None, length=2)

    x = normal(0, 1, 3, 3, 1)
    got, want = matmul_convs(f)(x), f(x)
    assert_same(got, want)
    types = [jax.typeof(x).weak_type for x in (got[0][0], want[0][0])]
    assert types == [True, True]
