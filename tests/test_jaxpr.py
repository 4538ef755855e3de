"""What an output depends on, through everything that a jaxpr can hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta._dependence import dependencies
from jmeta._jaxpr import hoist
from tests.helpers import F64_SAME, assert_trees_close, compilations


@jax.custom_jvp
def with_jvp(x, y):
    return x * y


@with_jvp.defjvp
def _with_jvp_rule(primals, tangents):
    return with_jvp(*primals), primals[1] * tangents[0] + primals[0] * tangents[1]


@jax.custom_vjp
def with_vjp(x, y):
    return x * y


with_vjp.defvjp(
    lambda x, y: (x * y, (x, y)), lambda kept, g: (g * kept[1], g * kept[0])
)


def scanned(x, y, z):
    """Carries a, b, c: a goes to b, then to c, one step later each."""

    def body(carry, z):
        a, b, c = carry
        return (a, a + b, b + c), (z, c)

    return jax.lax.scan(body, (x, y, 0.0), jnp.stack([z, z]))


def looped(x, y, z):
    def body(carry):
        i, a, b = carry
        return i + 1, a * z, b + jax.lax.stop_gradient(a)

    return jax.lax.while_loop(lambda carry: carry[0] + x < 3, body, (0, x, y))[1:]


cut = jax.lax.stop_gradient
CASES = {
    "product": (lambda x, y, z: x * y, [0, 1]),
    "nothing": (lambda x, y, z: jnp.ones(()), []),
    "stop_gradient": (lambda x, y, z: cut(x) * y, [1]),
    "through int": (lambda x, y, z: x.astype(int).astype(float) + y, [1]),
    "comparison": (lambda x, y, z: jnp.where(x > 0, y, z), [1, 2]),
    "complex": (lambda x, y, z: jax.lax.complex(x, y).imag, [0, 1]),
    "jit": (lambda x, y, z: jax.jit(lambda a, b: (cut(a) + b, a))(x, y), [[1], [0]]),
    "remat": (lambda x, y, z: jax.checkpoint(lambda a: (cut(a) + y, a))(x), [[1], [0]]),
    "vmap": (lambda x, y, z: jax.vmap(lambda a: cut(a) * y)(x[None]), [1]),
    "custom_jvp": (lambda x, y, z: with_jvp(x, cut(z)), [0]),
    "custom_vjp": (lambda x, y, z: with_vjp(cut(x), z), [2]),
    "relu": (lambda x, y, z: jax.nn.relu(x), [0]),
    "grad": (lambda x, y, z: jax.grad(lambda a: cut(x) * a**2 * y)(z), [1, 2]),
    "cond": (lambda x, y, z: jax.lax.cond(x > 0, lambda: y, lambda: cut(z)), [1]),
    "switch": (
        lambda x, y, z: jax.lax.switch(1, [lambda: x, lambda: y, lambda: cut(z)]),
        [0, 1],
    ),
    "scan": (scanned, [[0], [0, 1], [0, 1], [2], [0, 1]]),
    "while": (looped, [[0, 2], [1]]),
    "fori": (lambda x, y, z: jax.lax.fori_loop(0, 3, lambda i, a: a + y, x), [0, 1]),
    "solve": (lambda x, y, z: jnp.linalg.solve(x * jnp.eye(1), y[None]), [0, 1]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_dependencies(name):
    fun, expected = CASES[name]
    found, shapes = dependencies(fun, *map(jnp.asarray, (0.3, 0.5, 0.7)))
    leaves = jax.tree.leaves(found, is_leaf=lambda x: isinstance(x, frozenset))
    if not expected or isinstance(expected[0], int):
        expected = [expected]
    assert [sorted(leaf) for leaf in leaves] == expected
    assert len(jax.tree.leaves(shapes)) == len(expected)


@pytest.mark.parametrize("name", sorted(set(CASES) - {"switch", "while", "fori"}))
def test_dependencies_are_where_derivatives_are(name):
    """An output that is found not to depend on an input has derivative 0."""
    fun, _ = CASES[name]
    at = tuple(map(jnp.asarray, (0.3, 0.5, 0.7)))
    found, _ = dependencies(fun, *at)
    leaves = jax.tree.leaves(found, is_leaf=lambda x: isinstance(x, frozenset))
    flat = jax.jacrev(lambda *args: jax.tree.leaves(fun(*args)), argnums=(0, 1, 2))
    jacobians = flat(*at)
    for depends, jacobian in zip(leaves, jacobians, strict=True):
        moved = {i for i, d in enumerate(jacobian) if jnp.any(d != 0)}
        assert moved <= depends


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
