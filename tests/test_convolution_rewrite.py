"""`matmul_convs` replaces convolutions in any function and leaves the rest of it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from jmeta._jaxpr.primitives import inner_jaxprs
from jmeta.convolution import matmul_convs, patches
from tests.convolution_cases import assert_same, conv, normal, text


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        x = nn.Conv(3, (3, 3), use_bias=False, param_dtype=x.dtype)(x)
        x = nn.BatchNorm(use_running_average=not train, param_dtype=x.dtype)(x)
        x = nn.max_pool(nn.relu(x), (2, 2), (2, 2))
        return nn.Dense(2, param_dtype=x.dtype)(x.reshape(len(x), -1))


@pytest.mark.standard_promotion("Flax's normalisation mixes dtypes")
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


def policies(jaxpr):
    for eqn in jaxpr.eqns:
        if "policy" in eqn.params:
            yield eqn.params["policy"]
        for inner in inner_jaxprs(eqn.params):
            yield from policies(inner)


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
    for kept in ("jit[", "remat2[", "scan[", "cond[", "unroll=3"):
        assert want.count(kept) == got.count(kept) > 0, kept
    args = x, w, True
    kept = set(policies(jax.make_jaxpr(matmul_convs(f))(*args).jaxpr))
    assert kept == {jax.checkpoint_policies.dots_saveable}
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
