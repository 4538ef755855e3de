"""Counts of operations, loops included, against counts by hand and the compiler's."""

import jax
import jax.numpy as jnp
import pytest

from jmeta._jaxpr.operations import count_operations

W = jnp.ones((3, 4))
X = jnp.ones((5, 3))
IMAGES = jnp.ones((2, 8, 8, 6))


def looped(w, steps):
    return jax.lax.scan(lambda w, _: (jnp.sin(w) + w, w.sum()), w, None, steps)


def unused_work(w):
    """Five steps that carry a product nobody asks for."""

    def body(carry, _):
        w, idle = carry
        return (w + 1.0, idle @ idle), None

    return jax.lax.scan(body, (w, jnp.ones((9, 9))), None, 5)[0][0]


def convolve(images, groups=1):
    kernel = jnp.ones((3, 3, 6 // groups, 12))
    dims = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        images, kernel, (2, 2), "VALID", None, None, dims, groups
    )


CASES = {
    "product": (lambda: X @ W, 2 * 5 * 3 * 4),
    "batched product": (
        lambda: jax.vmap(jnp.dot)(X[:, None], X[:, :, None]),
        2 * 5 * 3,
    ),
    "elementwise": (lambda: jnp.sin(W) * W, 24),
    "reduction": (lambda: W.sum(0), 12),
    "movement": (lambda: jnp.concatenate([W.T.reshape(3, 4), W])[::-1], 0),
    "jit": (lambda: jax.jit(jnp.sin)(W), 12),
    "checkpoint": (lambda: jax.checkpoint(jnp.sin)(W), 12),
    "scan": (lambda: looped(W, 7), 7 * (12 + 12 + 12)),
    "scan without ys": (lambda: looped(W, 7)[0], 7 * 24),
    "nested scan": (
        lambda: jax.lax.scan(lambda w, _: (looped(w, 3)[0], None), W, None, 5)[0],
        5 * 3 * 24,
    ),
    "idle carry": (lambda: unused_work(W), 5 * 12),
    "branch": (
        lambda: jax.lax.cond(W[0, 0] > 5, lambda: X @ W, lambda: X @ W + 1),
        141,
    ),
    "convolution": (lambda: convolve(IMAGES), 2 * (2 * 3 * 3 * 12) * 3 * 3 * 6),
    "grouped": (lambda: convolve(IMAGES, 2), 2 * (2 * 3 * 3 * 12) * 3 * 3 * 3),
}


@pytest.mark.parametrize("name", CASES)
def test_by_hand(name):
    fun, expected = CASES[name]
    assert count_operations(jax.make_jaxpr(fun)()) == expected


def test_agrees_with_the_compiler_where_that_counts():
    """Without a loop, and where matrix products are nearly all there is."""

    def loss(w, x):
        return jnp.sum((jnp.tanh(x @ w) @ w.T - x) ** 2)

    args = jnp.ones((64, 64)), jnp.ones((128, 64))
    fun = jax.grad(loss)
    counted = count_operations(jax.make_jaxpr(fun)(*args))
    analysis = jax.jit(fun).lower(*args).compile().cost_analysis()
    assert analysis is not None
    assert counted == pytest.approx(analysis["flops"], rel=0.02)
