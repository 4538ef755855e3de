"""MAML++: its special cases, the annealed weights, and BatchNorm's statistics."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jmeta
from jmeta import Unroll, algorithms as alg
from tests.algorithm_cases import (
    NO_RATE,
    STEPS,
    mse,
    net,
    one_task,
    rates,
    step_rates,
    tasks,
    weights,
)
from tests.helpers import F64_SAME, assert_trees_close, compilations

ROUNDING = 1e-13
"""Of sums of terms of size 1 that cancel."""
LR = 0.1
MOMENTUM = 0.9


def plus_plus(apply_fn: Any = net, steps=STEPS, **options):
    return alg.maml_plus_plus(apply_fn, NO_RATE, steps, loss_fn=mse, **options)


def value_and_grad(task_loss, meta_params, task, key=None):
    loss = jax.value_and_grad(task_loss, has_aux=True)
    return jax.jit(loss)(meta_params, task, key)


def test_all_the_weight_on_the_last_step_is_maml(key):
    last = plus_plus(step_weights=jnp.array([0.0, 0.0, 1.0]))
    meta_params = alg.maml_plus_plus_params(weights(), STEPS, LR)
    found, grads = value_and_grad(last, meta_params, one_task(), key)
    maml = alg.maml(net, jmeta.optim.sgd(lr=LR), STEPS, loss_fn=mse)
    want = value_and_grad(maml, weights(), one_task(), key)
    assert_trees_close((found, grads.params), want, F64_SAME, ROUNDING)


def test_one_step_is_meta_sgd_with_a_rate_for_each_array():
    lr = rates(jax.tree.map(lambda _: jnp.zeros(()), weights()))
    meta_params = alg.MAMLPlusPlusParams(weights(), jax.tree.map(lambda x: x[None], lr))
    found, grads = value_and_grad(plus_plus(steps=1), meta_params, one_task())
    sgd = alg.meta_sgd(net, NO_RATE, 1, loss_fn=mse)
    want, sgd_grads = value_and_grad(sgd, alg.MetaSGDParams(weights(), lr), one_task())
    one = jax.tree.map(lambda x: x[0], grads.lr)
    assert_trees_close((found, grads.params, one), (want, *sgd_grads), F64_SAME)


def test_first_order_epochs_keep_the_rates_gradient():
    meta_params = alg.MAMLPlusPlusParams(weights(), step_rates(), batch_statistics())
    build = lambda order: plus_plus(batch_norm_net, adjoint=Unroll(order=order))
    first, second = (
        value_and_grad(build(order), meta_params, one_task()) for order in (1, 2)
    )
    assert_trees_close(first[0], second[0], F64_SAME)
    last = lambda grads: jax.tree.map(lambda x: x[-1], grads.lr)
    # only the way through earlier gradients differs
    assert_trees_close(last(first[1]), last(second[1]), F64_SAME)
    assert not np.allclose(first[1].params["head"]["w"], second[1].params["head"]["w"])


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("epoch", [0, 3, 9, 10, 25])
def test_weights_are_those_of_the_papers_code(steps, epoch):
    weights, epochs = np.ones(steps) / steps, 10
    rate, least = 1 / steps / epochs, 0.03 / steps
    weights[:-1] = np.maximum(weights[:-1] - epoch * rate, least)
    weights[-1] = min(weights[-1] + epoch * (steps - 1) * rate, 1 - (steps - 1) * least)
    if epoch >= epochs:
        weights = np.eye(steps)[-1]
    found = jax.jit(alg.msl_weights, static_argnums=(0, 2))(steps, epoch, epochs)
    assert_trees_close(found, weights, F64_SAME)


def test_traced_weights_compile_once():
    @jax.jit
    def loss(meta_params, task, epoch):
        step_weights = alg.msl_weights(STEPS, epoch, epochs=4)
        return plus_plus(step_weights=step_weights)(meta_params, task)[0]

    meta_params = alg.MAMLPlusPlusParams(weights(), step_rates())
    epochs = [jnp.asarray(epoch) for epoch in range(6)]
    first = loss(meta_params, one_task(), epochs[0])
    with compilations() as compiled:
        losses = [loss(meta_params, one_task(), epoch) for epoch in epochs]
    assert not compiled
    assert losses[0] == first
    assert losses[3] != losses[4] == losses[5]


def batch_norm_net(params, state, x, training=True):
    """A net whose hidden layer is normalised; torch's running statistics."""
    hidden = x @ params["body"]["w"]
    mean, var = hidden.mean(0), hidden.var(0)
    new = {
        "mean": MOMENTUM * state["mean"] + (1 - MOMENTUM) * mean,
        "var": MOMENTUM * state["var"] + (1 - MOMENTUM) * var,
    }
    if not training:
        mean, var, new = state["mean"], state["var"], state
    hidden = (hidden - mean[None]) / jnp.sqrt(var + 1e-3)[None]
    hidden = jnp.tanh(hidden + params["body"]["b"][None])
    return hidden @ params["head"]["w"], new


def evaluation_net(params, state, x):
    return batch_norm_net(params, state, x, training=False)


def batch_statistics():
    """Different ones for each step."""
    rng = np.random.default_rng(3)
    return {
        "mean": jnp.array(rng.normal(size=(STEPS, 4))),
        "var": jnp.array(rng.uniform(0.5, 2.0, size=(STEPS, 4))),
    }


def by_hand(apply_fn, meta_params, task, step_weights):
    """Loss and new statistics by a Python loop."""
    params, lr, state = meta_params
    total, new_states = 0.0, []
    for t in range(STEPS):
        of_step = jax.tree.map(lambda x, t=t: x[t], state)

        def loss(params, state, data):
            outputs, new = apply_fn(params, state, data[0])
            return mse(outputs, data[1]), new

        grads, seen = jax.grad(loss, has_aux=True)(params, of_step, task.support)
        step = lambda p, g, r, t=t: p - r[t] * g
        params = jax.tree.map(step, params, grads, lr)
        value, judged = loss(params, seen, task.query)
        total += step_weights[t] * value
        new_states.append(judged if step_weights[t] else seen)
    return total, jax.tree.map(lambda *x: jnp.stack(x), *new_states)


@pytest.mark.parametrize("apply_fn", [batch_norm_net, evaluation_net])
@pytest.mark.parametrize("weighted", [False, True])
def test_each_step_has_its_own_statistics(apply_fn, weighted):
    step_weights = np.array([0.2, 0.3, 0.5]) if weighted else np.eye(STEPS)[-1]
    meta_params = alg.MAMLPlusPlusParams(weights(), step_rates(), batch_statistics())
    task_loss = plus_plus(apply_fn, step_weights=step_weights if weighted else None)
    (loss, _), grads = value_and_grad(task_loss, meta_params, one_task())

    def reference(params, lr):
        meta = alg.MAMLPlusPlusParams(params, lr, meta_params.state)
        return by_hand(apply_fn, meta, one_task(), step_weights)

    with_states = jax.value_and_grad(reference, argnums=(0, 1), has_aux=True)
    (want, new_states), want_grads = jax.jit(with_states)(weights(), step_rates())
    way = jax.tree.map(jnp.subtract, meta_params.state, new_states)
    assert_trees_close((loss, *grads), (want, *want_grads, way), F64_SAME, ROUNDING)


@pytest.mark.parametrize(("steps", "used"), [(0, [0]), (1, [0]), (5, [0, 1, 2])])
def test_any_number_of_steps_with_statistics(steps, used):
    """Statistics of steps not taken have no say; the last ones go on."""
    task_loss = plus_plus(evaluation_net, steps)

    def loss(state):
        meta_params = alg.MAMLPlusPlusParams(weights(), step_rates(), state)
        return task_loss(meta_params, one_task())[0]

    state = batch_statistics()
    unused = [t for t in range(STEPS) if t not in used]
    changed = lambda rows: jax.tree.map(lambda x: x.at[np.array(rows)].add(0.3), state)
    first = jax.jit(loss)(state)
    for t in used:
        assert jax.jit(loss)(changed([t])) != first
    if unused:
        assert jax.jit(loss)(changed(unused)) == first


@pytest.mark.standard_promotion("Flax's normalisation mixes dtypes")
def test_outer_sgd_keeps_the_running_average_of_a_flax_model():
    float64: Any = {"param_dtype": jnp.float64, "rngs": nnx.Rngs(0)}
    model = nnx.Sequential(
        nnx.Linear(2, 4, **float64),
        nnx.BatchNorm(4, momentum=MOMENTUM, **float64),
        nnx.Linear(4, 1, **float64),
    )
    apply_fn, params, state = jmeta.make_functional(model)
    # Flax makes the statistics float32 whatever it is told
    state = jax.tree.map(lambda x: x.astype(jnp.float64), state)
    meta_params = alg.maml_plus_plus_params(params, STEPS, lr=0.0, state=state)
    step = jmeta.task_value_and_grad(plus_plus(apply_fn), has_aux=True, chunk_size=2)
    tx = optax.partition(
        {"sgd": optax.sgd(1.0), "adam": optax.adam(1e-3)},
        alg.MAMLPlusPlusParams("adam", "adam", "sgd"),
    )
    _, grads = jax.jit(step)(meta_params, tasks())
    updates, _ = tx.update(grads, tx.init(meta_params), meta_params)
    new: Any = optax.apply_updates(meta_params, updates)
    # with a rate of 0 every step sees the same activations, the last the query's too
    x, later = tasks().support[0], tasks().query[0]
    first = apply_fn(params, state, x[0])[1]
    assert jax.tree.structure(first) == jax.tree.structure(state)
    seen = [apply_fn(params, state, x[i])[1] for i in range(len(x))]
    judged = [apply_fn(params, s, later[i])[1] for i, s in enumerate(seen)]
    mean = lambda states: jax.tree.map(lambda *s: sum(s) / len(s), *states)
    for t, states in enumerate((seen, seen, judged)):
        row = jax.tree.map(lambda x, t=t: x[t], new.state)
        assert_trees_close(row, mean(states), F64_SAME, ROUNDING)
