"""Haiku transforms keep every promise of `make_functional`."""

import inspect

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import inner_loop, make_functional, optim
from tests.helpers import F64_SAME, assert_trees_close

pytestmark = pytest.mark.standard_promotion("Haiku's layers mix dtypes")

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (5, 3))
Y = jax.random.normal(jax.random.key(2), (5, 2))


def network(x, rate=0.5):
    hidden = jnp.tanh(hk.Linear(4)(x))
    return hk.Linear(2)(hk.dropout(hk.next_rng_key(), rate, hidden))


def normalised(x, train=True):
    norm = hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.5)
    return hk.Linear(2)(norm(x, is_training=train))


def squared(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


PLAIN = hk.transform(network)
STATEFUL = hk.transform_with_state(normalised)
with jax.numpy_dtype_promotion("standard"):
    PARAMS, VARIABLES = PLAIN.init(KEY, X), STATEFUL.init(KEY, X)


def test_outputs_and_dropout_are_the_transforms():
    apply_fn, params = make_functional(PLAIN, PARAMS)
    for key in (KEY, jax.random.key(5)):
        expected = PLAIN.apply(PARAMS, key, X, rate=0.3)
        assert_trees_close(apply_fn(params, X, key=key, rate=0.3), expected, F64_SAME)
    jitted = jax.jit(apply_fn)(params, X, key=KEY)
    assert_trees_close(jitted, PLAIN.apply(PARAMS, KEY, X), F64_SAME)
    other = apply_fn(params, X, key=jax.random.key(9))
    assert np.abs(jitted - other).max() > 0.1


def test_a_missing_key_is_asked_for():
    apply_fn, params = make_functional(PLAIN, PARAMS)
    with pytest.raises(ValueError, match=r"pass `apply_fn\(..., key=key\)`"):
        apply_fn(params, X)


def test_a_transform_without_rng_gives_a_function_without_key():
    transformed = hk.without_apply_rng(hk.transform(lambda x: hk.Linear(2)(x)))
    params = transformed.init(KEY, X)
    apply_fn, _ = make_functional(transformed, params)
    assert "key" not in inspect.signature(apply_fn).parameters
    assert_trees_close(apply_fn(params, X), transformed.apply(params, X), F64_SAME)
    assert "key" in inspect.signature(make_functional(PLAIN, PARAMS)[0]).parameters


def test_hypergradients_are_those_of_a_plain_loop():
    apply_fn, params = make_functional(PLAIN, PARAMS)
    key = jax.random.key(4)

    def ours(params, lr):
        options = {"loss_fn": squared, "batch": (X, Y), "key": key}
        tx = optim.sgd(momentum=0.9)
        run = inner_loop(apply_fn, params, tx, 3, hyperparams={"lr": lr}, **options)
        return squared(apply_fn(run.params, X, key=KEY), Y)

    def plain(params, lr):
        def loss(params, key):
            return squared(PLAIN.apply(params, key, X), Y)

        velocity = jax.tree.map(jnp.zeros_like, params)
        for t in range(3):
            grads = jax.grad(loss)(params, jax.random.fold_in(key, t))
            velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, grads)
            params = jax.tree.map(lambda p, v: p - lr * v, params, velocity)
        return loss(params, KEY)

    found = jax.jit(jax.grad(ours, argnums=(0, 1)))(params, 0.1)
    expected = jax.jit(jax.grad(plain, argnums=(0, 1)))(params, 0.1)
    assert_trees_close(found, expected, F64_SAME, 1e-15)
    assert abs(found[1]) > 1e-3


def test_a_state_is_carried():
    apply_fn, params, state = make_functional(STATEFUL, VARIABLES)
    outputs, new_state = apply_fn(params, state, X)
    expected = STATEFUL.apply(*VARIABLES, None, X)
    assert_trees_close((outputs, new_state), expected, F64_SAME)
    options = {"loss_fn": squared, "batch": (X, Y), "state": state}
    run = inner_loop(apply_fn, params, optim.sgd(lr=0.1), 2, **options)
    _, twice = apply_fn(params, new_state, X)
    assert_trees_close(run.state, twice, F64_SAME)
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), new_state, state)
    assert max(map(float, jax.tree.leaves(moved))) > 1e-3

    fixed, _ = make_functional(STATEFUL, VARIABLES, state=False)
    assert_trees_close(fixed(params, X), outputs, F64_SAME)


def test_other_parameters_are_named():
    apply_fn, _ = make_functional(PLAIN, PARAMS)
    with pytest.raises(ValueError, match=r"Missing: .*\['linear_1'\]\['w'\]"):
        apply_fn({"linear": PARAMS["linear"]}, X)
