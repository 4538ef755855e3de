"""Loops under every transformation, inside each other, with losses that capture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta import Unroll
from tests.cases import PLAIN
from tests.helpers import (
    F64_DIFFERENCE,
    F64_SAME,
    assert_trees_close,
    central_difference,
)

ROUNDING = 1e-13


def capturing(adjoint, theta, labels, key):
    """A loss that captures learned weights, integer labels and a key."""
    inputs = jnp.asarray(np.random.default_rng(5).normal(size=(4, 2)))

    def objective(w, *, key):
        noise = 1 + 0.1 * jax.random.normal(key, (4, 1))
        scores = (inputs * noise) @ (w * jnp.exp(theta)[:, None])
        picked = jnp.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], 1)
        return -jnp.mean(picked * jax.random.uniform(key, (4, 1)))

    run = jmeta.inner_loop(
        objective, 0.3 * jnp.ones((2, 3)), jmeta.optim.sgd(0.5, 0.5), 3,
        key=jax.random.fold_in(key, 7), adjoint=adjoint,
    )  # fmt: skip
    return jnp.sum(run.params**2 * jnp.arange(1.0, 7).reshape(2, 3))


def tasks():
    rng = np.random.default_rng(6)
    thetas = jnp.asarray(rng.normal(size=(3, 2)))
    labels = jnp.asarray(rng.integers(0, 3, size=(3, 4)))
    return thetas, labels, jax.random.split(jax.random.key(8), 3)


TRANSFORMED = {
    "vmap of grad": lambda f: lambda *tasks: jax.vmap(jax.grad(f))(*tasks),
    "grad of vmap": lambda f: jax.grad(lambda *tasks: jnp.sum(jax.vmap(f)(*tasks))),
    "map": lambda f: lambda *tasks: jax.lax.map(lambda task: jax.grad(f)(*task), tasks),
}


@pytest.fixture(scope="module")
def one_by_one():
    grad = jax.jit(jax.grad(lambda *task: capturing(PLAIN, *task)))
    return jnp.stack([grad(*task) for task in zip(*tasks(), strict=True)])


@pytest.mark.parametrize("name", TRANSFORMED)
@pytest.mark.parametrize("jitted", [True, False])
def test_losses_that_capture(name, jitted, one_by_one):
    fun = TRANSFORMED[name](lambda *task: capturing(Unroll(), *task))
    found = (jax.jit(fun) if jitted else fun)(*tasks())
    assert_trees_close(found, one_by_one, rtol=F64_SAME, atol=ROUNDING)
    assert len({round(float(jnp.sum(g)), 6) for g in one_by_one}) == 3


def scalars(adjoint, x):
    """A loop of numbers that is curved in the rate, the start and the loss."""
    w0, lr, c = x

    def objective(w):
        return jnp.cos(c * w) + 0.5 * w**2, c * w**2

    run = jmeta.inner_loop(
        objective, w0, jmeta.optim.sgd(momentum=0.5), 5,
        hyperparams={"lr": lr}, has_aux=True, adjoint=adjoint,
    )  # fmt: skip
    return run.params**2 + jnp.sum(run.aux * run.losses)


AT = (0.4, 0.3, 1.2)


@pytest.fixture(scope="module")
def hessian():
    """By reverse over reverse through plain JAX, checked by differences."""
    x = jnp.array(AT)
    grad = jax.jit(jax.grad(lambda x: scalars(PLAIN, tuple(x))))
    found = jax.jit(jax.jacrev(jax.grad(lambda x: scalars(PLAIN, tuple(x)))))(x)
    assert_trees_close(found, found.T, rtol=F64_SAME, atol=ROUNDING)
    slopes = [central_difference(grad, np.array(AT), e) for e in np.eye(3)]
    assert_trees_close(found, np.stack(slopes, 1), rtol=F64_DIFFERENCE)
    return found


@pytest.mark.parametrize(
    ("adjoint", "outside"),
    [
        (Unroll(), jax.jacrev),
        (Unroll(checkpoint="nested"), jax.jacrev),
        (Unroll(mixed=False), jax.jacrev),
        (Unroll(mixed=False), jax.jacfwd),
        (Unroll(mixed=False, checkpoint="nested"), jax.jacfwd),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_second_derivatives(adjoint, outside, hessian):
    hess = jax.jit(outside(jax.grad(lambda x: scalars(adjoint, tuple(x)))))
    assert_trees_close(hess(jnp.array(AT)), hessian, rtol=F64_SAME, atol=ROUNDING)


def two_loops(adjoints, x):
    """The objective of the outer loop trains an inner one from its parameters."""
    w0, lr, c = x

    def objective(meta):
        def inner(w):
            return jnp.cos(c * w) + 0.5 * (w - meta["center"]) ** 2

        run = jmeta.inner_loop(
            inner, w0 * meta["start"], jmeta.optim.sgd(), 2,
            hyperparams={"lr": lr * meta["start"]}, adjoint=adjoints[1],
        )  # fmt: skip
        return run.params**2 + jnp.sum(run.losses)

    start = {"center": jnp.asarray(0.5), "start": jnp.asarray(1.0)}
    run = jmeta.inner_loop(
        objective, start, jmeta.optim.sgd(0.1, 0.5), 2, adjoint=adjoints[0]
    )
    return run.params["center"] * run.params["start"] + jnp.sum(run.losses)


@pytest.fixture(scope="module")
def of_two_loops():
    plain = lambda x: two_loops((PLAIN, PLAIN), x)
    expected = jax.jit(jax.grad(plain))(AT)
    jitted = jax.jit(plain)
    for i, direction in enumerate(np.eye(3)):
        slope = central_difference(jitted, AT, tuple(direction))
        assert_trees_close(expected[i], slope, rtol=F64_DIFFERENCE)
    return expected


@pytest.mark.parametrize(
    "adjoints",
    [
        (Unroll(), Unroll()),
        (Unroll(mixed=False), Unroll(mixed=False)),
        (Unroll(mixed=False, checkpoint=None), Unroll()),
        (Unroll(), Unroll(mixed=False, checkpoint="nested")),
    ],
    ids=lambda pair: " over ".join("mixed" if a.mixed else "plain" for a in pair),
)
def test_a_loop_inside_a_loop(adjoints, of_two_loops):
    found = jax.jit(jax.grad(lambda x: two_loops(adjoints, x)))(AT)
    assert_trees_close(found, of_two_loops, rtol=F64_SAME, atol=ROUNDING)


def test_aux_without_entries():
    objective = lambda w: (jnp.sum(w**2), jnp.zeros((0, 2)))
    run = jmeta.inner_loop(
        objective, jnp.ones(2), jmeta.optim.sgd(lr=0.1), 5, has_aux=True,
        adjoint=jmeta.Unroll(checkpoint="nested"),
    )  # fmt: skip
    assert run.aux.shape == (5, 0, 2)
