"""optim.lbfgs against torch's recorded numbers and central differences."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jmeta.optim import lbfgs
from tests.helpers import (
    F64_DIFFERENCE,
    F64_SAME,
    F64_TORCH,
    assert_trees_close,
    central_difference,
)
from tests.reference.read import case, cases

CASES = {row["name"]: row for row in cases("lbfgs")}
# of one entry of a gradient against its largest: sums over 10 iterations cancel
ATOL = 1e-10


def network(params, x):
    hidden = jnp.tanh(x @ params["0.weight"].T + params["0.bias"][None])
    return hidden @ params["2.weight"].T + params["2.bias"][None]


def mlp_losses():
    data = case("problems", "mlp")
    inner = lambda p: jnp.mean((network(p, data["x"]) - data["y"]) ** 2)
    outer = lambda p: jnp.mean((network(p, data["x_val"]) - data["y_val"]) ** 2)
    return data["params"], inner, outer


def rosenbrock(params):
    x, y = params["xy"]
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def rosenbrock_losses():
    outer = lambda p: (p["xy"][0] - 1) ** 2 + 0.5 * (p["xy"][1] - 1) ** 2
    return case("problems", "rosenbrock")["params"], rosenbrock, outer


PROBLEMS = {"mlp": mlp_losses, "rosenbrock": rosenbrock_losses}


def train(loss, kwargs, calls, lr, params):
    """Parameters before and after each call, losses, and the states after each."""
    tx: Any = lbfgs(**kwargs)
    state = tx.init(params)
    state = state._replace(hyperparams={"lr": jnp.asarray(lr)})

    def call(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(
            grads, state, params, value=value, grad=grads, value_fn=loss
        )
        new = optax.apply_updates(params, updates)
        return (new, state), (new, value, state)

    _, (after, losses, states) = jax.lax.scan(call, (params, state), length=calls)
    path = jax.tree.map(
        lambda a, b: jnp.concatenate([jnp.asarray(a)[None], b]), params, after
    )
    return path, losses, states


@pytest.mark.parametrize("name", CASES)
def test_calls_equal_torch(name):
    row = CASES[name]
    params, inner, _ = PROBLEMS[row["problem"]]()
    run = jax.jit(partial(train, inner, row["kwargs"], row["calls"]))
    path, losses, states = run(row["kwargs"]["lr"], params)
    assert_trees_close(path, row["params"], rtol=F64_TORCH, atol=ATOL)
    assert_trees_close(losses, row["losses"], rtol=F64_TORCH)
    assert_trees_close(states.t, row["step_lengths"], rtol=F64_TORCH)
    assert_trees_close(states.func_evals, row["func_evals"], rtol=0.0)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    "name", ["lbfgs/mlp", "lbfgs_wolfe/mlp", "lbfgs_wolfe/rosenbrock"]
)
def test_one_call_of_many_iterations_equals_torch(name):
    row = CASES[name]
    kwargs = row["one_call"]["kwargs"]
    params, inner, _ = PROBLEMS[row["problem"]]()
    path, _, states = jax.jit(partial(train, inner, kwargs, 1))(kwargs["lr"], params)
    final = jax.tree.map(lambda x: x[-1], path)
    assert_trees_close(final, row["one_call"]["final"], rtol=F64_TORCH, atol=ATOL)
    assert states.func_evals[-1] == row["one_call"]["func_evals"]


# each compiles the reverse mode of a line search; the other cases differ in settings
QUICK = ("lbfgs/mlp", "lbfgs_history/rosenbrock", "lbfgs_wolfe/mlp")


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in CASES
    ],
)
def test_hypergradients_equal_recorded_ones(name):
    row = CASES[name]
    params, inner, outer = PROBLEMS[row["problem"]]()

    @jax.jit
    def hypergradients(time):
        def loss(lr, params):
            path, _, _ = train(inner, row["kwargs"], 6, lr, params)
            return outer(jax.tree.map(lambda x: x[time], path))

        lr = jnp.asarray(row["kwargs"]["lr"])
        return jax.value_and_grad(loss, argnums=(0, 1))(lr, params)

    for recorded in row["hypergradients"]:
        value, (d_lr, d_params) = hypergradients(recorded["steps"])
        assert_trees_close(value, recorded["outer"], rtol=F64_TORCH)
        assert_trees_close(d_lr, recorded["d_settings"]["lr"], rtol=F64_DIFFERENCE)
        scale = max(np.abs(leaf).max() for leaf in recorded["d_params"].values())
        assert_trees_close(
            d_params,
            recorded["d_params"],
            rtol=F64_DIFFERENCE,
            atol=F64_DIFFERENCE * scale,
        )


WOLFE = {"lr": 1.0, "max_iter": 4, "line_search_fn": "strong_wolfe", "history_size": 3}
STARTS = {"xy": jnp.array([[-1.2, 1.0], [0.3, 2.0], [1.0, 1.0], [5.0, -3.0]])}


def end(kwargs, lr, params):
    path, _, _ = train(rosenbrock, kwargs, 2, lr, params)
    return jnp.sum(path["xy"][-1] ** 3)


@pytest.mark.parametrize("kwargs", [WOLFE, WOLFE | {"line_search_fn": None, "lr": 0.2}])
def test_derivatives_hold_in_both_modes_and_for_batches(kwargs):
    lr = jnp.asarray(kwargs["lr"])
    batched = jax.jit(
        jax.vmap(jax.value_and_grad(partial(end, kwargs), argnums=(0, 1)), (None, 0))
    )
    values, (d_lr, d_params) = batched(lr, STARTS)
    direction = (jnp.array(0.3), {"xy": jnp.array([0.7, -0.4])})
    forward = jax.jit(
        lambda *primals: jax.jvp(partial(end, kwargs), primals, direction)
    )
    for i, start in enumerate(STARTS["xy"]):
        primals = (lr, {"xy": start})
        value, forward_slope = forward(*primals)
        assert_trees_close(values[i], value, rtol=F64_SAME)
        slope = 0.3 * d_lr[i] + jnp.vdot(direction[1]["xy"], d_params["xy"][i])
        assert_trees_close(slope, forward_slope, rtol=F64_TORCH)
        if i == 2:
            # torch does not move from the optimum
            assert_trees_close(values[i], 2.0, rtol=0.0)
            continue
        expected = central_difference(
            lambda x: forward(*x)[0], primals, direction, step=1e-6
        )
        # a rounding error of 1e-16 / 1e-6, times a condition of up to 1e3
        assert_trees_close(slope, expected, rtol=F64_DIFFERENCE, atol=1e-6)


def test_mixed_precision_and_a_scheduled_rate():
    target = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(3.0)}

    def loss(params):
        pairs = jax.tree.map(lambda p, t: (p.astype(float) - t) ** 2, params, target)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(pairs))

    tx: Any = lbfgs(lr=lambda step: 0.5 * 0.5**step, max_iter=1)
    params = {"a": jnp.zeros(2, jnp.bfloat16), "b": jnp.zeros((), jnp.float32)}
    state = tx.init(params)
    assert state.d.dtype == jnp.float32
    grads = jax.grad(loss)(params)
    updates, state = tx.update(grads, state, params, value_fn=loss)
    dtypes = jax.tree.map(lambda leaf: leaf.dtype.name, updates)
    assert dtypes == {"a": "bfloat16", "b": "float32"}
    assert state.hyperparams["lr"] == 0.25
    # t = lr / sum(abs(grad)) at first
    assert_trees_close(updates["b"], jnp.array(0.5 * 6 / 12), rtol=F64_DIFFERENCE)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lbfgs(lr=-1.0), "`lr` must be at least 0"),
        (lambda: lbfgs(max_iter=0), "`max_iter` must be at least 1; got 0"),
        (lambda: lbfgs(line_search_fn="armijo"), "got 'armijo'"),
        (
            lambda: lbfgs().update(jnp.ones(1), lbfgs().init(jnp.ones(1)), jnp.ones(1)),
            "value_fn=loss",
        ),
    ],
)
def test_wrong_calls_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()
