"""Each algorithm against plain JAX, compiled, mapped, with keys and with bad input."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import linen

import jmeta
from jmeta import Implicit, NormalCG, Unroll, algorithms as alg
from tests.algorithm_cases import (
    CASES,
    SGD,
    STEPS,
    mse,
    net,
    one_task,
    support_loss,
    tasks,
    weights,
)
from tests.helpers import F64_SAME, assert_trees_close, compilations

ROUNDING = 1e-13
"""Of sums of terms of size 1 that cancel."""
SOLVED = 1e-8
"""What a converged loop and CG leave."""


def value_and_grad(task_loss):
    return jax.jit(jax.value_and_grad(task_loss, has_aux=True))


def expected(case, meta_params, task, key=None, steps=STEPS):
    loss_fn = lambda meta_params: case.reference(meta_params, task, key, steps)
    (loss, aux), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(meta_params)
    return (loss, alg.Adapted(*aux)), grads


@functools.cache
def compiled(name):
    """One function for all tests of a case, with a key and without."""
    return value_and_grad(CASES[name].build(STEPS))


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_equals_plain_jax(name, keyed, key):
    key = key if keyed else None
    case, task = CASES[name], one_task()
    meta_params = case.meta_params()
    found = compiled(name)(meta_params, task, key)
    assert_trees_close(
        found, expected(case, meta_params, task, key), F64_SAME, ROUNDING
    )
    with compilations() as again:
        compiled(name)(meta_params, task, key)
    assert not again


@pytest.mark.parametrize("name", CASES)
def test_batch_of_tasks(name, key):
    case = CASES[name]
    meta_params = case.meta_params()
    step = jmeta.task_value_and_grad(case.build(STEPS), has_aux=True, chunk_size=2)
    found = jax.jit(step)(meta_params, tasks(), key)
    each = [
        compiled(name)(
            meta_params,
            jax.tree.map(lambda x, i=i: jnp.array(x[i]), tasks()),
            jax.random.fold_in(key, i),
        )
        for i in range(len(tasks().support[0]))
    ]
    (losses, aux), grads = jax.tree.map(lambda *x: jnp.stack(x), *each)
    loss, grads = jax.tree.map(lambda x: x.mean(0), (losses, grads))
    assert_trees_close(found, ((loss, aux), grads), F64_SAME, ROUNDING)


@pytest.mark.parametrize("steps", [0, 1, 5])
@pytest.mark.parametrize("name", CASES)
def test_any_number_of_steps(name, steps):
    case, task = CASES[name], one_task()
    meta_params = case.meta_params()
    loss, aux = jax.jit(case.build(steps))(meta_params, task)
    assert aux.losses.shape == (steps,)
    want = case.reference(meta_params, task, None, steps)
    assert_trees_close((loss, tuple(aux)[:2]), want, F64_SAME, ROUNDING)


def ignores_keys(params, x):
    return net(params, x)


@pytest.mark.parametrize("builder", [alg.maml, alg.reptile, alg.imaml])
def test_a_model_without_randomness_is_given_no_key(builder, key):
    options = {"weight": 2.0} if builder is alg.imaml else {}
    task_loss = builder(ignores_keys, SGD, STEPS, loss_fn=mse, **options)
    with_key, without = (task_loss(weights(), one_task(), k) for k in (key, None))
    assert_trees_close(with_key, without, F64_SAME)


@pytest.mark.standard_promotion("Flax's weights are float32")
def test_linens_apply_is_given_a_key_if_its_call_takes_one(key):
    class Noisy(linen.Module):
        @linen.compact
        def __call__(self, x, key):
            return linen.Dense(3)(x) + jax.random.normal(key)

    task = one_task()
    for model, random in ((linen.Dense(3), False), (Noisy(), True)):
        params = model.init(key, task.support[0], *([key] if random else []))
        task_loss = jax.jit(alg.maml(model.apply, SGD, 1, loss_fn=mse))
        losses = [
            task_loss(params, task, jax.random.fold_in(key, i))[0] for i in (0, 1)
        ]
        assert (losses[0] != losses[1]) == random


def test_reptiles_gradient_is_the_way_to_the_adapted_weights():
    grads, _ = jax.grad(alg.reptile(net, SGD, 7, loss_fn=mse), has_aux=True)(
        weights(), one_task()
    )
    run = jmeta.inner_loop(
        net, weights(), SGD, 7, loss_fn=mse, batch=one_task().support
    )
    way = jax.tree.map(jnp.subtract, weights(), run.params)
    assert_trees_close(grads, way, 0.0)


def small_weights():
    """Near them the inner problem is convex enough for a rate of 0.1 to converge."""
    return jax.tree.map(lambda w: 0.3 * w, weights())


def linear(phi, x):
    return x @ phi


def solved(phi, weight, task):
    """iMAML's loss for a linear model, whose inner minimum has a formula."""
    x, y = task.support
    matrix = 2 * x.T @ x / len(x) + weight * jnp.eye(x.shape[1])
    adapted = jnp.linalg.solve(matrix, 2 * x.T @ y / len(x) + weight * phi)
    outputs = task.query[0] @ adapted
    return mse(outputs, task.query[1]), outputs


@pytest.mark.parametrize(
    "adjoint",
    [Implicit(), Implicit(solver=NormalCG(), tol=1e-11), Unroll()],
    ids=["CG", "NormalCG, tol", "unrolled"],
)
def test_imaml_equals_the_direct_solution(adjoint):
    def loss(phi, weight):
        return alg.imaml(linear, SGD, 150, loss_fn=mse, weight=weight, adjoint=adjoint)(
            phi, one_task()
        )

    args = jnp.array([[0.5], [-1.0]]), 1.5
    both = {"argnums": (0, 1), "has_aux": True}
    (found, aux), grads = jax.jit(jax.value_and_grad(loss, **both))(*args)
    exact = jax.value_and_grad(
        lambda phi, weight: solved(phi, weight, one_task()), **both
    )
    assert_trees_close(((found, aux.outputs), grads), exact(*args), SOLVED)
    assert aux.losses.shape == (150,)
    if isinstance(adjoint, Implicit):
        assert aux.residual < SOLVED


@pytest.mark.parametrize("keyed", [False, True])
def test_imaml_is_the_limit_of_the_proximal_loop(keyed, key):
    key = key if keyed else None

    def descended(meta, task):
        def objective(phi):
            squares = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), phi, meta)
            return support_loss(phi, task, key, 0) + 2 * sum(jax.tree.leaves(squares))

        def step(phi, _):
            grads = jax.grad(objective)(phi)
            return jax.tree.map(lambda p, g: p - 0.1 * g, phi, grads), None

        phi, _ = jax.lax.scan(step, meta, length=150)
        query_key = None if key is None else jax.random.fold_in(key, 150)
        outputs = net(phi, task.query[0], query_key)
        return mse(outputs, task.query[1]), outputs

    task_loss = alg.imaml(net, SGD, 150, loss_fn=mse, weight=4.0)
    (loss, aux), grads = value_and_grad(task_loss)(small_weights(), one_task(), key)
    want = value_and_grad(descended)(small_weights(), one_task())
    assert_trees_close(((loss, aux.outputs), grads), want, SOLVED, SOLVED)
    assert aux.losses[0] == pytest.approx(
        support_loss(small_weights(), one_task(), key, 0)
    )


def test_imaml_without_a_step_judges_the_weights():
    task_loss = alg.imaml(ignores_keys, SGD, 0, loss_fn=mse, weight=4.0)
    unadapted = lambda params, task: mse(net(params, task.query[0]), task.query[1])
    (loss, aux), grads = value_and_grad(task_loss)(weights(), one_task())
    want = jax.value_and_grad(unadapted)(weights(), one_task())
    assert_trees_close((loss, grads), want, F64_SAME)
    assert aux.losses.shape == (0,)


def test_imaml_over_tasks(key):
    task_loss = alg.imaml(net, SGD, 150, loss_fn=mse, weight=4.0)
    step = jmeta.task_value_and_grad(task_loss, has_aux=True)
    (loss, aux), grads = jax.jit(step)(small_weights(), tasks(), key)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(3))
    each = [
        value_and_grad(task_loss)(
            small_weights(),
            jax.tree.map(lambda x, i=i: jnp.array(x[i]), tasks()),
            keys[i],
        )
        for i in range(3)
    ]
    mean = jax.tree.map(lambda *x: sum(x) / 3, *[(r[0][0], r[1]) for r in each])
    assert_trees_close((loss, grads), mean, SOLVED, SOLVED)
    assert aux.residual.shape == (3,)
    assert (aux.residual < SOLVED).all()


def maml(apply_fn: Any = net, tx: Any = SGD, steps: Any = 2, loss_fn: Any = mse):
    return alg.maml(apply_fn, tx, steps, loss_fn=loss_fn)


def of_weights(builder):
    return builder(net, SGD, 2, loss_fn=mse)(weights(), one_task())


def plus_plus(step_weights):
    return alg.maml_plus_plus(net, SGD, 2, loss_fn=mse, step_weights=step_weights)


BAD = [
    (lambda: maml(apply_fn=weights()), TypeError, "make_functional"),
    (lambda: maml(tx=0.1), TypeError, "jmeta.optim.sgd"),
    (lambda: maml(steps=2.0), TypeError, "`steps` must be a Python integer"),
    (lambda: maml(steps=-1), ValueError, "`steps` must be at least 0"),
    (lambda: maml(loss_fn=None), TypeError, "`loss_fn` must be a function"),
    (lambda: maml()(weights(), one_task().support), TypeError, "jmeta.Task"),
    (lambda: of_weights(alg.meta_sgd), TypeError, "by `jmeta.algorithms.meta_sgd_par"),
    (lambda: of_weights(alg.maml_plus_plus), TypeError, "maml_plus_plus_params"),
    (lambda: plus_plus(jnp.ones(3)), ValueError, r"each of the `steps`=2; got shape"),
    (lambda: plus_plus(1.0), ValueError, "`msl_weights`"),
    (
        lambda: alg.anil(net, SGD, 2, loss_fn=mse, trainable=lambda path: False)(
            weights(), one_task()
        ),
        ValueError,
        "must be a parameter to train",
    ),
    (
        lambda: alg.meta_sgd(net, jmeta.optim.sgd(), 2, loss_fn=mse)(
            alg.MetaSGDParams(weights(), {"body": 0.1}), one_task()
        ),
        ValueError,
        "must be a tree, or prefix",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
