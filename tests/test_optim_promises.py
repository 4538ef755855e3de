"""What every optimizer promises, row by row."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import jmeta
from tests.helpers import (
    F64_DIFFERENCE,
    F64_SAME,
    assert_trees_close,
    central_difference,
    compilations,
)

STEPS = 3
rng = np.random.default_rng(3)
# matrices, since Muon takes nothing else
PARAMS = {"a": rng.normal(size=(3, 1)), "b": rng.normal(size=(2, 2))}
TARGET = {"a": rng.normal(size=(3, 1)), "b": rng.normal(size=(2, 2))}


class Row(NamedTuple):
    """An optimizer with all its numeric settings.

    Attributes:
        settings: Numbers away from every kink.
        static: Other arguments.
        by_parameter: Whether a parameter's update is its own; L-BFGS mixes them.
    """

    settings: dict[str, Any]
    static: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    by_parameter: bool = True

    def make(self, name: str) -> Any:
        return getattr(jmeta.optim, name)(**self.settings, **self.static)


MOMENTS = {"lr": 0.1, "betas": (0.8, 0.9), "eps": 0.01}
ROWS = {
    "sgd": Row({"lr": 0.1, "momentum": 0.5, "dampening": 0.2, "weight_decay": 0.1}),
    "adam": Row(MOMENTS | {"weight_decay": 0.1}),
    "adamw": Row(MOMENTS | {"weight_decay": 0.1}, {"amsgrad": True}),
    "nadam": Row(MOMENTS | {"weight_decay": 0.1, "momentum_decay": 0.02}),
    # rectified from the second step on
    "radam": Row(MOMENTS | {"betas": (0.8, 0.99), "weight_decay": 0.1}),
    "adagrad": Row(
        {
            "lr": 0.1,
            "lr_decay": 0.1,
            "weight_decay": 0.1,
            "initial_accumulator_value": 0.2,
            "eps": 0.01,
        }
    ),
    "adadelta": Row({"lr": 0.7, "rho": 0.8, "eps": 0.01, "weight_decay": 0.1}),
    "adafactor": Row(
        {
            "lr": 0.1,
            "beta2_decay": -0.7,
            "eps": (0.01, 0.3),
            "d": 1.2,
            "weight_decay": 0.1,
        }
    ),
    "muon": Row(
        {
            "lr": 0.1,
            "weight_decay": 0.1,
            "momentum": 0.8,
            "ns_coefficients": (3.0, -3.2, 1.2),
            "eps": 0.01,
        },
        {"ns_steps": 2},
    ),
    "rmsprop": Row(
        {"lr": 0.1, "alpha": 0.9, "eps": 0.01, "weight_decay": 0.1, "momentum": 0.5},
        {"centered": True},
    ),
    "adamax": Row(MOMENTS | {"weight_decay": 0.1}),
    "asgd": Row(
        {"lr": 0.1, "lambd": 0.1, "alpha": 0.6, "t0": 1.5, "weight_decay": 0.1}
    ),
    "rprop": Row({"lr": 0.1, "etas": (0.6, 1.4), "step_sizes": (0.01, 0.12)}),
    "sparse_adam": Row(MOMENTS),
    "lbfgs": Row({"lr": 0.5}, {"max_iter": 2, "history_size": 2}, by_parameter=False),
}
BY_PARAMETER = [name for name, row in ROWS.items() if row.by_parameter]
# the scans of L-BFGS take ten seconds operation by operation, and five to compile
SLOW_LBFGS = [
    pytest.param(name, marks=() if row.by_parameter else pytest.mark.slow)
    for name, row in ROWS.items()
]
# operation by operation: some seconds each, and all alike
EAGER = [
    pytest.param(name, marks=() if name in ("sgd", "adam") else pytest.mark.slow)
    for name in ROWS
]
SECOND_MOMENT = ("adam", "adamw", "nadam", "radam", "sparse_adam")
SECOND_ORDER = (
    *("sgd", "adam", "rmsprop", "muon"),
    pytest.param("adafactor", marks=pytest.mark.slow),
)
INACTIVE = {"adafactor": 3, "muon": 1}
"""How many settings do nothing: bounds on what is large enough."""


def objective(params: Any) -> jax.Array:
    """Convex, not quadratic, with every entry coupled."""
    offsets = jax.tree.map(lambda p, t: p - t, params, TARGET)
    flat = ravel_pytree(offsets)[0]
    return jnp.sum(flat**2) + 0.1 * jnp.sum(flat**4) + 0.3 * jnp.sum(jnp.sin(flat)) ** 2


def train(tx: Any, params: Any, **options: Any) -> Any:
    return jmeta.inner_loop(objective, params, tx, STEPS, **options)


def meta_loss(name: str, settings: Any, params: Any) -> jax.Array:
    tx = ROWS[name].make(name)
    run = train(tx, params, hyperparams=settings)
    leaves = jax.tree.leaves((run.params, run.opt_state))
    floats = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
    return sum(jnp.sum(jnp.sin(x)) for x in floats) + run.losses.sum()


def hypergradient(name: str) -> Callable[..., Any]:
    return jax.value_and_grad(functools.partial(meta_loss, name), argnums=(0, 1))


@functools.cache
def compiled(name: str) -> Callable[..., Any]:
    return jax.jit(hypergradient(name))


@pytest.mark.parametrize("name", EAGER)
def test_jit_is_eager(name):
    settings = ROWS[name].settings
    with jax.disable_jit():
        eager = hypergradient(name)(settings, PARAMS)
    got = compiled(name)(settings, PARAMS)
    assert_trees_close(got, eager, rtol=F64_SAME, atol=F64_SAME)
    assert abs(got[1][0]["lr"]) > 1e-3


@pytest.mark.parametrize("name", SLOW_LBFGS)
def test_vmap_is_a_loop(name):
    factors = np.array([1.0, 0.9, 0.95])
    each = [
        jax.tree.map(lambda x, f=f: np.asarray(x * f), (ROWS[name].settings, PARAMS))
        for f in factors
    ]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    mapped = jax.jit(jax.vmap(hypergradient(name)))(*stacked)
    for i, args in enumerate(each):
        got = jax.tree.map(lambda x, i=i: x[i], mapped)
        one = compiled(name)(*args)
        assert_trees_close(got, one, rtol=F64_SAME, atol=F64_SAME)
    assert np.ptp(mapped[0]) > 1e-3


@pytest.mark.parametrize("name", ROWS)
def test_low_precision_parameters_keep_exact_settings(name):
    with jax.enable_x64(False):
        tx = getattr(jmeta.optim, name)(**ROWS[name].static)
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), PARAMS)
        own = tx.init(params).hyperparams
        loss = lambda p: sum(jnp.sum(x**2) for x in jax.tree.leaves(p))
        loop = functools.partial(jmeta.inner_loop, loss, tx=tx, steps=STEPS)
        runs = [
            jax.eval_shape(functools.partial(loop, hyperparams=overrides), params)
            for overrides in ({}, {"lr": 0.1})
        ]
    for run in runs:
        assert {x.dtype.name for x in jax.tree.leaves(run.params)} == {"bfloat16"}
        settings = jax.tree.leaves(run.opt_state.hyperparams)
        assert {x.dtype.name for x in settings} == {"float32"}
    if "betas" in own:
        assert [float(beta) for beta in own["betas"]] == [
            np.float32(0.9),
            np.float32(0.999),
        ]


@pytest.mark.parametrize("name", SECOND_MOMENT)
def test_second_moments_move_in_low_precision(name):
    """0.999 rounds to 1 in bfloat16, with which they would stay 0."""
    with jax.enable_x64(False):
        tx = getattr(jmeta.optim, name)()
        params = jnp.asarray([1.0, -2.0], jnp.bfloat16)
        _, state = jax.jit(tx.update)(3 * params, tx.init(params), params)
        assert state.exp_avg_sq.dtype == jnp.bfloat16
        # three digits
        assert_trees_close(state.exp_avg_sq, jnp.array([0.009, 0.036]), rtol=4e-3)


@pytest.mark.parametrize("name", ROWS)
def test_a_second_step_compiles_nothing(name):
    tx = ROWS[name].make(name)

    @jax.jit
    def step(params, state):
        grads = jax.grad(objective)(params)
        updates, state = tx.update(grads, state, params, value_fn=objective)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.asarray, PARAMS)
    params, state = step(params, tx.init(params))
    with compilations() as names:
        for _ in range(STEPS):
            params, state = step(params, state)
    assert not names
    assert state.step == STEPS + 1


@pytest.mark.parametrize("name", ROWS)
def test_in_a_chain(name):
    tx = ROWS[name].make(name)
    chained = optax.chain(optax.identity(), tx)

    @jax.jit
    def both(lr):
        override = {"lr": lr}
        plain = train(tx, PARAMS, hyperparams=override)
        inside = train(chained, PARAMS, hyperparams=override)
        return plain.params, inside.params, plain.opt_state, inside.opt_state[1]

    plain, inside, state, inside_state = both(0.07)
    assert_trees_close(inside, plain, rtol=0.0)
    assert_trees_close(inside_state, state, rtol=0.0)
    assert np.abs(plain["a"] - PARAMS["a"]).max() > 1e-3


@pytest.mark.parametrize("name", BY_PARAMETER)
def test_in_groups(name):
    """Two groups with rates of their own: each as if it were alone."""
    make = lambda: ROWS[name].make(name)
    tx = jmeta.optim.param_groups(
        {"a": make(), "b": make()}, labels=lambda path: path[0]
    )

    @jax.jit
    def both(lr):
        rates = jmeta.PerLeaf({"a": lr, "b": 0.5 * lr})
        plain = train(make(), PARAMS, hyperparams={"lr": rates}).params
        labelled = {"a": lr, "b": 0.5 * lr}
        return plain, train(tx, PARAMS, hyperparams={"lr": labelled}).params

    plain, grouped = both(0.07)
    assert_trees_close(grouped, plain, rtol=F64_SAME)
    assert np.abs(plain["b"] - PARAMS["b"]).max() > 1e-3


@pytest.mark.parametrize("name", ROWS)
def test_foreign_arguments_are_ignored(name):
    tx = ROWS[name].make(name)
    state = tx.init(PARAMS)

    def traced(**foreign):
        def update(grads, state):
            return tx.update(grads, state, PARAMS, value_fn=objective, **foreign)

        return str(jax.make_jaxpr(update)(TARGET, state))

    assert traced(foreign=1.0, labels=None) == traced()


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_second_derivatives_equal_central_differences(name):
    at, back = ravel_pytree((ROWS[name].settings, PARAMS))
    direction = np.random.default_rng(4).normal(size=at.shape)
    # settings are small: they must stay positive
    direction[: len(jax.tree.leaves(ROWS[name].settings))] *= 0.01
    f = lambda x: meta_loss(name, *back(x))
    first = jax.jit(jax.grad(f))
    second = jax.jit(lambda x: jax.grad(lambda y: jax.grad(f)(y) @ direction)(x))(at)
    expected = central_difference(first, at, direction, step=1e-5)
    assert np.isfinite(expected).all()
    assert (np.abs(expected) < 1e-9).sum() == INACTIVE.get(name, 0)
    scale = np.abs(expected).max()
    assert_trees_close(second, expected, rtol=F64_DIFFERENCE, atol=1e-9 * scale)
