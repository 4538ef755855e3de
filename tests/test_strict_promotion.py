"""What users mix on purpose is promoted as by default where JAX promotes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import inner_loop, optim, schedules

F32, F64 = jnp.float32, jnp.float64
BASE = {
    "step": lambda lr: schedules.step_lr(lr, 2),
    "multi_step": lambda lr: schedules.multi_step_lr(lr, [1, 3]),
    "constant": schedules.constant_lr,
    "exponential": lambda lr: schedules.exponential_lr(lr, 0.9),
    "linear": schedules.linear_lr,
    "polynomial": schedules.polynomial_lr,
    "lambda": lambda lr: schedules.lambda_lr(lr, lambda step: 1 / (1 + step)),
    "cosine": lambda lr: schedules.cosine_annealing_lr(lr, 5),
    "restarts": lambda lr: schedules.cosine_annealing_warm_restarts(lr, 2, 2),
    "cyclic": lambda lr: schedules.cyclic_lr(0.1, lr, 2, mode="exp_range", gamma=0.9),
    "one_cycle": lambda lr: schedules.one_cycle_lr(lr, 10),
    "warmup": lambda lr: schedules.warmup_cosine(lr, 2, 5),
    "sequential": lambda lr: schedules.sequential_lr(
        [schedules.constant_lr(lr), schedules.linear_lr(0.1)], [2]
    ),
}
DTYPES = [(F32, F64), (F64, F32), (F32, jnp.bfloat16)]


def assert_as_by_default(fun):
    """The same dtypes and the same bits."""
    with jax.numpy_dtype_promotion("standard"):
        expected = fun()
    with jax.numpy_dtype_promotion("strict"):
        found = fun()
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("name", BASE)
@pytest.mark.parametrize("dtype", [F32, F64])
def test_schedules_of_any_precision(name, dtype):
    assert_as_by_default(lambda: BASE[name](dtype(0.3))(jnp.arange(3, dtype=jnp.int32)))


@pytest.mark.parametrize("own", [F32, F64])
def test_plateau(own):
    plateau = schedules.reduce_lr_on_plateau(own(0.5), patience=0, min_lr=F32(0.2))

    def states():
        state = plateau.init()
        found = []
        for metric in (F64(1.0), F32(2.0), F64(3.0), F64(4.0)):
            state = plateau.update(metric, state)
            found.append(state)
        return found

    assert_as_by_default(states)


@pytest.mark.parametrize(("setting", "param"), DTYPES)
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_loops_whose_settings_are_of_another_precision(name, setting, param):
    def meta_loss(lr, start):
        run = inner_loop(
            lambda w: jnp.sum(w**4), start, getattr(optim, name)(lr), 3,
            active=jnp.int8(2), history=True,
        )  # fmt: skip
        return run.mean_loss.astype(F64) + jnp.sum(run.history.astype(F64))

    at = setting(0.01), jnp.ones((2, 2), param)
    grad = jax.grad(meta_loss, (0, 1))
    assert_as_by_default(lambda: jax.jit(grad)(*at))
    # a promotion fails where it is traced
    second = jax.grad(lambda lr: grad(lr, at[1])[0])
    assert jax.eval_shape(second, at[0]).dtype == setting


@pytest.mark.parametrize(("shift", "param"), [(F32, F64), (F64, F32)])
def test_perturbations_of_another_precision(shift, param):
    def meta_loss(perturbations):
        run = inner_loop(
            lambda w: jnp.sum(w**4), jnp.ones(2, param), optim.sgd(0.1), 3,
            perturbations=perturbations,
        )  # fmt: skip
        assert run.params.dtype == param
        return jnp.sum(run.params)

    assert_as_by_default(lambda: jax.grad(meta_loss)(jnp.zeros((4, 2), shift)))


@pytest.mark.parametrize(("setting", "param"), DTYPES)
@pytest.mark.parametrize("debias", [False, True])
def test_averages(setting, param, debias):
    def averages():
        average = jmeta.EMA(setting(0.9), warmup=True, debias=debias)
        state = average.init(jnp.ones(2, param))
        state = average.update(state, jnp.full(2, 3, param))
        tx = optax.chain(optim.sgd(setting(0.1)), jmeta.ema(setting(0.9)))
        params = jnp.ones(2, param)
        return state, tx.update(params, tx.init(params), params)

    assert_as_by_default(averages)
