"""Elementary functions whose derivatives are finite where JAX's are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta._core.numerics import integer_power, safe_divide, safe_sqrt, scale
from tests.helpers import F64_SAME, assert_trees_close


def orders(f, derivative):
    """`f` and its first three derivatives."""
    found = [f]
    for _ in range(3):
        found.append(derivative(found[-1]))
    return found


@pytest.mark.parametrize("derivative", [jax.grad, jax.jacfwd])
@pytest.mark.parametrize("x", [0.0, 0.5, -2.0])
def test_integer_power(x, derivative):
    for n in range(4):
        got = [f(x, jnp.int32(n)) for f in orders(integer_power, derivative)]
        # n! / (n - k)! x^(n - k)
        expected = [np.prod(range(n, n - k, -1)) * x ** max(n - k, 0) for k in range(4)]
        assert_trees_close(jnp.stack(got), jnp.array(expected), rtol=F64_SAME)


def test_integer_power_keeps_the_dtype():
    for dtype in (jnp.bfloat16, jnp.float32, jnp.float64):
        value, slope = jax.value_and_grad(integer_power)(dtype(3.0), jnp.int32(2))
        assert value.dtype == slope.dtype == dtype
        assert (value, slope) == (9.0, 6.0)


@pytest.mark.parametrize("derivative", [jax.grad, jax.jacfwd])
def test_roots_and_quotients_have_no_slope_at_0(derivative):
    quotient = lambda x: safe_divide(2.0 * x, x)
    zero, four = jnp.array(0.0), jnp.array(4.0)
    for f in (safe_sqrt, quotient):
        assert [g(zero) for g in orders(f, derivative)] == [0.0] * 4
    slopes = [f(four) for f in orders(safe_sqrt, derivative)]
    assert_trees_close(slopes, [2.0, 1 / 4, -1 / 32, 3 / 256], rtol=F64_SAME)
    assert quotient(four) == 2.0


def test_scale_is_a_product():
    x = jnp.array(np.random.default_rng(0).normal(size=(3, 4)))
    for factor in (jnp.array(0.3), x[:1]):
        got, pull = jax.vjp(scale, factor, x)
        expected, pull_product = jax.vjp(jnp.multiply, factor, x)
        assert_trees_close(got, expected, rtol=0.0)
        assert_trees_close(pull(x), pull_product(x), rtol=F64_SAME)


@pytest.mark.parametrize("name", ["adam", "nadam", "radam", "adamax", "sparse_adam"])
def test_second_derivatives_in_betas_of_exactly_0(name):
    tx = getattr(jmeta.optim, name)(lr=0.1, eps=0.1)
    start, target = jnp.array([1.0, 0.3]), jnp.array([0.4, -0.7])

    def outer(betas):
        loop = jmeta.inner_loop(
            lambda w: jnp.sum((w - target) ** 2),
            start,
            tx,
            3,
            hyperparams={"betas": (betas[0], betas[1])},
        )
        return jnp.sum(loop.params**3)

    at_zero, beside = jax.jit(jax.vmap(jax.hessian(outer)))(
        jnp.array([[0.0] * 2, [1e-8] * 2])
    )
    assert np.abs(at_zero).max() > 1e-3
    # the third derivative times the distance
    assert_trees_close(at_zero, beside, rtol=1e-5, atol=1e-5)
