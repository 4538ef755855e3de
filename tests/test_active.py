"""A number of active steps is a loop of that length: in value and in every derivative.

The loss has no finite derivative at the point that the first step reaches, so that
whatever computes a step that is not taken there, and multiplies by 0, gives NaN.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta import ForwardMode, Unroll, inner_loop
from tests.cases import PLAIN
from tests.helpers import F64_SAME, assert_trees_close

STEPS = 5
ROUNDING = 1e-13

ADJOINTS = [
    Unroll(),
    Unroll(checkpoint="nested", unroll=2),
    Unroll(mixed=False),
    PLAIN,
    ForwardMode(),
]
MIXED_PLAIN_FORWARD = [Unroll(), PLAIN, ForwardMode()]


def arguments():
    """Everything that a loop can be differentiated by."""
    return {
        "start": jnp.array([1.5, 1.0]),
        "center": jnp.array([1.0, 1.0]),
        "lr": 0.5 * jnp.ones(STEPS),
        "momentum": jnp.asarray(0.4),
        "scale": jnp.ones((STEPS, 1)),
        "clip": jnp.asarray(1.0),
        "decay": jnp.asarray(0.0),
    }


def run(adjoint, args, steps, active=None, **kwargs):
    """Train on the distance to a centre: after one step it is 0, its slope NaN."""

    def objective(w, state, batch, *, key):
        scale, _ = batch
        shift = 0.0 * jax.random.normal(key, (2,))
        distance = jnp.sqrt(jnp.sum((w + shift - args["center"]) ** 2))
        loss = jnp.sum(scale) * distance
        aux = {"distance": distance, "ones": jnp.ones((2,), int), "key": key}
        return (loss, aux), {"count": state["count"] + distance}

    return inner_loop(
        objective, args["start"], jmeta.optim.sgd(), steps,
        batches=(args["scale"][:steps], jax.random.split(jax.random.key(1), STEPS)[:steps]),
        hyperparams={
            "lr": args["lr"][:steps],
            "momentum": args["momentum"],
            # -inf from the third step on
            "weight_decay": lambda t: args["decay"] * jnp.log(2.0 - t),
        },
        state={"count": 0.0}, key=jax.random.key(0), has_aux=True, history=True,
        grad_callback=lambda g: args["clip"] * g / jnp.sqrt(jnp.sum(g**2)),
        adjoint=adjoint, active=active, **kwargs,
    )  # fmt: skip


def outer(run: Any) -> jax.Array:
    """A scalar of all that a run gives."""
    weights = jnp.array([1.0, 2.0])
    kept = run.history[0] + run.parameters(time=-1) ** 2
    buffer = run.opt_state.momentum_buffer
    given = jnp.nansum(run.losses) + jnp.nansum(run.aux["distance"] ** 2)
    return jnp.sum(weights * (run.params**3 + kept + buffer)) + given


def exact(count):
    """Value and gradient of the loop of that length, by JAX alone."""
    value = lambda args: outer(run(PLAIN, args, count))
    return jax.jit(jax.value_and_grad(value))(arguments())


@pytest.fixture(scope="module")
def expected():
    with jax.enable_x64(True):
        found = {count: exact(count) for count in (0, 1)}
        for _, grads in found.values():
            assert all(map(np.all, map(np.isfinite, jax.tree.leaves(grads))))
        moving = {name for name, grad in found[1][1].items() if np.any(grad)}
        # the first step fills the buffer, whatever the momentum
        assert moving == arguments().keys() - {"momentum"}
        return found


COUNTS = (1, 0, 1)


@pytest.mark.parametrize("adjoint", ADJOINTS, ids=str)
def test_vmap_of_grad(adjoint, expected):
    def value(count, args):
        return outer(run(adjoint, args, STEPS, count))

    fun = jax.jit(jax.vmap(jax.value_and_grad(value, argnums=1), (0, None)))
    found = fun(jnp.array(COUNTS), arguments())
    for i, count in enumerate(COUNTS):
        one = jax.tree.map(lambda leaf: leaf[i], found)  # noqa: B023
        assert_trees_close(one, expected[count], rtol=F64_SAME, atol=ROUNDING)


@pytest.mark.parametrize("adjoint", ADJOINTS, ids=str)
def test_grad_of_vmap(adjoint, expected):
    weights = jnp.array([1.0, 10.0, 100.0])

    def value(args):
        one = lambda count: outer(run(adjoint, args, STEPS, count))
        return weights @ jax.vmap(one)(jnp.array(COUNTS))

    found = jax.jit(jax.grad(value))(arguments())
    grads = [expected[count][1] for count in COUNTS]
    total = jax.tree.map(lambda *leaves: sum(map(jnp.multiply, weights, leaves)), *grads)
    assert_trees_close(found, total, rtol=F64_SAME, atol=ROUNDING)
