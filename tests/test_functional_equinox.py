"""Equinox modules keep every promise of `make_functional`."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import inner_loop, make_functional, optim
from tests.helpers import F64_SAME, assert_trees_close

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (5, 3))
Y = jax.random.normal(jax.random.key(2), (5, 2))


class Mixed(eqx.Module):
    """Parameters beside integers, a function, a static field, dropout."""

    first: eqx.nn.Linear
    second: eqx.nn.Linear
    order: jax.Array
    activation: Callable[..., Any]
    offset: jax.Array
    dropout: eqx.nn.Dropout
    scale: float = eqx.field(static=True)

    def __init__(self, rate: float = 0.5):
        self.first = eqx.nn.Linear(3, 4, key=KEY)
        self.second = eqx.nn.Linear(4, 2, key=jax.random.key(3))
        self.order = jnp.array([1, 0])
        self.activation = jnp.tanh
        self.offset = jnp.array([0.5, 1.5])
        self.dropout = eqx.nn.Dropout(rate)
        self.scale = 2.0

    def encode(self, x):
        return self.activation(self.first(x))

    @eqx.filter_jit
    def noisy(self, x, key):
        return self.encode(x) + jax.random.normal(key)

    @eqx.filter_jit
    def __call__(self, x, *, key=None):
        hidden = self.dropout(self.encode(x), key=key)
        return self.scale * self.second(hidden)[self.order] + self.offset


class Counting(eqx.Module):
    """A state that its call reads and writes as it is, without a mapping."""

    weight: jax.Array
    calls: eqx.nn.StateIndex

    def __init__(self):
        self.weight = jnp.array(2.0)
        self.calls = eqx.nn.StateIndex(jnp.array(0.0))

    def __call__(self, x, state):
        calls = state.get(self.calls)
        return self.weight * x + calls, state.set(self.calls, calls + 1)


class Normalised(eqx.Module):
    """BatchNorm, whose statistics are an `eqx.nn.State`."""

    linear: eqx.nn.Linear
    norm: eqx.nn.BatchNorm

    def __init__(self):
        self.linear = eqx.nn.Linear(3, 2, key=KEY)
        self.norm = eqx.nn.BatchNorm(2, "batch", mode="ema", momentum=0.5)

    def __call__(self, x, state):
        return self.norm(self.linear(x), state)


def over_batch(model, x, state):
    mapped = jax.vmap(model, in_axes=(0, None), out_axes=(0, None), axis_name="batch")
    return mapped(x, state)


def over_batch_keyed(model, x, key):
    return jax.vmap(model)(x, key=jax.random.split(key, len(x)))


def squared(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


def test_outputs_are_the_modules():
    model = eqx.nn.inference_mode(Mixed())
    apply_fn, params = make_functional(model)
    assert_trees_close(apply_fn(params, X[0]), model(X[0]), F64_SAME)
    assert_trees_close(jax.jit(apply_fn)(params, X[0]), model(X[0]), F64_SAME)
    shapes = [x.shape for x in jax.tree.leaves(params)]
    assert shapes == [(4, 3), (4,), (2, 4), (2,), (2,)]


def test_the_way_back_is_combine():
    model = eqx.nn.inference_mode(Mixed())
    apply_fn, params = make_functional(model)
    trained = jax.tree.map(lambda x: 1.5 * x, params)
    back = eqx.combine(trained, model)
    assert isinstance(back, Mixed)
    assert_trees_close(back(X[0]), apply_fn(trained, X[0]), F64_SAME)
    assert np.abs(back(X[0]) - model(X[0])).max() > 0.1


def test_dropout_follows_the_key():
    model = Mixed()
    apply_fn, params = make_functional(model, method=over_batch_keyed)
    assert list(inspect.signature(apply_fn).parameters)[-2:] == ["key", "kwargs"]
    outputs = apply_fn(params, X, key=KEY)
    assert_trees_close(outputs, over_batch_keyed(model, X, KEY), F64_SAME)
    other = apply_fn(params, X, key=jax.random.key(9))
    assert np.abs(outputs - other).max() > 0.1


@pytest.mark.parametrize("method", [None, over_batch_keyed])
def test_a_missing_key_is_asked_for(method):
    apply_fn, params = make_functional(Mixed(), method=method)
    with pytest.raises(ValueError, match=r"pass `apply_fn\(..., key=key\)`"):
        apply_fn(params, X[0])


@pytest.mark.parametrize(
    ("method", "takes_key"),
    [
        *((None, True), ("noisy", True), ("encode", False)),
        *(("dropout", True), ("activation", False)),
        *((over_batch_keyed, True), (eqx.filter_jit(over_batch_keyed), True)),
    ],
)
def test_a_function_takes_a_key_if_what_it_calls_does(method, takes_key):
    model = Mixed()
    apply_fn, params = make_functional(model, method=method)
    assert ("key" in inspect.signature(apply_fn).parameters) == takes_key
    keyed = {"key": KEY} if takes_key else {}
    called = getattr(model, method or "__call__") if not callable(method) else None
    x = X if callable(method) else X[0]
    expected = called(x, **keyed) if called else method(model, x, **keyed)
    assert_trees_close(apply_fn(params, x, **keyed), expected, F64_SAME)


def test_a_call_takes_a_state_again_that_a_call_has_used():
    model, state = eqx.nn.make_with_state(Counting)()
    apply_fn, params, first = make_functional(model, state)
    model(1.0, state)  # which makes the state that was given invalid
    for _ in range(2):
        outputs, second = apply_fn(params, first, 1.0)
    assert (outputs, apply_fn(params, second, 1.0)[0]) == (2.0, 3.0)


def test_hypergradients_are_those_of_a_plain_loop():
    model, key = Mixed(), jax.random.key(4)
    apply_fn, params = make_functional(model, method=over_batch_keyed)
    _, static = eqx.partition(model, eqx.is_inexact_array)

    def ours(params, lr):
        options = {"loss_fn": squared, "batch": (X, Y), "key": key}
        tx = optim.sgd(momentum=0.9)
        run = inner_loop(apply_fn, params, tx, 3, hyperparams={"lr": lr}, **options)
        return squared(apply_fn(run.params, X, key=KEY), Y)

    def plain(params, lr):
        def loss(params, key):
            return squared(over_batch_keyed(eqx.combine(params, static), X, key), Y)

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


def test_a_state_is_carried_and_the_given_one_stays_valid():
    model, state = eqx.nn.make_with_state(Normalised)()
    apply_fn, params, first = make_functional(model, state, method=over_batch)
    for _ in range(2):  # a call of the module itself makes its state invalid
        outputs, new_state = apply_fn(params, first, X)
    expected, expected_state = over_batch(model, X, state)
    assert_trees_close(outputs, expected, F64_SAME)
    assert_trees_close(new_state, expected_state, F64_SAME)
    options = {"loss_fn": squared, "batch": (X, Y), "state": first}
    run = inner_loop(apply_fn, params, optim.sgd(lr=0.0), 2, **options)
    _, second = apply_fn(params, new_state, X)
    assert_trees_close(run.state, second, F64_SAME)
    assert np.abs(run.state.get(model.norm.ema_state_index)[0]).max() > 1e-3

    fixed, _ = make_functional(model, first, method=over_batch, state=False)
    assert_trees_close(fixed(params, X), outputs, F64_SAME)


def test_a_filter_selects_parameters():
    model = eqx.nn.inference_mode(Mixed())
    everything = jax.tree.map(lambda _: False, model)
    head = eqx.tree_at(lambda m: m.second.weight, everything, True)
    for wrt in (head, lambda x: eqx.is_array(x) and x.shape == (2, 4)):
        apply_fn, params = make_functional(model, wrt=wrt)
        assert [x.shape for x in jax.tree.leaves(params)] == [(2, 4)]
        assert_trees_close(apply_fn(params, X[0]), model(X[0]), F64_SAME)


def test_a_jitted_function_is_a_function():
    function = eqx.filter_jit(lambda params, x: params * x)
    apply_fn, params = make_functional(function, jnp.array(2.0))
    assert float(apply_fn(params, 3.0)) == 6.0


def test_neither_library_is_imported_before_it_is_given():
    script = (
        "import jmeta, sys; from flax import nnx\n"
        "jmeta.make_functional(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))\n"
        "assert not {'equinox', 'haiku', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


OTHER = make_functional(eqx.nn.Linear(3, 2, key=KEY))
USED = eqx.nn.make_with_state(Normalised)()
INDEX: Any = USED[0].norm.ema_state_index
ERRORS = {
    "another tree": (
        lambda: OTHER[0]({"weight": X}, X[0]),
        r"`params` must be a tree.*Missing: \['.bias', '.weight'\]",
    ),
    "used state": (
        lambda: (
            USED[1].set(INDEX, (jnp.zeros(2), jnp.ones(2))),
            make_functional(*USED, method=over_batch),
        ),
        "must be the newest state",
    ),
    "state of a stateless one": (
        lambda: make_functional(Mixed(), eqx.nn.make_with_state(Normalised)()[1]),
        "must be left out for Mixed",
    ),
    "no state parameter": (
        lambda: make_functional(
            *eqx.nn.make_with_state(Normalised)(), method=lambda model, x: x
        ),
        r"with `state`; got .*\['x'\]",
    ),
    "no new state": (
        lambda: make_functional(
            *eqx.nn.make_with_state(Normalised)(), method=lambda model, x, state: x
        )[0](*make_functional(*eqx.nn.make_with_state(Normalised)())[1:], X),
        r"must give `\(outputs, state\)`.*got an array",
    ),
}


@pytest.mark.parametrize(("call", "message"), ERRORS.values(), ids=ERRORS)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
