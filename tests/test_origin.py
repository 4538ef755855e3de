"""The operation and the loop's steps that a bad number comes from."""

import jax
import jax.numpy as jnp
import pytest

from jmeta._jaxpr.origin import find_origin
from jmeta.diagnose._differences import directional_derivative
from tests.helpers import F64_DIFFERENCE, assert_trees_close


def decreasing(x):
    """NaN from the root at index 2, of 0.3, 0.05 and a negative number."""
    return jax.lax.scan(lambda x, _: (jnp.sqrt(x) - 0.5, x), x, None, 5)[0]


def backwards(x):
    """Goes from the last index to the first; what it takes the root of is at 3."""
    xs = jnp.array([1.0, -1.0, 1.0, -1.0, 1.0])
    return jax.lax.scan(lambda c, s: (c + jnp.sqrt(s), None), x, xs, reverse=True)[0]


def nested(x):
    def outer(x, i):
        inner = lambda x, j: (x + jnp.log(4.5 - 3 * i - j), None)
        return jax.lax.scan(inner, x, jnp.arange(3.0))[0], None

    return jax.lax.scan(outer, x, jnp.arange(4.0))[0]


def masked(x):
    """A NaN and an infinity that do no harm come before the one that does."""
    harmless = jnp.where(x > 0, x, jnp.sqrt(-x))
    mask = jnp.where(jnp.arange(3) < 2, x, -jnp.inf)
    return harmless + jax.nn.logsumexp(mask) + jnp.arccos(x + 2)


CASES = {
    "scan": (decreasing, (2,), "sqrt"),
    "reverse": (backwards, (3,), "sqrt"),
    "nested": (nested, (1, 2), "log"),
    "masked": (masked, (), "acos"),
    "jit": (jax.jit(lambda x: 1 + jnp.sqrt(-x)), (), "sqrt"),
    "checkpoint": (jax.checkpoint(lambda x: jnp.sqrt(-x)), (), "sqrt"),
    "cond": (
        lambda x: jax.lax.cond(x > 0, lambda: jnp.log(-x), lambda: x),
        (),
        "log",
    ),
    "infinity": (lambda x: jnp.exp(x * 1e4) + 1, (), "exp"),
    "gradient": (jax.grad(lambda x: 0.0 * jnp.sqrt(x - x)), (), "mul"),
}


@pytest.mark.parametrize("name", CASES)
def test_origin(name):
    fun, steps, primitive = CASES[name]
    x = jnp.array(0.3)
    origin = find_origin(jax.make_jaxpr(fun)(x), [x], 0)
    assert origin is not None
    assert origin.steps == steps
    assert origin.primitive == primitive
    assert origin.place.startswith("test_origin.py:")


def test_no_origin():
    closed = jax.make_jaxpr(lambda x: x + 1)(1.0)
    assert find_origin(closed, [jnp.array(1.0)], 0) is None
    assert find_origin(closed, [jnp.array(jnp.nan)], 0) is None


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e5])
def test_differences_at_every_scale(size):
    at = jax.jit(lambda h: jnp.sin(1 + h / size))
    found = directional_derivative(at, size, 1e-16)
    expected = jnp.cos(1.0) / size
    assert_trees_close(found.value, float(expected), F64_DIFFERENCE)
    assert abs(found.value - expected) < 100 * found.error < 1e-6 / size


def test_differences_of_a_function_that_is_defined_nearby_only():
    found = directional_derivative(lambda h: jnp.sqrt(0.01 + h), 1.0, 1e-16)
    assert_trees_close(found.value, 5.0, F64_DIFFERENCE)
    nowhere = directional_derivative(lambda h: float("nan"), 1.0, 1e-16)
    assert nowhere.error == float("inf")
