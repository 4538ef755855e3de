"""Gradients of exactly 0: derivatives are finite, and the recorded ones, in all modes.

The recorded ones were compared with differences of torch's own runs.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta import ForwardMode, Unroll
from tests.helpers import F64_SAME, assert_trees_close
from tests.optimizer_cases import (
    assert_hypergradients,
    flags,
    hypergradient,
    problem,
    ravel,
)
from tests.reference.read import cases

ROWS = {
    row["name"].removeprefix("zero_gradient/"): row
    for row in cases("corner_cases")
    if row["kind"] == "zero_gradient"
}
CLIPPED = "clip_at_zero"
RUNS = [name for name in ROWS if name != CLIPPED]
MODES = {
    "default": Unroll(),
    "plain": Unroll(mixed=False),
    "forward": ForwardMode(),
}
# the forward mode is compiled anew; one row of each optimizer has all steps
CHOSEN = [
    pytest.param(name, mode, id=f"{name}-{mode}")
    for name in RUNS
    for mode in MODES
    if mode != "plain" or ROWS[name]["optimizer"] in ("SGD", "Adam", "RMSprop")
]
WITHOUT_RECORD = {
    "rprop": {},
    "sparse_adam": {"eps": 1e-3},
    "lbfgs": {"max_iter": 1, "history_size": 2},
}


@pytest.mark.parametrize(("name", "mode"), CHOSEN)
def test_derivatives_equal_recorded_ones(name, mode):
    row = ROWS[name]
    run = hypergradient(
        "zero_gradient",
        row["optimizer"],
        flags(row["kwargs"]),
        adjoint=MODES[mode],
    )
    result = run(row["steps"], row["settings"])
    assert_hypergradients(result, row)
    final = result.run.history[row["steps"]]
    assert_trees_close(final, ravel(row["final"]), rtol=F64_SAME, atol=1e-15)
    # `b` and `z` have gradients of 0 at the start, `x` has not
    first = jax.grad(problem("zero_gradient").inner)(result.run.history[0])
    zero = problem("zero_gradient").tree(first == 0)
    assert zero["b"].all()
    assert zero["z"].all()
    assert not zero["x"].any()


def test_clipping_gradients_of_0():
    row = ROWS[CLIPPED]
    params = ravel(row["start"]["params"])
    assert not jax.grad(problem("zero_gradient").inner)(params).any()
    run = hypergradient("zero_gradient", row["optimizer"], clip=True)
    result = run(row["steps"], row["settings"], params, max_norm=row["max_norm"])
    assert_hypergradients(result, row)


@pytest.mark.parametrize(
    "adjoint", [Unroll(), ForwardMode()], ids=["unroll", "forward"]
)
@pytest.mark.parametrize("name", WITHOUT_RECORD)
def test_no_gradient_no_motion(name, adjoint):
    """Those that leave alone what has no gradient: its derivative is the identity."""
    tx = getattr(jmeta.optim, name)(**WITHOUT_RECORD[name])
    start = jnp.array([[1.0, -2.0], [0.0, 0.0], [3.0, 0.5]])
    curvature = jnp.array([[1.0, 1.0], [2.0, 0.5], [0.0, 0.0]])

    def final(lr, params):
        run = jmeta.inner_loop(
            lambda w: 0.5 * jnp.sum(curvature * w**2),
            params,
            tx,
            3,
            hyperparams={"lr": lr},
            adjoint=adjoint,
        )
        return run.params

    d_lr, d_params = jax.jit(jax.jacrev(final, argnums=(0, 1)))(jnp.array(0.1), start)
    chex.assert_tree_all_finite((d_lr, d_params))
    assert not d_lr[1:].any()
    assert (np.abs(d_lr[0]) > 0.1).all()
    assert_trees_close(d_params[2, :, 2], jnp.eye(2), rtol=0.0)


def test_dead_relu_and_zero_head():
    """A network whose first gradients vanish, under every optimizer with a root."""
    rng = np.random.default_rng(2)
    x, y = jnp.array(rng.normal(size=(8, 3))), jnp.array(rng.normal(size=(8, 2)))
    params = {
        "body": jnp.array(rng.normal(size=(3, 4))),
        # the last two units are dead: their input is never positive
        "bias": jnp.array([0.3, 0.1, -50.0, -50.0]),
        "head": jnp.zeros((4, 2)),
    }

    def loss(p):
        hidden = jax.nn.relu(x @ p["body"] + p["bias"][None])
        return jnp.mean((hidden @ p["head"] - y) ** 2)

    for name in ("adam", "rmsprop"):
        tx = getattr(jmeta.optim, name)(eps=1e-3)

        def outer(lr, params, tx=tx):
            run = jmeta.inner_loop(loss, params, tx, 3, hyperparams={"lr": lr})
            return loss(run.params)

        d_lr, d_params = jax.jit(jax.grad(outer, argnums=(0, 1)))(0.05, params)
        chex.assert_tree_all_finite((d_lr, d_params))
        assert d_lr != 0
        assert d_params["head"].any()
