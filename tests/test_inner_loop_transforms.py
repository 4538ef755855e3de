"""Every optax transform does in the loop what it does by hand, with derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jmeta import inner_loop
from tests.cases import TRANSFORMS
from tests.helpers import (
    F64_DIFFERENCE,
    F64_SAME,
    assert_trees_close,
    central_difference,
)

STEPS = 3


def start():
    rng = np.random.default_rng(0)
    return {k: jnp.asarray(rng.normal(size=2)) for k in ("w1", "b1", "w2", "b2")}


def objective(params):
    """Curved in every entry, and across leaves."""
    product = params["w1"] * params["w2"]
    return sum(jnp.sum((p - 0.3) ** 4) for p in params.values()) + jnp.sum(product**2)


def outer(params):
    return sum(jnp.sum(p**3) for p in params.values())


def by_loop(tx, params):
    run = inner_loop(objective, params, tx, STEPS)
    return outer(run.params) + jnp.sum(run.losses), tuple(run[:2])


def by_hand(tx, params):
    tx = optax.with_extra_args_support(tx)
    opt_state, losses = tx.init(params), 0.0
    for _ in range(STEPS):
        loss, grads = jax.value_and_grad(objective)(params)
        updates, opt_state = tx.update(
            grads, opt_state, params, value=loss, grad=grads, value_fn=objective
        )
        params = optax.apply_updates(params, updates)
        losses += loss
    return outer(params) + losses, (params, opt_state)


# optax cuts the derivative of lbfgs's first step size
@pytest.mark.standard_promotion("optax mixes dtypes")
@pytest.mark.parametrize("name", sorted(set(TRANSFORMS) - {"lbfgs"}))
def test_transforms(name):
    tx, params = TRANSFORMS[name](), start()
    (loss, found), grads = jax.jit(
        jax.value_and_grad(lambda params: by_loop(tx, params), has_aux=True)
    )(params)
    hand = jax.jit(lambda params: by_hand(tx, params))
    expected_loss, expected = hand(params)
    assert_trees_close(loss, expected_loss, rtol=F64_SAME)
    assert_trees_close(found, expected, rtol=F64_SAME, atol=1e-13)
    direction = jax.tree.map(jnp.cos, params)
    slope = central_difference(lambda params: hand(params)[0], params, direction)
    along = sum(jnp.vdot(grads[k], direction[k]) for k in params)
    assert_trees_close(along, slope, rtol=F64_DIFFERENCE)
    for leaf, before in zip(found[0].values(), params.values(), strict=True):
        assert jnp.all(jnp.abs(leaf - before) > 1e-6)


@pytest.mark.standard_promotion("optax mixes dtypes")
def test_lbfgs_is_differentiated_as_by_hand():
    tx, params = TRANSFORMS["lbfgs"](), start()
    runs = [
        jax.jit(jax.value_and_grad(lambda p, run=run: run(tx, p), has_aux=True))(params)
        for run in (by_loop, by_hand)
    ]
    assert_trees_close(*runs, rtol=F64_SAME, atol=1e-13)


@pytest.mark.standard_promotion("optax mixes dtypes")
@pytest.mark.parametrize(
    "linesearch",
    [optax.scale_by_backtracking_linesearch(8), optax.scale_by_zoom_linesearch(8)],
)
def test_line_searches_run(linesearch):
    tx = optax.lbfgs(linesearch=linesearch)
    run = jax.jit(lambda params: inner_loop(objective, params, tx, STEPS))(start())
    assert jnp.all(jnp.diff(run.losses) < 0)
