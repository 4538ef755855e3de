"""`prevent_cpu_fusion` changes no value and no derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta._core.remat import prevent_cpu_fusion

VALUES = [0.1, -0.0, 1e-30, 1e30, jnp.inf, -jnp.inf, jnp.nan]


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_values_stay(dtype):
    x = jnp.array(VALUES, dtype)
    for run in (
        prevent_cpu_fusion,
        jax.jit(prevent_cpu_fusion),
        jax.vmap(prevent_cpu_fusion),
    ):
        got = run({"x": x})["x"]
        assert got.dtype == x.dtype
        np.testing.assert_array_equal(got.astype(float), x.astype(float))
        np.testing.assert_array_equal(np.signbit(got), np.signbit(x))


def test_what_is_no_float_or_large_is_left():
    tree = [jnp.arange(3), jnp.ones(3, complex), jnp.ones(1 << 17), jax.random.key(0)]
    assert str(jax.make_jaxpr(prevent_cpu_fusion)(tree)).count("\n") <= 1


def test_derivatives_are_those_of_the_identity():
    f = lambda x: jnp.sin(prevent_cpu_fusion(x))
    for order in (jax.grad(f), jax.jacfwd(jax.grad(f)), jax.grad(jax.grad(f))):
        assert jnp.isfinite(order(0.3))
    assert jax.grad(f)(0.3) == jnp.cos(0.3)
    assert jax.grad(jax.grad(f))(0.3) == -jnp.sin(0.3)
    assert jax.jvp(jax.grad(f), (0.3,), (2.0,))[1] == -2 * jnp.sin(0.3)
