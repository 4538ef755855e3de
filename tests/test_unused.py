"""unused_parameters: what the objective does not reach, as paths for `trainable=`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta import unused_parameters
from tests.helpers import F64_SAME, assert_trees_close

PARAMS = {
    "body": {"kernel": jnp.array([0.5, -1.0]), "bias": jnp.array(0.3)},
    "heads": [jnp.array(2.0), jnp.array(-1.5)],
    "steps": jnp.array(3),
}
X = jnp.array([0.7, 1.1])


def first_head(params, x):
    body = x @ params["body"]["kernel"] + params["body"]["bias"]
    return params["heads"][0] * jnp.tanh(body)


OBJECTIVES = {
    "first head": (first_head, {("heads", "1"), ("steps",)}),
    "cut": (
        lambda p, x: jax.lax.stop_gradient(p["heads"][1]) * first_head(p, x),
        {("heads", "1"), ("steps",)},
    ),
    "times 0": (
        lambda p, x: first_head(p, x) + 0.0 * p["heads"][1],
        {("steps",)},
    ),
    "as an index": (
        lambda p, x: x[p["steps"] % 2] * p["heads"][0],
        {("body", "kernel"), ("body", "bias"), ("heads", "1"), ("steps",)},
    ),
    "in a scan": (
        lambda p, x: jax.lax.scan(
            lambda c, _: (c * p["heads"][1], None), first_head(p, x), length=2
        )[0],
        {("steps",)},
    ),
    "nothing": (lambda p, x: x.sum(), None),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_paths(name):
    objective, expected = OBJECTIVES[name]
    every = {("body", "kernel"), ("body", "bias"), ("heads", "0"), ("heads", "1"),
             ("steps",)}  # fmt: skip
    unused = unused_parameters(objective, PARAMS, X)
    assert unused == (every if expected is None else expected)


def test_shapes_are_enough():
    shapes = jax.eval_shape(lambda: (PARAMS, X))
    assert unused_parameters(first_head, *shapes) == {("heads", "1"), ("steps",)}


def test_inside_jit():
    found = []

    @jax.jit
    def trace(params, x):
        found.append(unused_parameters(lambda p: first_head(p, x), params))
        return 0

    trace(PARAMS, X)
    assert found == [{("heads", "1"), ("steps",)}]


def test_left_out_they_stay_what_they_are():
    unused = unused_parameters(first_head, PARAMS, X)
    tx = jmeta.optim.sgd(lr=0.1, weight_decay=0.5)
    run = jmeta.inner_loop(
        first_head, PARAMS, tx, 3, batch=X, trainable=lambda path: path not in unused
    )
    assert run.opt_state.momentum_buffer["heads"][1] is None
    assert_trees_close(run.params["heads"][1], PARAMS["heads"][1], rtol=0.0)
    assert run.params["steps"] == 3

    # with a gradient of zeros it is decayed, and the others are what they were
    floats = {k: PARAMS[k] for k in ("body", "heads")}
    everything = jmeta.inner_loop(first_head, floats, tx, 3, batch=X).params
    assert_trees_close(
        everything["heads"][1], PARAMS["heads"][1] * 0.95**3, rtol=F64_SAME
    )
    assert_trees_close(everything["body"], run.params["body"], rtol=F64_SAME)
    assert np.abs(everything["heads"][0] - PARAMS["heads"][0]) > 1e-3
