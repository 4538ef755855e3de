"""The precision of what a loop is handed: settings that are functions, a state."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import jmeta
from jmeta import inner_loop
from tests.helpers import F64_SAME, assert_trees_close

STEPS = 8
PEAK = 0.3
TABLE = [0.1, 0.05, 0.2, 0.15, 0.025, 0.3, 0.01, 0.07]

SCHEDULES = {
    "quotient": lambda peak: lambda t: peak * (1 - t / 7),
    "table": lambda peak: lambda t: peak * jnp.array(TABLE)[t],
    "join_schedules": lambda peak: optax.join_schedules(
        [lambda t: peak * (1 - t / 7), lambda t: peak * (t / 9)], [4]
    ),
    "jmeta": lambda peak: jmeta.schedules.linear_lr(peak, total_iters=7),
    "optax": lambda peak: optax.linear_schedule(peak, 0.1, 7),
}

RATES = {
    "quotient": lambda peak, t: peak * (1 - t / 7),
    "table": lambda peak, t: peak * TABLE[t],
    "join_schedules": lambda peak, t: peak * (1 - t / 7 if t < 4 else (t - 4) / 9),
    "jmeta": lambda peak, t: peak * (1 / 3 + (1 - 1 / 3) * t / 7),
    "optax": lambda peak, t: peak + (0.1 - peak) * t / 7,
}


def trained(rates):
    w = 1.3
    for rate in rates:
        w = w * (1 - rate)
    return w


@pytest.mark.parametrize("how", ["override", "constructor"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_setting_that_is_a_function_of_the_step(name, how):
    """Exact where the quotient of an int32 is a float32, as is its hypergradient."""

    def loop(peak):
        schedule = SCHEDULES[name](peak)
        tx, settings = jmeta.optim.sgd(lr=schedule), {}
        if how == "override":
            tx, settings = jmeta.optim.sgd(), {"lr": schedule}
        objective = lambda w: 0.5 * w**2
        return inner_loop(objective, 1.3, tx, STEPS, hyperparams=settings).params

    expected = jax.value_and_grad(
        lambda peak: trained([RATES[name](peak, t) for t in range(STEPS)])
    )(PEAK)
    found = jax.jit(jax.value_and_grad(loop))(PEAK)
    assert_trees_close(found, expected, rtol=F64_SAME)


@pytest.mark.parametrize("name", ["quotient", "join_schedules", "optax"])
def test_float32_stays(name):
    """Nothing that goes from step to step is of more than the settings' precision."""
    schedule = SCHEDULES[name](jnp.float32(PEAK))
    w = jnp.ones(2, jnp.float32)
    tx = jmeta.optim.sgd(lr=schedule, momentum=jnp.float32(0.5))
    state: Any = tx.init(w)
    after: Any = jax.jit(tx.update)(w, state, w)[1]
    for opt_state in (state, after):
        assert opt_state.hyperparams["lr"].dtype == jnp.float32
    for of, settings in ((tx, {}), (jmeta.optim.sgd(), {"lr": schedule})):
        run = inner_loop(lambda w: jnp.sum(w**2), w, of, 2, hyperparams=settings)
        assert run.params.dtype == run.losses.dtype == jnp.float32


def test_pairs_and_values_for_each_leaf():
    """A function may give whatever a setting may be."""
    peak = jnp.asarray(PEAK)
    rate = lambda t: jmeta.PerLeaf({"a": peak * (1 - t / 7), "b": peak * (t / 7)})
    betas = lambda t: (1 - (t + 1) / 9, 1 - (t + 2) / 11)
    params = {"a": 1.0, "b": 1.0}
    settings = {"lr": rate, "betas": betas}
    loop = lambda hyperparams: inner_loop(
        lambda p: p["a"] ** 2 + p["b"] ** 4, params, jmeta.optim.adam(), 2,
        hyperparams=hyperparams,
    )  # fmt: skip
    t = jnp.arange(2.0)
    per_step = {
        "lr": jmeta.PerStep(
            jmeta.PerLeaf({"a": peak * (1 - t / 7), "b": peak * (t / 7)})
        ),
        "betas": (1 - (t + 1) / 9, 1 - (t + 2) / 11),
    }
    found, expected = loop(settings).params, loop(per_step).params
    assert_trees_close(found, expected, rtol=F64_SAME)


def test_the_optimizers_state_is_of_the_precision_that_it_starts_with():
    """One from a run in float32 goes on in float64, and the other way round."""
    tx = jmeta.optim.sgd(0.1, momentum=0.5)
    single, double = (jnp.ones(2, dtype) for dtype in (jnp.float32, jnp.float64))
    objective = lambda w: jnp.sum(w**2)
    for mine, other in ((single, double), (double, single)):
        opt_state = inner_loop(objective, other, tx, 1).opt_state
        run = inner_loop(objective, mine, tx, 2, opt_state=opt_state)
        assert run.opt_state.momentum_buffer.dtype == mine.dtype
        assert run.opt_state.step == 3
