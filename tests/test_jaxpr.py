"""What a function captures, as arguments."""

import jax
import jax.numpy as jnp
import numpy as np

from jmeta._jaxpr.hoist import hoist
from tests.helpers import F64_SAME, assert_trees_close, compilations


@jax.custom_vjp
def with_vjp(x, y):
    return x * y


with_vjp.defvjp(
    lambda x, y: (x * y, (x, y)), lambda kept, g: (g * kept[1], g * kept[0])
)


def test_hoist_makes_captures_arguments():
    scale, labels, key = jnp.array(2.0), jnp.array([0, 2]), jax.random.key(1)
    table = np.arange(3.0)

    def fun(x, args):
        noise = jax.random.normal(key, (2,))
        return {"y": scale * x * jnp.asarray(table)[labels] + noise}, args["n"] + 1

    args = (jnp.array(3.0), {"n": jnp.array(4)})
    pure, captured, _ = hoist(fun, *args)
    assert_trees_close(pure(captured, *args), fun(*args), rtol=F64_SAME)
    changed = [2 * x if x is scale else x for x in captured]
    assert any(x is scale for x in captured)
    expected = fun(2 * args[0], args[1])
    assert_trees_close(pure(changed, *args), expected, rtol=F64_SAME)
    assert any(x.dtype == key.dtype for x in captured)


def test_hoist_keeps_rules_and_traces_once():
    calls = []

    def fun(x):
        calls.append(None)
        return with_vjp(x, jnp.float64(3.0))

    pure, captured, _ = hoist(fun, 2.0)
    assert_trees_close(jax.grad(pure, argnums=1)(captured, 5.0), 3.0, rtol=0)
    batched = jax.jit(jax.vmap(lambda x: pure(captured, x)))
    x = jnp.arange(3.0)
    assert_trees_close(batched(x), 3 * x, rtol=0)
    with compilations() as compiled:
        batched(x)
    assert not compiled
    assert len(calls) == 1


def test_hoist_of_traced_values():
    def inner(scale):
        pure, captured, _ = hoist(lambda x: jnp.sin(scale * x), 1.0)
        rule = jax.custom_vjp(pure)
        rule.defvjp(
            lambda *args: (pure(*args), args),
            lambda args, g: jax.vjp(pure, *args)[1](g),
        )
        return rule(captured, 2.0)

    scales = jnp.array([0.1, 0.2])
    expected = 2 * jnp.cos(2 * scales)
    assert_trees_close(jax.vmap(jax.grad(inner))(scales), expected, rtol=F64_SAME)
