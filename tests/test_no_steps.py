"""A loop of no steps gives what one of some gives, with a leading axis of 0."""

import jax
import jax.numpy as jnp
import pytest

import jmeta
from jmeta import ForwardMode, Unroll, inner_loop
from tests.helpers import assert_trees_close


@pytest.mark.parametrize("adjoint", [Unroll(), Unroll(last=0), ForwardMode()])
def test_every_shape(adjoint):
    """What one step gives, with a leading axis of 0, and the identity's derivative."""

    def loop(w, steps, x):
        def objective(w, x, *, key):
            loss = jnp.sum(w**2 * x)
            return loss, {"loss": loss, "count": jnp.arange(3), "key": key}

        run = inner_loop(
            objective, w, jmeta.optim.sgd(), steps, batches=x,
            key=jax.random.key(0), has_aux=True, history=True, active=steps,
            adjoint=adjoint,
        )  # fmt: skip
        return jnp.sum(run.params * w), run

    w = jnp.ones(2, jnp.float32)
    grads, run = jax.jit(jax.grad(loop, has_aux=True), static_argnums=1)(
        w, 0, jnp.ones((0, 2), jnp.float32)
    )
    assert_trees_close(grads, 2 * w, rtol=0)
    _, like = jax.eval_shape(lambda x: loop(w, 1, x), jnp.ones((1, 2), jnp.float32))
    expected = jax.tree.map(lambda y: (y.shape[1:], y.dtype), (like.losses, like.aux))
    found = jax.tree.map(lambda y: (y.shape[1:], y.dtype), (run.losses, run.aux))
    assert found == expected
    assert {len(leaf) for leaf in jax.tree.leaves((run.losses, run.aux))} == {0}
    assert run.losses.dtype == jnp.float32
    assert_trees_close(run.history, w[None], rtol=0)
    assert run.steps_taken == 0
    assert jnp.isnan(run.mean_loss)
