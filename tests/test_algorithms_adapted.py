"""Adaptation by any objective is a plain loop on it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta import algorithms as alg
from jmeta.adjoint import Implicit, Unroll, proximal
from tests.algorithm_cases import SGD, mse, net, one_task, tasks, weights
from tests.helpers import F64_SAME, assert_trees_close

STEPS, LR = 3, 0.1
SOLVED = 1e-9
"""After 150 steps of descent."""


def support_loss(params, task, key=None):
    return mse(net(params, task.support[0], key), task.support[1])


def query_loss(params, task, key=None):
    outputs = net(params, task.query[0], key)
    return mse(outputs, task.query[1]), outputs


def pulled(params, task, meta_params, key):
    """A loss that is learned, on data that are drawn."""
    noise = jax.random.normal(key, params.shape)
    return jnp.sum(jnp.exp(meta_params["log_scale"]) * (params - task - noise) ** 2)


def distance(params, task):
    return jnp.sum((params - 2 * task) ** 2)


START = {"params": jnp.array([0.5, -1.0]), "log_scale": jnp.array([0.3, -0.2])}
TASK = jnp.array([2.0, 1.0])
LEARNED = {
    "outer": distance,
    "init": lambda meta_params, task: meta_params["params"],
    "hyperparams": lambda meta_params: {"lr": jnp.exp(meta_params["log_lr"])},
}


def test_with_outputs_and_targets_it_is_maml(key):
    options = {"outer": query_loss, "has_aux": True}
    ours = alg.adapted(support_loss, SGD, STEPS, **options)
    maml = alg.maml(net, SGD, STEPS, loss_fn=mse)
    for given in (None, key):
        args = weights(), one_task(), given
        found, expected = (
            jax.jit(jax.value_and_grad(task_loss, has_aux=True))(*args)
            for task_loss in (ours, maml)
        )
        assert_trees_close(found, expected, F64_SAME, 1e-15)


def test_everything_learned_has_the_gradient_of_a_plain_loop(key):
    meta_params = {**START, "log_lr": jnp.log(LR)}

    def plain(meta_params):
        params, losses = meta_params["params"], []
        for t in range(STEPS):
            step_key = jax.random.fold_in(key, t)
            loss = lambda p, k=step_key: pulled(p, TASK, meta_params, k)
            losses.append(loss(params))
            params -= jnp.exp(meta_params["log_lr"]) * jax.grad(loss)(params)
        return distance(params, TASK), jnp.stack(losses)

    task_loss = alg.adapted(pulled, jmeta.optim.sgd(), STEPS, **LEARNED)
    graded = jax.jit(jax.value_and_grad(task_loss, has_aux=True))
    (loss, aux), grads = graded(meta_params, TASK, key)
    (expected, losses), exact = jax.value_and_grad(plain, has_aux=True)(meta_params)
    assert_trees_close((loss, aux.losses, grads), (expected, losses, exact), F64_SAME)
    assert aux.outputs is None
    assert min(np.abs(g).min() for g in jax.tree.leaves(grads)) > 1e-3


def test_the_objective_judges_where_nothing_else_does(key):
    def objective(params, task, key):
        return jnp.sum((params - task - jax.random.normal(key)) ** 2)

    task_loss = alg.adapted(objective, SGD, 0)
    loss, aux = task_loss(START["params"], TASK, key)
    expected = objective(START["params"], TASK, jax.random.fold_in(key, 0))
    assert_trees_close(loss, expected, F64_SAME)
    assert aux.losses.shape == (0,)


def test_over_tasks_and_to_evaluate(key):
    options = {"outer": query_loss, "has_aux": True}
    task_loss = alg.adapted(support_loss, SGD, STEPS, **options)
    step = jmeta.task_value_and_grad(task_loss, has_aux=True, chunk_size=2)
    (loss, aux), grads = jax.jit(step)(weights(), tasks(), key)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(3))
    mean = lambda params: jax.vmap(functools.partial(task_loss, params))(tasks(), keys)
    expected = jax.value_and_grad(lambda params: mean(params)[0].mean())(weights())
    assert_trees_close((loss, grads), expected, F64_SAME, 1e-15)
    assert aux.losses.shape == (3, STEPS)


def test_by_the_implicit_function_theorem():
    def near(params, task, meta_params):
        return jnp.sum(0.5 * (params - task) ** 2) + proximal(params, meta_params, 2.0)

    stopped = lambda meta_params, task: jax.lax.stop_gradient(meta_params)
    options = {"outer": distance, "init": stopped}
    found = [
        jax.grad(
            alg.adapted(near, jmeta.optim.sgd(lr=LR), 150, adjoint=adjoint, **options),
            has_aux=True,
        )(START["params"], TASK)
        for adjoint in (Implicit(), Unroll())
    ]
    assert_trees_close(found[0][0], found[1][0], SOLVED)
    assert found[0][1].residual < SOLVED


def test_partials_and_defaults_ask_by_name(key):
    def objective(weight, params, task, temperature=1.0, *, key=None):
        assert key is not None
        return weight * temperature * jnp.sum((params - task) ** 2)

    task_loss = alg.adapted(functools.partial(objective, 2.0), SGD, 1)
    loss, _ = task_loss(TASK - 1.0, TASK, key)
    assert loss > 0


ERRORS = {
    "other parameters": (
        lambda: alg.adapted(lambda params: 0.0, SGD, 1)(START["params"], TASK),
        TypeError,
        r"`objective` must take 2 arguments",
    ),
    "no key": (
        lambda: alg.adapted(pulled, SGD, 1)(START, TASK),
        TypeError,
        r"`objective` has a parameter `key`",
    ),
    "no dependence": (
        lambda: alg.adapted(lambda params, task: jnp.sum(task), SGD, 1)(TASK, TASK),
        ValueError,
        "does not depend on the trained parameters",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), ERRORS.values(), ids=ERRORS)
def test_a_wrong_call_says_what_to_do(call, error, message):
    with pytest.raises(error, match=message):
        call()
