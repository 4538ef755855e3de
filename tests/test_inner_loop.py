"""What the loop passes on, carries, keeps and gives back."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import Unroll, inner_loop
from tests.cases import PLAIN, mlp, mlp_params
from tests.helpers import (
    F64_DIFFERENCE,
    F64_SAME,
    assert_trees_close,
    central_difference,
    compilations,
)

SGD = jmeta.optim.sgd(lr=0.1, momentum=0.5)


def data(*leading):
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.normal(size=(*leading, 5, n))) for n in (3, 2))


def mse(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


def train(steps=4, tx=SGD, params=None, **kwargs):
    params = mlp_params() if params is None else params
    kwargs = {"loss_fn": mse, "batch": data()} | kwargs
    return inner_loop(mlp, params, tx, steps, **kwargs)


def by_hand(steps, tx, params, objective, opt_state=None):
    """A Python loop; `objective(params, t)` is a scalar."""
    opt_state = tx.init(params) if opt_state is None else opt_state
    history, losses = [params], []
    for t in range(steps):
        loss, grads = jax.value_and_grad(objective)(params, t)
        updates, opt_state = tx.update(
            grads, opt_state, params,
            value=loss, grad=grads, value_fn=lambda p, t=t: objective(p, t),
        )  # fmt: skip
        params = optax.apply_updates(params, updates)
        history.append(params)
        losses.append(loss)
    stacked = jax.tree.map(lambda *ps: jnp.stack(ps), *history)
    return params, opt_state, jnp.stack(losses), stacked


def assert_run_close(run, expected):
    params, opt_state, losses, history = expected
    assert_trees_close(run.params, params, rtol=F64_SAME, atol=1e-14)
    assert_trees_close(run.opt_state, opt_state, rtol=F64_SAME, atol=1e-14)
    assert_trees_close(run.losses, losses, rtol=F64_SAME)
    if run.history is not None:
        assert_trees_close(run.history, history, rtol=F64_SAME, atol=1e-14)


def test_batches_are_slices():
    batches = data(4)
    run = jax.jit(lambda: train(batch=None, batches=batches, history=True))()
    expected = by_hand(
        4, SGD, mlp_params(), lambda p, t: mse(mlp(p, batches[0][t]), batches[1][t])
    )
    assert_run_close(run, expected)
    same = jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), data())
    whole = train(batch=None, batches=same)
    assert_trees_close(whole.params, train().params, rtol=F64_SAME)


def test_the_objective_without_loss_fn():
    x, y = data()
    objective = lambda p, batch: mse(mlp(p, batch["x"]), batch["y"])
    run = inner_loop(objective, mlp_params(), SGD, 4, batch={"x": x, "y": y})
    assert_trees_close(run, train(), rtol=F64_SAME)
    run = inner_loop(lambda p: mse(mlp(p, x), y), mlp_params(), SGD, 4)
    assert_trees_close(run, train(), rtol=F64_SAME)


@pytest.mark.parametrize("steps", [1, 3])
def test_aux_is_stacked(steps):
    def loss_fn(outputs, targets):
        return mse(outputs, targets), {"out": outputs, "n": 3, "nothing": None}

    run = train(steps, loss_fn=loss_fn, has_aux=True, history=True)
    expected = jnp.stack([mlp(run.parameters(time=t), data()[0]) for t in range(steps)])
    assert_trees_close(run.aux["out"], expected, rtol=F64_SAME)
    assert run.aux["n"].tolist() == [3] * steps


def test_state_is_carried_without_gradient():
    """As buffers in torch: a running mean that the next step uses as a constant."""
    x, y = data()

    def apply_fn(params, state, x):
        out = mlp(params, x) - state["mean"][None]
        new = {"mean": 0.5 * state["mean"] + 0.5 * out.mean(0), "n": state["n"] + 1}
        return out, new

    def loop(params, mean, adjoint=None):
        run = inner_loop(
            apply_fn, params, SGD, 3, loss_fn=mse, batch=(x, y),
            state={"mean": mean, "n": 0}, adjoint=adjoint or Unroll(),
        )  # fmt: skip
        return jnp.sum(run.params["w2"] ** 2) + jnp.sum(run.state["mean"]), run.state

    def hand(params, mean):
        state, opt_state = {"mean": mean, "n": 0}, SGD.init(params)
        for _ in range(3):

            def objective(p, state):
                out, new = apply_fn(p, jax.lax.stop_gradient(state), x)
                return mse(out, y), jax.lax.stop_gradient(new)

            grads, state = jax.grad(objective, has_aux=True)(params, state)
            updates, opt_state = SGD.update(grads, opt_state, params)
            params = jax.tree.map(jnp.add, params, updates)
        return jnp.sum(params["w2"] ** 2) + jnp.sum(state["mean"]), state

    mean = jnp.array([0.3, -0.2])
    value = jax.value_and_grad(hand, argnums=(0, 1), has_aux=True)
    expected = jax.jit(value)(mlp_params(), mean)
    for adjoint in (Unroll(), PLAIN):
        value = jax.value_and_grad(loop, argnums=(0, 1), has_aux=True)
        found = jax.jit(functools.partial(value, adjoint=adjoint))(mlp_params(), mean)
        assert_trees_close(found, expected, rtol=F64_SAME, atol=1e-14)
    assert found[0][1]["n"] == 3
    assert not jnp.any(found[1][1])


def test_the_key_is_folded_with_the_step():
    key = jax.random.key(4)

    def objective(w, *, key):
        return jnp.sum(w * jax.random.normal(key, (2,))), jax.random.key_data(key)

    run = inner_loop(
        objective, jnp.ones(2), jmeta.optim.sgd(0.1), 3, key=key, has_aux=True
    )
    keys = [jax.random.fold_in(key, t) for t in range(3)]
    assert_trees_close(run.aux, jnp.stack(list(map(jax.random.key_data, keys))), rtol=0)
    draws = [jax.random.normal(k, (2,)) for k in keys]
    assert_trees_close(run.params, 1 - 0.1 * sum(draws), rtol=F64_SAME)


def test_grad_callback_comes_before_the_transform():
    clip = lambda grads: jax.tree.map(lambda g: jnp.clip(g, -0.05, 0.05), grads)
    x, y = data()
    chained = optax.chain(optax.clip(0.05), SGD)
    run = train(grad_callback=clip)
    expected = by_hand(4, chained, mlp_params(), lambda p, t: mse(mlp(p, x), y))
    assert_trees_close(run.params, expected[0], rtol=F64_SAME)
    differs = train().params["w2"] - run.params["w2"]
    assert jnp.any(jnp.abs(differs) > 1e-3)


def test_frozen_parameters():
    trainable = lambda path: path[0] in ("w2", "b2")

    def loop(params):
        return train(params=params, trainable=trainable, history=True)

    run = jax.jit(loop)(mlp_params())
    for tree in (run.history, run.opt_state.momentum_buffer):
        assert tree["w1"] is None
        assert tree["b1"] is None
    start = mlp_params()
    assert_trees_close(run.params["w1"], start["w1"], rtol=0)
    assert_trees_close(run.parameters(time=-1), run.params, rtol=0)
    assert_trees_close(run.parameters(time=0), start, rtol=0)

    meta_loss = jax.jit(lambda params: mse(mlp(loop(params).params, *data()[:1]), 0.5))
    grads = jax.grad(meta_loss)(start)
    direction = {k: jnp.sign(p) * float(k == "w1") for k, p in start.items()}
    slope = central_difference(meta_loss, start, direction)
    found = jnp.vdot(grads["w1"], direction["w1"])
    assert_trees_close(found, slope, rtol=F64_DIFFERENCE)


def test_history_and_perturbations():
    """A perturbation's gradient is the derivative by the parameters at that time."""
    steps, w0 = 5, jnp.array([0.5, -0.3])
    objective = lambda w: jnp.sum(jnp.cos(w) + w**4)
    tx = jmeta.optim.sgd(0.1)

    def meta_loss(perturbations, adjoint):
        run = inner_loop(
            objective, w0, tx, steps,
            history=True, perturbations=perturbations, adjoint=adjoint,
        )  # fmt: skip
        return jnp.sum(run.params**3), run.history

    def rest(w, t):
        for _ in range(t, steps):
            w = w - 0.1 * jax.grad(objective)(w)
        return jnp.sum(w**3)

    for adjoint in (Unroll(), Unroll(checkpoint="nested"), PLAIN):
        zeros = jnp.zeros((steps + 1, 2))
        grads, history = jax.jit(
            jax.grad(functools.partial(meta_loss, adjoint=adjoint), has_aux=True)
        )(zeros)
        expected = [jax.grad(rest)(w, t) for t, w in enumerate(history)]
        assert_trees_close(grads, jnp.stack(expected), rtol=F64_SAME)
    moved = zeros.at[2].set(0.1)
    _, history = meta_loss(moved, PLAIN)
    by_step = history[1] - 0.1 * jax.grad(objective)(history[1])
    assert_trees_close(history[2], by_step + 0.1, rtol=F64_SAME)


def test_no_steps():
    opt_state = SGD.init(mlp_params())
    run = train(0, history=True, opt_state=opt_state)
    assert_trees_close(run.params, mlp_params(), rtol=0)
    assert_trees_close(run.opt_state, opt_state, rtol=0)
    assert run.losses.shape == (0,)
    assert_trees_close(run.parameters(time=0), mlp_params(), rtol=0)
    ones = jax.tree.map(lambda p: jnp.ones((1, *p.shape)), mlp_params())
    moved = train(0, perturbations=ones).params
    assert_trees_close(moved, jax.tree.map(lambda p: p + 1, mlp_params()), rtol=0)


def test_going_on_from_an_optimizer_state():
    """Two halves are the whole; the state's settings win over the constructor's."""
    whole = train(4)
    half = train(2)
    other = jmeta.optim.sgd(lr=7.0)
    rest = train(2, tx=other, params=half.params, opt_state=half.opt_state)
    assert_trees_close(rest.params, whole.params, rtol=F64_SAME)
    assert_trees_close(rest.opt_state, whole.opt_state, rtol=F64_SAME)


@pytest.mark.parametrize("adjoint", [Unroll(), Unroll(checkpoint="nested"), PLAIN])
def test_active(adjoint):
    """A traced number of steps, one per task: values and derivatives of that loop."""

    def loop(w, lr, steps, active=None):
        run = inner_loop(
            lambda w: jnp.sum(w**4 + w * w[::-1]), w, jmeta.optim.sgd(momentum=0.5),
            steps, active=active, history=True, adjoint=adjoint,
            hyperparams={"lr": lr},
        )  # fmt: skip
        return jnp.sum(run.params**3) + jnp.nansum(run.losses**2), run

    value = jax.value_and_grad(loop, argnums=(0, 1), has_aux=True)
    start = jnp.array([0.5, -0.8])
    counts = (0, 2, 4)
    tasks = jax.jit(jax.vmap(lambda n: value(start, 0.1, 4, n)))(jnp.array(counts))
    for i, count in enumerate(counts):
        (loss, run), grads = jax.tree.map(lambda leaf: leaf[i], tasks)  # noqa: B023
        shorter_value = jax.jit(value, static_argnums=2)(start, 0.1, count)
        (expected, shorter), shorter_grads = shorter_value
        assert_trees_close(grads, shorter_grads, rtol=F64_SAME, atol=1e-14)
        assert_trees_close(loss, expected, rtol=F64_SAME)
        assert_trees_close(run.params, shorter.params, rtol=F64_SAME)
        assert_trees_close(run.opt_state, shorter.opt_state, rtol=F64_SAME)
        assert_trees_close(run.losses[:count], shorter.losses, rtol=F64_SAME)
        assert jnp.isnan(run.losses[count:]).all()
        assert_trees_close(run.parameters(time=-1), run.params, rtol=F64_SAME)


def test_perturbations_after_the_active_steps():
    def params(d, active):
        tx = jmeta.optim.sgd(0.1)
        run = inner_loop(lambda w: w**2, 1.0, tx, 3, perturbations=d, active=active)
        return run.params

    grads = jax.jit(jax.vmap(jax.grad(params), (None, 0)))(jnp.zeros(4), jnp.arange(3))
    expected = [[1, 1, 1, 1], [0.8, 1, 1, 1], [0.64, 0.8, 1, 1]]
    assert_trees_close(grads, jnp.array(expected), rtol=F64_SAME)


optax_mixes = pytest.mark.standard_promotion("optax's Adam mixes dtypes")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize(
    "tx", [SGD, jmeta.optim.adam(), pytest.param(optax.adam(0.1), marks=optax_mixes)]
)
def test_dtypes_are_kept(dtype, tx):
    params = jax.tree.map(lambda p: p.astype(dtype), mlp_params())
    batch = jax.tree.map(lambda x: x.astype(dtype), data())
    hyperparams = {} if "optax" in tx.init.__module__ else {"lr": jnp.asarray(0.1)}

    def loop(params):
        return train(3, tx, params, batch=batch, hyperparams=hyperparams, history=True)

    run = jax.eval_shape(loop, params)
    like = jax.eval_shape(lambda: (params, tx.init(params)))
    for found, expected in zip(
        jax.tree.leaves((run.params, run.opt_state)), jax.tree.leaves(like), strict=True
    ):
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
    grads = jax.eval_shape(jax.grad(lambda p: jnp.sum(loop(p).params["w1"])), params)
    assert {leaf.dtype for leaf in jax.tree.leaves((run.history, grads))} == {
        jnp.dtype(dtype)
    }


def test_weak_types_are_not_weaker():
    """A Python float in float64 is not rounded to a float32 rate's precision."""
    run = inner_loop(
        lambda w: 0.1 * w**2, -0.9914729595184326, jmeta.optim.sgd(), 3,
        hyperparams={"lr": jnp.float32(0.5)}, history=True,
    )  # fmt: skip
    assert run.params.dtype == jnp.float64
    expected = -0.9914729595184326 * 0.9 ** np.arange(4)
    assert_trees_close(run.history, expected, rtol=F64_SAME)
    assert not run.params.weak_type


def test_a_second_call_compiles_nothing():
    def meta_loss(lr, params):
        run = train(3, params=params, hyperparams={"lr": lr})
        return mse(mlp(run.params, data()[0]), 0.0)

    hypergrad = jax.jit(jax.grad(meta_loss))
    args = [(jnp.asarray(0.1 * i), mlp_params(i)) for i in (1, 2)]
    first = hypergrad(*args[0])
    with compilations() as compiled:
        second = hypergrad(*args[1])
    assert not compiled
    assert first != second
