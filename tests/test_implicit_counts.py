"""How many steps an implicit loop takes: a count, a tolerance, none; and its state."""

import jax
import jax.numpy as jnp
import pytest

import jmeta
from jmeta import Implicit
from tests.helpers import F64_SAME, assert_trees_close

EXACT = 1e-9


def train(adjoint, target, steps, active=None):
    """Half of the way to the target, in two directions of other curvature."""
    curvature = jnp.array([1.0, 0.5])
    objective = lambda w: 0.5 * jnp.sum(curvature * (w - target) ** 2)
    tx = jmeta.optim.sgd(0.5)
    return jmeta.inner_loop(
        objective, jnp.zeros(2), tx, steps, adjoint=adjoint, active=active
    )


@pytest.mark.parametrize("tol", [None, 1e-2])
def test_a_count_of_steps(tol):
    """Implicitly at the end of that many steps, or before if that was a solution."""

    def value(target, steps, active=None):
        run = train(Implicit(tol=tol), target, steps, active)
        return jnp.sum(run.params**3), run

    counts = (0, 5, 40)
    grad = jax.value_and_grad(value, has_aux=True)
    found = jax.jit(jax.vmap(lambda n: grad(3.0, 40, n)))(jnp.array(counts))
    for i, count in enumerate(counts[1:], start=1):
        (loss, run), slope = jax.tree.map(lambda leaf: leaf[i], found)  # noqa: B023
        (expected, exact), expected_slope = jax.jit(grad, static_argnums=1)(3.0, count)
        assert_trees_close((loss, slope), (expected, expected_slope), rtol=EXACT)
        assert_trees_close(run.residual, exact.residual, rtol=EXACT)
        taken = count if exact.steps_taken is None else exact.steps_taken
        assert run.steps_taken == taken
        assert_trees_close(run.mean_loss, exact.losses[:taken].mean(), rtol=F64_SAME)
        assert jnp.isnan(run.losses[taken:]).all()
    assert found[0][1].steps_taken[0] == 0
    assert jnp.isnan(found[0][1].losses[0]).all()
    assert (found[0][1].steps_taken[2] < 40) == (tol is not None)


def test_no_steps_reach_no_solution():
    with pytest.raises(ValueError, match=r"`steps` .* at least 1 with `Implicit`"):
        train(Implicit(), 3.0, 0)


def test_the_state_carries_no_derivative():
    """It is cut where it comes in, so that nothing is left to refuse."""

    def solution(count):
        tx = jmeta.optim.sgd(0.25)
        apply_fn = lambda w, state: ((w - 3.0) ** 2, state)
        run = jmeta.inner_loop(apply_fn, 0.0, tx, 5, state=count, adjoint=Implicit())
        return run.params * run.state

    # 3 (1 - 2^-5), by the product's own derivative none
    assert jax.jit(jax.grad(solution))(2.0) == 0
