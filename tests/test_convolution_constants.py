"""`matmul_convs` of functions whose rewriting makes constants, and of empty results."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import jmeta
from jmeta import matmul_convs
from jmeta.convolution import winograd
from tests.convolution_cases import assert_same, conv, normal, text
from tests.helpers import assert_trees_close

IMAGES, KERNEL = normal(0, 2, 4, 4, 2), 0.3 * normal(1, 3, 3, 2, 2)


def layer(w):
    return jnp.sum(jnp.tanh(conv({})(IMAGES, w)))


def centred(w):
    """Without a convolution: sums over pixels, spread over them again."""
    x = IMAGES * w.reshape(1, 1, 1, 2)
    return jnp.sum((x - jnp.sum(x, (0, 1, 2), keepdims=True)) ** 3)


def trained(loss, start):
    tx = jmeta.optim.sgd(lr=0.01)
    run = jmeta.inner_loop(lambda w: 0.1 * loss(w), start, tx, 2)
    return jnp.sum(run.params**2)


def remat(w):
    steps = jax.checkpoint(lambda w, _: (w + layer(w) * w, None))
    return jnp.sum(lax.scan(steps, w, length=2)[0])


def remat_with_a_flag_for_each(w):
    fun = jax.checkpoint(lambda w, c: c * layer(w), prevent_cse=(True, False))
    return fun(w, jnp.sum(w))


def in_a_branch(w):
    return lax.cond(w.sum() > 0, lambda w: layer(2 * w), layer, w)


DERIVATIVES = {
    "of a loop": (jax.grad(lambda w: trained(layer, w)), KERNEL),
    "of a loop without convolution": (
        jax.grad(lambda w: trained(centred, w)), normal(2, 2),
    ),
    "of a loop for each task": (
        jax.vmap(jax.grad(lambda w: trained(layer, w))), jnp.stack([KERNEL, -KERNEL]),
    ),
    "of a remat in a scan": (jax.grad(remat), KERNEL),
    "of a remat with flags": (jax.grad(remat_with_a_flag_for_each), KERNEL),
    "of a branch": (jax.grad(in_a_branch), KERNEL),
}  # fmt: skip


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("name", DERIVATIVES)
def test_derivatives(name, jit):
    fun, at = DERIVATIVES[name]
    rewritten = matmul_convs(fun)
    assert text(rewritten, at) != text(fun, at)
    assert_same((jax.jit(rewritten) if jit else rewritten)(at), jax.jit(fun)(at))


VALID = conv({"padding": "VALID"})
EMPTY = {
    "nothing": (lambda x: None, jnp.ones(2)),
    "a jitted nothing": (lambda x: jax.jit(lambda x: ())(x), IMAGES),
    "a Python number": (lambda x: 3, IMAGES),
    "no arguments": (lambda: {"a": ()},),
    "integers": (lambda n: n + 1, 3),
    "a window larger than the image": (lambda x: VALID(x, KERNEL), IMAGES[:, :2, :2]),
    "its derivative": (
        jax.grad(lambda x: VALID(x, KERNEL).sum()), IMAGES[:, :2, :2],
    ),
    "a window larger by Winograd": (
        matmul_convs(lambda x: VALID(x, KERNEL), product=winograd), IMAGES[:, :2, :2],
    ),
    "a pool larger than the image": (
        lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 9, 9, 1), (1, 9, 9, 1),
                                    "VALID"), IMAGES,
    ),
    "no images": (lambda x: (x * jnp.ones((1, 1, 1, 2))).sum((0, 1, 2)), IMAGES[:0]),
    "no channels": (lambda x: x.sum((0, 1, 2)), IMAGES[..., :0]),
}  # fmt: skip


@pytest.mark.parametrize("name", EMPTY)
def test_empty_results(name):
    fun, *args = EMPTY[name]
    got, want = matmul_convs(fun)(*args), fun(*args)
    assert jax.tree.map(jnp.shape, got) == jax.tree.map(jnp.shape, want)
    if jax.tree.leaves(want):
        assert_trees_close(got, want, 0.0)
    else:
        assert got == want
