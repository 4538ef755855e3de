import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jmeta import inner_loop, optim, schedules as S
from tests.helpers import (
    F32,
    F64_DIFFERENCE,
    F64_SAME,
    F64_TORCH,
    assert_trees_close,
    compilations,
    finite_difference_grad,
)
from tests.reference.read import case, cases

STEPS = np.arange(241)

# torch's class: our function, and whether it takes the optimizer's rate as its base
OURS = {
    "StepLR": (S.step_lr, True),
    "MultiStepLR": (S.multi_step_lr, True),
    "ConstantLR": (S.constant_lr, True),
    "LinearLR": (S.linear_lr, True),
    "ExponentialLR": (S.exponential_lr, True),
    "PolynomialLR": (S.polynomial_lr, True),
    "CosineAnnealingLR": (S.cosine_annealing_lr, True),
    "CosineAnnealingWarmRestarts": (S.cosine_annealing_warm_restarts, True),
    "OneCycleLR": (S.one_cycle_lr, False),
    "CyclicLR": (S.cyclic_lr, False),
}
MOMENTUM = {"OneCycleLR": S.one_cycle_momentum, "CyclicLR": S.cyclic_momentum}
RATE_ONLY = ("base_lr", "max_lr", "div_factor", "final_div_factor")
MOMENTUM_ONLY = ("base_momentum", "max_momentum")
LAMBDAS = {
    "1 / (1 + 0.05 t)": lambda t: 1 / (1 + 0.05 * t.astype(float)),
    "0.98 ** t": lambda t: 0.98 ** t.astype(float),
}


def of_group(kwargs, group, without=()) -> dict[str, Any]:
    """A scheduler's arguments for one parameter group."""
    return {
        name: value[group]
        if isinstance(value, list) and name != "milestones"
        else value
        for name, value in kwargs.items()
        if name not in (*without, "cycle_momentum")
    }


def ours(scheduler, base_lr, kwargs, group=0):
    """Our schedule for torch's scheduler of one parameter group."""
    if scheduler == "SequentialLR":
        parts = [ours(name, base_lr, k) for name, k in kwargs["schedulers"]]
        return S.sequential_lr(parts, kwargs["milestones"])
    if scheduler == "LambdaLR":
        return S.lambda_lr(base_lr, LAMBDAS[kwargs["lr_lambda"][group]])
    make, needs_base = OURS[scheduler]
    kwargs = of_group(kwargs, group, MOMENTUM_ONLY)
    return make(base_lr, **kwargs) if needs_base else make(**kwargs)


def named(rows):
    return pytest.mark.parametrize("row", rows, ids=lambda row: row["name"])


@named(cases("schedules"))
def test_rates_are_torchs(row):
    for group, base_lr in enumerate(row["base_lrs"]):
        schedule = ours(row["scheduler"], base_lr, row["kwargs"], group)
        rates, expected = schedule(STEPS), row["lrs"][:, group]
        assert rates.dtype == jnp.float64
        # torch multiplies on from the rate before, and its rounding adds up
        atol = F64_SAME * expected.max()
        assert_trees_close(rates, expected, rtol=F64_SAME, atol=atol)
        # the compiler may replace a quotient by a product
        assert_trees_close(jax.jit(schedule)(STEPS), expected, F64_SAME, atol)
        assert np.ptp(expected) > 0.1 * expected.max()


def warmup_cosine(row, peak):
    """The recorded pair of schedulers, as one."""
    (_, rise), (_, fall) = row["kwargs"]["schedulers"]
    assert [rise["total_iters"]] == row["kwargs"]["milestones"]
    return S.warmup_cosine(peak, **rise, **fall)


@named([row for row in cases("schedules") if row["name"].startswith("warmup_cosine")])
def test_warmup_cosine_is_torchs_sequence(row):
    for group, peak in enumerate(row["base_lrs"]):
        expected = row["lrs"][:, group]
        got = warmup_cosine(row, peak)(STEPS)
        # torch's cosine is a recursion
        assert_trees_close(got, expected, F64_SAME, atol=F64_SAME * peak)


def test_warmup_cosine_as_lr_and_as_an_override_learns_its_peak():
    """The same run both ways, and its derivatives by central differences."""
    values = {"peak": 0.1, "start_factor": 0.3, "end_factor": 0.9, "eta_min": 0.01}
    loss = lambda w: jnp.sum(jnp.cos(w) * jnp.arange(1.0, 4.0))

    def trained(values, as_override):
        schedule = S.warmup_cosine(total_iters=2, T_max=4, **values)
        tx = optim.sgd() if as_override else optim.sgd(lr=schedule)
        override = {"lr": schedule} if as_override else None
        run = inner_loop(loss, jnp.ones(3), tx, 6, hyperparams=override)
        return jnp.sum(run.params**2)

    ways = [jax.jit(functools.partial(trained, as_override=w)) for w in (True, False)]
    override, as_lr = (jax.grad(way)(values) for way in ways)
    expected = finite_difference_grad(ways[0], values)
    assert_trees_close(override, expected, rtol=F64_DIFFERENCE)
    assert_trees_close(as_lr, expected, rtol=F64_DIFFERENCE)
    assert min(abs(float(g)) for g in override.values()) > 1e-3


@named([row for row in cases("schedules") if "momentum" in row])
def test_momentum_cycles_as_torchs(row):
    for group in range(2):
        kwargs = of_group(row["kwargs"], group, RATE_ONLY)
        momentum = MOMENTUM[row["scheduler"]](**kwargs)
        expected = row["momentum"][:, group]
        assert_trees_close(momentum(STEPS), expected, rtol=F64_SAME)
        assert np.ptp(expected) > 0.05


@named(cases("schedules"))
def test_rates_in_float32_keep_its_precision(row):
    with jax.enable_x64(False):
        schedule = ours(row["scheduler"], row["base_lrs"][0], row["kwargs"])
        rates = schedule(STEPS)
        assert rates.dtype == jnp.float32
        # a whole number of waves later, the same
        expected = row["lrs"][:, 0]
        assert_trees_close(rates, expected, rtol=F32, atol=F32 * expected.max())
        late = S.cosine_annealing_lr(1.0, 7)(14 * 10**6 + STEPS)
        assert_trees_close(late, S.cosine_annealing_lr(1.0, 7)(STEPS), rtol=F32)


LEARNED = {
    "step": lambda v: S.step_lr(v["lr"], 2, v["gamma"]),
    "multi_step": lambda v: S.multi_step_lr(v["lr"], [0, 2, 2], v["gamma"]),
    "constant": lambda v: S.constant_lr(v["lr"], v["gamma"], 3),
    "exponential": lambda v: S.exponential_lr(v["lr"], v["gamma"]),
    "linear": lambda v: S.linear_lr(v["lr"], v["power"], v["gamma"], 4),
    "polynomial": lambda v: S.polynomial_lr(v["lr"], 4, v["power"]),
    "lambda": lambda v: S.lambda_lr(
        v["lr"], lambda t: 1 / (1 + v["gamma"] * t.astype(float))
    ),
    "cosine": lambda v: S.cosine_annealing_lr(v["lr"], 3, v["eta_min"]),
    "restarts": lambda v: S.cosine_annealing_warm_restarts(v["lr"], 2, 2, v["eta_min"]),
    "one_cycle": lambda v: S.one_cycle_lr(
        v["lr"], 7, div_factor=1 + v["power"], final_div_factor=2 + v["gamma"]
    ),
    "one_cycle_momentum": lambda v: S.one_cycle_momentum(
        7, base_momentum=v["gamma"], max_momentum=v["power"], three_phase=True
    ),
    "cyclic": lambda v: S.cyclic_lr(
        v["eta_min"], v["lr"], 2, 3, mode="exp_range", gamma=v["gamma"]
    ),
    "cyclic_momentum": lambda v: S.cyclic_momentum(
        v["eta_min"], v["lr"], 2, mode="triangular2"
    ),
    "warmup_cosine": lambda v: S.warmup_cosine(
        v["lr"], 2, 4, start_factor=v["power"], end_factor=0.8, eta_min=v["eta_min"]
    ),
    "sequential": lambda v: S.sequential_lr(
        [
            S.exponential_lr(v["lr"], v["gamma"]),
            S.one_cycle_lr(v["lr"], 3, pct_start=0.5),
            S.lambda_lr(v["lr"], lambda t: jnp.sqrt(v["power"] + t.astype(float))),
        ],
        [2, 5],
    ),
}
VALUES = {"lr": 0.3, "gamma": 0.7, "power": 0.9, "eta_min": 0.01}
# gamma is on the edge of its range, and every schedule stays differentiable there
CORNER = {"lr": 0.3, "gamma": 0.0, "power": 1.0, "eta_min": 0.0}
WEIGHTS = np.array([0.3, -1.1, 0.7, 1.9, -0.4, 0.8, 1.3])


@pytest.mark.parametrize("values", [VALUES, CORNER], ids=["inside", "corner"])
@pytest.mark.parametrize("make", LEARNED.values(), ids=LEARNED)
def test_settings_are_differentiable(make, values):
    @jax.jit
    def weighted(values):
        return (WEIGHTS * jax.vmap(make(values))(jnp.arange(7))).sum()

    grad = jax.jit(jax.grad(weighted))(values)
    expected = finite_difference_grad(weighted, values)
    assert_trees_close(grad, expected, rtol=F64_DIFFERENCE, atol=F64_DIFFERENCE)
    assert sum(abs(float(g)) for g in grad.values()) > 0.1
    hessian = jax.jit(jax.hessian(weighted))(values)
    chex.assert_tree_all_finite(hessian)


@pytest.mark.parametrize("make", LEARNED.values(), ids=LEARNED)
def test_schedules_are_one_per_task_under_vmap(make):
    factors = jnp.array([0.5, 1.0])
    at = jax.jit(lambda factor: make({**VALUES, "lr": factor * 0.3})(jnp.arange(7)))
    assert_trees_close(
        jax.vmap(at)(factors), jnp.stack([at(f) for f in factors]), rtol=F64_SAME
    )


def test_one_cycle_is_nan_where_torch_raises():
    rates = S.one_cycle_lr(0.5, 10)(jnp.arange(13))
    assert jnp.isfinite(rates[:11]).all()
    assert jnp.isnan(rates[11:]).all()


def test_cyclic_takes_a_scale_of_the_users():
    by_cycle = S.cyclic_lr(0.1, 1.1, 2.5, scale_fn=lambda n: 1 / n)
    by_step = S.cyclic_lr(
        0.1, 1.1, 2, scale_fn=lambda t: 1 / (1 + t), scale_mode="iterations"
    )
    assert_trees_close(
        by_cycle(jnp.array([0, 1, 5, 6, 7])),
        np.array([0.1, 0.5, 0.1, 0.3, 0.5]),
        rtol=F64_SAME,
    )
    assert_trees_close(
        by_step(jnp.arange(4)),
        np.array([0.1, 0.1 + 0.5 / 2, 0.1 + 1 / 3, 0.1 + 0.5 / 4]),
        rtol=F64_SAME,
    )


def test_sequence_skips_a_schedule_without_steps():
    parts = [S.constant_lr(float(i), 0.5, 100) for i in (2, 4, 6)]
    rates = S.sequential_lr(parts, [3, 3])(jnp.arange(5))
    assert rates.tolist() == [1.0, 1.0, 1.0, 3.0, 3.0]
    assert S.sequential_lr(parts[:1], [])(0) == 1.0


PROBLEM = case("problems", "mlp")


def mlp_loss(params, x, y):
    hidden = jnp.tanh(x @ params["0.weight"].T + params["0.bias"][None])
    outputs = hidden @ params["2.weight"].T + params["2.bias"][None]
    return ((outputs - y) ** 2).mean()


def train(lr, params, optimizer, kwargs):
    """Outer loss after 20 steps, with the final parameters and the rates as aux."""
    tx = getattr(optim, optimizer.lower())(**{**kwargs, "lr": lr})

    def step(carry, _):
        params, state = carry
        grads = jax.grad(mlp_loss)(params, PROBLEM["x"], PROBLEM["y"])
        updates, new_state = tx.update(grads, state, params)
        new_params = optax.apply_updates(params, updates)
        return (new_params, new_state), state.hyperparams["lr"]

    carry = params, tx.init(params)
    (final, _), lrs = jax.lax.scan(step, carry, length=20)
    return mlp_loss(final, PROBLEM["x_val"], PROBLEM["y_val"]), (final, lrs)


@functools.cache
def through_a_table(optimizer, kwargs):
    """`train` with its gradients, for any schedule by the table of its 21 rates."""

    def outer(table, params):
        return train(lambda step: table[step], params, optimizer, dict(kwargs))

    return jax.jit(jax.value_and_grad(outer, argnums=(0, 1), has_aux=True))


def recorded_schedule(row, values):
    learned = {name: value for name, value in values.items() if name != "base_lr"}
    make, _ = OURS[row["scheduler"]]
    return make(values["base_lr"], **row["scheduler_kwargs"], **learned)


@named(cases("schedule_hypergradients"))
def test_hypergradients_of_a_scheduled_run_are_torchs(row):
    params = jax.tree.map(jnp.asarray, PROBLEM["params"])
    table, pull = jax.vjp(
        lambda values: recorded_schedule(row, values)(jnp.arange(21)), row["values"]
    )
    run = through_a_table(row["optimizer"], tuple(row["kwargs"].items()))
    (loss, (final, lrs)), (d_table, d_params) = run(table, params)
    assert row["steps"] == 20
    assert_trees_close(lrs, row["lrs"], rtol=F64_SAME)
    assert_trees_close(loss, row["outer"], rtol=F64_TORCH)
    assert_trees_close(final, row["final"], rtol=F64_TORCH)
    (d_values,) = pull(d_table)
    assert_trees_close(d_values, row["d_values"], rtol=F64_TORCH, atol=F64_SAME)
    assert_trees_close(d_params, row["d_params"], rtol=F64_TORCH, atol=F64_SAME)
    assert np.abs(final["0.weight"] - PROBLEM["params"]["0.weight"]).max() > 0.01


@named(
    [
        row
        for row in cases("schedule_hypergradients")
        if row["name"] in ("step/adam", "linear/sgd")
    ]
)
def test_hypergradients_of_a_schedule_given_as_lr_are_torchs(row):
    params = jax.tree.map(jnp.asarray, PROBLEM["params"])

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def outer(values):
        schedule = recorded_schedule(row, values)
        return train(schedule, params, row["optimizer"], row["kwargs"])

    (loss, (_, lrs)), d_values = outer(row["values"])
    assert_trees_close(lrs, row["lrs"], rtol=F64_SAME)
    assert_trees_close(loss, row["outer"], rtol=F64_TORCH)
    assert_trees_close(d_values, row["d_values"], rtol=F64_TORCH, atol=F64_SAME)


def test_a_later_step_compiles_nothing():
    schedule = jax.jit(S.one_cycle_lr(0.5, 100))
    steps = [jnp.asarray(t) for t in range(3)]
    schedule(steps[0])
    with compilations() as compiled:
        schedule(steps[1])
        schedule(steps[2])
    assert not compiled
