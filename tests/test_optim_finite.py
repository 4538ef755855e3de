"""optim.finite: derivatives that are finite and right, values that are untouched."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.core import eval_jaxpr
from jax.extend.core.primitives import closed_call_p

from jmeta.optim import finite
from jmeta.optim._finite.slopes import SLOPES
from jmeta.optim._finite.visitor import guarded
from tests.helpers import (
    F64_DIFFERENCE,
    F64_SAME,
    assert_trees_close,
    central_difference,
)

optax_mixes = pytest.mark.standard_promotion("most of optax's transforms mix dtypes")

STEPS = 6

FIRST_ORDER = {
    "adam": lambda lr: optax.adam(lr, eps=1e-3),
    "adamw": lambda lr: optax.adamw(lr, eps=1e-3, weight_decay=0.1),
    "amsgrad": lambda lr: optax.amsgrad(lr, eps=1e-3),
    "nadam": lambda lr: optax.nadam(lr, eps=1e-3),
    # with a b2 of 0.6 no step is rectified and the other branch divides by 0; with 0.9
    # the last one is
    "radam": lambda lr: optax.radam(lr, b2=0.6, eps=1e-3),
    "radam_rectified": lambda lr: optax.radam(lr, b2=0.9, eps=1e-3),
    "rmsprop": lambda lr: optax.rmsprop(lr, eps=1e-3, eps_in_sqrt=False),
    "lamb": lambda lr: optax.lamb(lr, eps=1e-3),
    "adafactor": lambda lr: optax.adafactor(lr, min_dim_size_to_factor=2),
    "novograd": lambda lr: optax.novograd(lr, eps=1e-3),
    "clipped": lambda lr: optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(lr)),
}
SECOND_ORDER = ("adam", "rmsprop")

rng = np.random.default_rng(0)
PARAMS = jnp.array(rng.normal(size=(2, 3)))
CURVATURE = jnp.array(rng.uniform(0.5, 2.0, size=(2, 3)))
TARGET = jnp.array(rng.normal(size=(2, 3)))
LR = jnp.array(0.1)
# what the loss depends on: where the mask is 0 gradients are exactly 0
POINTS = {
    "generic": jnp.ones((2, 3)),
    "one zero": jnp.ones((2, 3)).at[0, 1].set(0.0),
    "all zero": jnp.zeros((2, 3)),
}
DIRECTION = (jnp.array(0.7), jnp.array(rng.normal(size=(2, 3))))


def outer_loss(make, mask, inputs):
    """Loss after a few steps, as a function of the rate and the initial parameters."""
    lr, params = inputs
    tx = make(lr)

    def step(carry, _):
        params, state = carry
        coupling = jnp.cos(params.sum(0, keepdims=True))
        grads = mask * (CURVATURE * params + coupling)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=STEPS)
    return jnp.sum((params - TARGET) ** 2)


def protected(name):
    return lambda lr: finite(FIRST_ORDER[name](lr))


@optax_mixes
@pytest.mark.parametrize("name", FIRST_ORDER)
def test_derivatives_equal_central_differences(name):
    make = protected(name)
    value = jax.jit(partial(outer_loss, make))

    @jax.jit
    def derivatives(mask):
        f = partial(outer_loss, make, mask)
        grads = jax.grad(f)((LR, PARAMS))
        reverse = sum(jnp.vdot(g, d) for g, d in zip(grads, DIRECTION, strict=True))
        return reverse, jax.jvp(f, ((LR, PARAMS),), (DIRECTION,))[1]

    for mask in POINTS.values():
        expected = central_difference(
            lambda x, mask=mask: value(mask, x), (LR, PARAMS), DIRECTION, step=1e-4
        )
        reverse, forward = derivatives(mask)
        assert abs(expected) > 1e-3
        assert_trees_close(reverse, expected, rtol=F64_DIFFERENCE)
        assert_trees_close(forward, expected, rtol=F64_DIFFERENCE)


@optax_mixes
@pytest.mark.parametrize("name", SECOND_ORDER)
def test_second_derivatives_equal_central_differences(name):
    make = protected(name)

    @jax.jit
    def slope(mask, inputs):
        f = partial(outer_loss, make, mask)
        return jax.jvp(f, (inputs,), (DIRECTION,))[1]

    @jax.jit
    def curvatures(mask):
        inputs = (LR, PARAMS)
        forward = jax.jvp(partial(slope, mask), (inputs,), (DIRECTION,))[1]
        # reverse over reverse
        first = jax.grad(partial(outer_loss, make, mask))
        product = jax.vjp(first, inputs)[1](DIRECTION)[0]
        pairs = zip(product, DIRECTION, strict=True)
        return forward, sum(jnp.vdot(p, d) for p, d in pairs)

    for mask in POINTS.values():
        expected = central_difference(
            lambda x, mask=mask: slope(mask, x), (LR, PARAMS), DIRECTION, step=1e-4
        )
        assert abs(expected) > 1e-3
        for curvature in curvatures(mask):
            assert_trees_close(curvature, expected, rtol=F64_DIFFERENCE)


@optax_mixes
@pytest.mark.parametrize("name", ["adam", "rmsprop", "radam"])
def test_without_protection_derivatives_are_nan(name):
    f = partial(outer_loss, FIRST_ORDER[name], POINTS["one zero"])
    assert np.isnan(jax.jit(jax.grad(f))((LR, PARAMS))[0])


@optax_mixes
def test_slope_at_an_accidental_zero_is_the_true_one():
    # the gradient is 0 here but not beside: adam's first update is -lr g / (|g| + eps)
    eps = 0.25

    def update(param):
        tx = finite(optax.adam(LR, eps=eps))
        return tx.update(2.0 * param, tx.init(param), param)[0]

    zero = jnp.array(0.0)
    assert_trees_close(jax.grad(update)(zero), -LR * 2.0 / eps, rtol=F64_SAME)
    assert np.isfinite(jax.grad(jax.grad(update))(zero))


@optax_mixes
@pytest.mark.parametrize("name", FIRST_ORDER)
def test_updates_and_state_are_the_same_bits(name):
    tx = FIRST_ORDER[name](0.1)
    params: Any = PARAMS.astype(jnp.float32)
    curvature = CURVATURE.astype(jnp.float32)
    plain, ours = jax.jit(tx.update), jax.jit(finite(tx).update)
    state = tx.init(params)
    assert jax.tree.structure(state) == jax.tree.structure(finite(tx).init(params))
    for step in range(STEPS):
        grads = (curvature * params).at[0, 1].set(0.0)
        expected = plain(grads, state, params)
        actual = ours(grads, state, params)
        assert jax.tree.structure(actual) == jax.tree.structure(expected), step
        for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
            assert a.dtype == b.dtype
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), step
        updates, state = expected
        params = optax.apply_updates(params, updates)


@optax_mixes
def test_injected_hyperparameters_are_learned_in_a_vmapped_chain():
    injected = finite(optax.inject_hyperparams(optax.adam)(0.5, eps=0.25))
    tx: Any = optax.chain(optax.clip(10.0), injected)

    def loss(lr, params):
        clip_state, state = tx.init(params)
        assert set(state.hyperparams) >= {"learning_rate", "b1", "b2", "eps"}
        state = state._replace(hyperparams=state.hyperparams | {"learning_rate": lr})
        grads = jnp.array([2.0, 0.0]) * params
        updates, (_, state) = tx.update(grads, (clip_state, state), params)
        assert "learning_rate" in state.hyperparams
        return updates.sum()

    batch = jnp.array([[1.0, 0.5], [0.0, 2.0], [-3.0, 0.0]])
    lrs = jnp.array([0.1, 0.2, 0.3])
    grads = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1))))(lrs, batch)
    # -lr g / (|g| + eps) with g = 2 p
    g = 2 * batch[:, 0]
    expected_lr = -g / (jnp.abs(g) + 0.25)
    assert_trees_close(grads[0], expected_lr, rtol=F64_SAME)
    expected_param = -lrs * 2 * 0.25 / (jnp.abs(g) + 0.25) ** 2
    assert_trees_close(grads[1][:, 0], expected_param, rtol=F64_SAME)
    assert_trees_close(grads[1][:, 1], jnp.zeros(3), rtol=0.0)


def with_control_flow(x):
    """Every kind of inner function that a jaxpr can have, and a custom rule."""
    y = jax.nn.relu(x) * jax.jit(jnp.sqrt)(x)
    y = jax.lax.cond(x.sum() > 0, jnp.sqrt, lambda z: z / z, y)
    _, y = jax.lax.scan(lambda c, z: (c + z, z / (c + z + 0.1)), 0.3, y)
    y = y + jax.checkpoint(lambda z: jnp.sqrt(z) * jnp.sin(z))(x)
    norm = jnp.sqrt(jnp.sum((0.0 * x) ** 2))
    return y + norm + jnp.outer(x, x) @ (x + 1.0) ** -0.5


def test_control_flow_and_custom_rules_are_followed():
    x = jnp.array([0.3, 1.0, 2.0])
    f, g = jax.jit(with_control_flow), jax.jit(guarded(with_control_flow, SLOPES))
    assert_trees_close(g(x), f(x), rtol=F64_SAME)

    @jax.jit
    def total(x):
        return guarded(with_control_flow, SLOPES)(x).sum()

    # the norm of zeros is NaN without the guard and constant in truth
    difference = central_difference(lambda x: f(x).sum(), x, jnp.ones(3))
    assert np.isnan(jax.grad(lambda x: f(x).sum())(x)).all()
    assert_trees_close(jax.grad(total)(x).sum(), difference, rtol=F64_DIFFERENCE)
    at_zero = jnp.array([0.0, 1.0, 2.0])
    assert np.isfinite(jax.jit(jax.hessian(total))(at_zero)).all()
    forward = jax.jit(jax.jacfwd(total))(at_zero)
    reverse = jax.jit(jax.jacrev(total))(at_zero)
    assert_trees_close(forward, reverse, rtol=F64_SAME)


def test_loops_without_a_bound_are_followed_forward():
    def root(x):
        return jax.lax.while_loop(
            lambda c: c[0] < 2, lambda c: (c[0] + 1, jnp.sqrt(c[1] * x)), (0, x)
        )[1]

    x = jnp.array([0.0, 4.0])
    _, slope = jax.jvp(guarded(root, SLOPES), (x,), (jnp.ones(2),))
    assert_trees_close(slope, jnp.array([0.0, 1.0]), rtol=F64_SAME)


def test_closed_calls_are_followed():
    """As some of JAX's own functions make them; no function of the user's does."""

    def root(x):
        inner = jax.make_jaxpr(jnp.sqrt)(x)
        outer = jax.make_jaxpr(jax.jit(jnp.sqrt))(x).jaxpr
        (eqn,) = outer.eqns
        call = eqn.replace(primitive=closed_call_p, params={"call_jaxpr": inner})
        return eval_jaxpr(outer.replace(eqns=[call]), (), x)[0]

    assert jax.make_jaxpr(root)(1.0).eqns[0].primitive is closed_call_p
    slope = jax.grad(guarded(root, SLOPES))
    assert_trees_close(slope(jnp.array(0.0)), 0.0, rtol=0.0)
    assert_trees_close(slope(jnp.array(4.0)), 0.25, rtol=F64_SAME)
