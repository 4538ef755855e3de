"""The helpers fail when they should: every other test leans on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import (
    F64_DIFFERENCE,
    F64_SAME,
    assert_trees_close,
    central_difference,
    compilations,
    count_equations,
    finite_difference_grad,
)

TREE = {"a": np.array([1.0, -2.0]), "b": (np.array(3.0), np.array([[4, 5]]))}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda t: t | {"a": t["a"] + [0.0, 1e-9]}, r"leaf `\['a'\]`: 1 of 2 .*\(1,\)"),
        (lambda t: t | {"a": np.array([1.0, np.nan])}, r"\['a'\].*got .*nan"),
        (lambda t: t | {"a": np.array([1.0, np.inf])}, r"\['a'\].*got .*inf"),
        (lambda t: t | {"a": t["a"][None]}, r"shape \(1, 2\), expected \(2,\)"),
        (lambda t: t | {"a": np.array(1.0)}, r"shape \(\), expected \(2,\)"),
        (lambda t: t | {"b": (t["b"][0] + 1, t["b"][1])}, r"\['b'\]\[0\]`: .*error 1"),
        (lambda t: t | {"b": (t["b"][0], t["b"][1] - 1)}, r"\['b'\]\[1\]`: 2 of 2"),
        (lambda t: t | {"b": list(t["b"])}, "differ in structure"),
        (lambda t: t | {"c": 1.0}, "differ in structure"),
        (lambda t: t | {"a": None}, "differ in structure"),
    ],
)
def test_assert_trees_close_fails(wrong, message):
    assert_trees_close(TREE, TREE, rtol=0)
    with pytest.raises(AssertionError, match=message):
        assert_trees_close(wrong(TREE), TREE, rtol=F64_SAME)


def test_assert_trees_close_names_every_wrong_leaf():
    with pytest.raises(AssertionError) as caught:
        assert_trees_close({"a": 1.0, "b": 2.0, "c": 3.0}, dict.fromkeys("abc", 1.0), 0)
    assert "`['a']`" not in str(caught.value)
    assert "`['b']`" in str(caught.value)
    assert "`['c']`" in str(caught.value)


def test_assert_trees_close_limits():
    assert_trees_close(1.0 + 0.9e-6, 1.0, rtol=1e-6)
    assert_trees_close(0.9e-6, 0.0, rtol=0, atol=1e-6)
    for actual, expected in [(1.0 + 1.1e-6, 1.0), (1e-300, 0.0), (-1.0, 1.0)]:
        with pytest.raises(AssertionError, match="error"):
            assert_trees_close(actual, expected, rtol=1e-6)
    with pytest.raises(AssertionError, match="nan"):
        assert_trees_close(np.nan, np.nan, rtol=1.0, atol=np.inf)
    assert_trees_close(-np.inf, -np.inf, rtol=0)
    with pytest.raises(AssertionError, match="inf"):
        assert_trees_close(1.0, np.inf, rtol=1.0)


def test_assert_trees_close_takes_every_dtype(key):
    leaves = [True, np.uint8(1), jnp.bfloat16(1.5), 1 + 2j, key, jnp.zeros((0, 2))]
    assert_trees_close(leaves, leaves, rtol=0)
    others = [False, np.uint8(2), jnp.bfloat16(1), 1 - 2j, jax.random.split(key)[0]]
    for leaf, other in zip(leaves, others, strict=False):
        with pytest.raises(AssertionError, match=r"1 of 1|2 of 2"):
            assert_trees_close(other, leaf, rtol=1e-3)


def test_central_difference_is_of_fourth_order():
    direction = {"x": np.array([1.0, 2.0]), "y": -0.5}
    x = {"x": np.array([0.3, -0.7]), "y": 1.2}

    @jax.jit
    def f(t):
        return jnp.sin(t["x"]) * jnp.exp(t["y"]), t["y"] ** 4

    tangents = jax.jvp(f, (x,), (direction,))[1]
    assert_trees_close(central_difference(f, x, direction), tangents, rtol=1e-10)
    errors = [
        np.abs(central_difference(f, x, direction, step)[0] - tangents[0]).max()
        for step in (0.2, 0.1)
    ]
    np.testing.assert_allclose(errors[0] / errors[1], 2**4, rtol=0.1)


def test_finite_difference_grad(key):
    x = {"w": jax.random.normal(key, (2, 3)), "b": 0.4}
    f = jax.jit(lambda t: jnp.tanh(t["w"]).prod() + t["b"] ** 3 * t["w"].sum())
    grad = finite_difference_grad(f, x)
    assert_trees_close(grad, jax.grad(f)(x), rtol=F64_DIFFERENCE)
    with pytest.raises(AssertionError, match=r"\['b'\]"):
        assert_trees_close(grad, jax.grad(lambda t: 1.001 * f(t))(x), 1e-4)


@pytest.mark.parametrize(
    ("f", "x"), [(jnp.sum, jnp.ones(2, jnp.float32)), (lambda x: jnp.float32(x), 1.0)]
)
def test_differences_refuse_lower_precision(f, x):
    with pytest.raises(TypeError, match="needs float64 throughout; got float32"):
        finite_difference_grad(f, x)


def test_compilations():
    # shapes whose sum no test before this one has compiled
    x, y = jnp.ones((3, 1, 2, 1)), jnp.ones((4, 1, 2, 1))

    @jax.jit
    def double(x):
        return 2 * x

    with compilations() as compiled:
        double(x)
    assert compiled == ["jit(double)"]
    with compilations() as compiled_again:
        double(x)
        double(x + x)
    assert compiled_again == ["jit(add)"]
    with compilations() as another_shape:
        double(y)
    assert another_shape == ["jit(double)"]
    double(jnp.ones(5))
    assert compiled == another_shape == ["jit(double)"]  # nothing counts afterwards


def test_count_equations():
    def scan(f, length):
        return jax.make_jaxpr(lambda x: jax.lax.scan(f, x, length=length)[0])(1.0)

    def body(x, _):
        return jnp.sin(x) + 1.0, None

    assert count_equations(jax.make_jaxpr(jnp.sin)(1.0)) == 1
    assert count_equations(scan(body, 3)) == count_equations(scan(body, 300)) == 3
    branches = jax.make_jaxpr(
        lambda x: jax.lax.cond(x > 0, jnp.sin, lambda x: jnp.cos(x) * 2, x)
    )(1.0)
    # gt, convert_element_type, cond; sin; cos, mul
    assert count_equations(branches) == 6
