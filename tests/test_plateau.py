import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jmeta import optim
from jmeta.schedules import reduce_lr_on_plateau
from tests.helpers import (
    F64_DIFFERENCE,
    F64_SAME,
    assert_trees_close,
    finite_difference_grad,
)
from tests.reference.read import cases

ROWS = cases("plateau")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_rates_and_counters_are_torchs(row):
    for group, base_lr in enumerate(row["base_lrs"]):
        kwargs = dict(row["kwargs"])
        if isinstance(kwargs.get("min_lr"), list):
            kwargs["min_lr"] = kwargs["min_lr"][group]
        plateau = reduce_lr_on_plateau(base_lr, **kwargs)

        def watch(state, metric, plateau=plateau):
            state = plateau.update(metric, state)
            return state, state

        start = plateau.init()
        _, states = jax.lax.scan(watch, start, jnp.asarray(row["metrics"]))
        states = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, states)
        assert_trees_close(states.lr, row["lrs"][:, group], rtol=F64_SAME)
        for name in ("num_bad_epochs", "cooldown_counter"):
            assert np.array_equal(getattr(states, name), row[name]), name
        assert np.array_equal(states.best, row["best"])


def test_the_recorded_rates_drop():
    drops = [(np.diff(row["lrs"], axis=0) < 0).sum() for row in ROWS]
    assert sum(count > 0 for count in drops) > len(ROWS) / 2


def test_rate_is_differentiable_and_sets_an_optimizers_rate():
    @jax.jit
    def trained(values):
        plateau = reduce_lr_on_plateau(
            values["lr"], factor=values["factor"], patience=1, min_lr=values["min_lr"]
        )
        tx = optim.sgd(lr=0.0)

        def step(carry, metric):
            params, opt_state, state = carry
            opt_state = optax.tree.set(opt_state, lr=state.lr)
            updates, opt_state = tx.update(2 * params, opt_state, params)
            params = optax.apply_updates(params, updates)
            return (params, opt_state, plateau.update(metric, state)), state.lr

        params = jnp.array([1.0, -2.0])
        carry = params, tx.init(params), plateau.init()
        (params, *_), lrs = jax.lax.scan(step, carry, jnp.ones(8))
        return jnp.sum(jnp.asarray(params) ** 3), lrs

    values = {"lr": 0.2, "factor": 0.5, "min_lr": 0.06}
    (_, lrs), grad = jax.value_and_grad(trained, has_aux=True)(values)
    expected = [0.2, 0.2, 0.2, 0.1, 0.1, 0.06, 0.06, 0.06]
    assert_trees_close(lrs, np.array(expected), rtol=F64_SAME)
    difference = finite_difference_grad(lambda v: trained(v)[0], values)
    assert_trees_close(grad, difference, rtol=F64_DIFFERENCE)


def test_each_task_has_its_own_plateau_under_vmap():
    plateau = reduce_lr_on_plateau(0.5, factor=0.5, patience=0)

    def final(metrics):
        return jax.lax.scan(
            lambda state, metric: (plateau.update(metric, state), None),
            plateau.init(),
            metrics,
        )[0].lr

    assert jax.vmap(final)(jnp.array([[3.0, 2.0], [3.0, 3.0]])).tolist() == [0.5, 0.25]


def test_state_keeps_its_dtypes_as_a_carry():
    lr = jnp.array(0.5, jnp.float32)
    plateau = reduce_lr_on_plateau(lr, min_lr=np.float64(0.1))
    state = plateau.init()
    after = plateau.update(jnp.array(1.0, jnp.bfloat16), state)
    assert jax.tree.map(jnp.result_type, after) == jax.tree.map(jnp.result_type, state)


WRONG = {
    "mode": (dict(mode="down"), "`mode` must be 'min' or 'max'; got 'down'"),
    "threshold_mode": (dict(threshold_mode="x"), "`threshold_mode` must be"),
    "factor": (dict(factor=1.0), "`factor` must be less than 1; got 1.0"),
}


@pytest.mark.parametrize(("kwargs", "message"), WRONG.values(), ids=WRONG)
def test_wrong_settings_raise(kwargs, message):
    with pytest.raises(ValueError, match=message):
        reduce_lr_on_plateau(0.1, **kwargs)
