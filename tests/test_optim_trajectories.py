"""Trajectories and states of every optimizer equal torch's over 12 steps."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from tests.helpers import F64_TORCH, assert_trees_close
from tests.optimizer_cases import (
    STEPS,
    flags,
    floats,
    hypergradient,
    problem,
    transform,
)
from tests.reference.read import case, cases

TRAJECTORIES = {r["name"]: r for r in cases("trajectories") if "groups" not in r}
AVERAGED = [name for name, row in TRAJECTORIES.items() if "ax" in row]
SPARSE = {row["name"]: row for row in cases("sparse_adam")}
# two settings that torch and another common form of the update treat differently
WRONG = {
    "sgd_dampening/mlp": {"dampening": 0.0},
    "adam_eps/mlp": {"eps": 1e-8},
    "adagrad_lr_decay/mlp": {"lr_decay": 0.0},
    "asgd_strong/mlp": {"alpha": 0.75},
}


def settings_of(name: str) -> dict[str, Any]:
    """Every numeric setting of a recorded trajectory."""
    return case("hypergradients", f"{name}/T1")["settings"]


@functools.cache
def run_of(name: str) -> Any:
    row = TRAJECTORIES[name]
    run = hypergradient(row["problem"], row["optimizer"], flags(row["kwargs"]))
    return run(STEPS, settings_of(name)).run


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_parameters_losses_and_state_equal_torch(name):
    row, run = TRAJECTORIES[name], run_of(name)
    tree = problem(row["problem"]).tree
    assert_trees_close(jax.vmap(tree)(run.history), row["params"], rtol=F64_TORCH)
    assert_trees_close(run.losses, row["losses"][:STEPS], rtol=F64_TORCH)
    assert_trees_close(
        tree(run.params), {k: v[-1] for k, v in row["params"].items()}, rtol=F64_TORCH
    )
    assert np.abs(run.params - run.history[0]).max() > 1e-3
    for leaf, recorded in row["state"].items():
        assert recorded or row["optimizer"] == "SGD"
        for field, value in recorded.items():
            got = getattr(run.opt_state, field)
            got = tree(got)[leaf] if np.ndim(value) else got
            assert_trees_close(got, value, rtol=F64_TORCH, atol=1e-15)


@pytest.mark.parametrize("name", WRONG)
def test_another_setting_gives_other_parameters(name):
    row = TRAJECTORIES[name]
    run = hypergradient(row["problem"], row["optimizer"], flags(row["kwargs"]))
    other = run(STEPS, settings_of(name) | WRONG[name]).run
    assert np.abs(other.params - run_of(name).params).max() > 1e-4


@pytest.mark.parametrize("name", AVERAGED)
def test_averages_of_asgd_equal_torch(name):
    row = TRAJECTORIES[name]
    task = problem(row["problem"])
    tx = transform(row["optimizer"], flags(row["kwargs"]))

    @jax.jit
    def average(settings, steps):
        run = jmeta.inner_loop(
            task.inner, task.start, tx, STEPS, hyperparams=settings, active=steps
        )
        return task.tree(run.opt_state.ax)

    along = jax.vmap(average, in_axes=(None, 0))
    averages = along(floats(settings_of(name)), jnp.arange(1, STEPS + 1))
    assert_trees_close(averages, row["ax"], rtol=F64_TORCH)


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_adam_equals_torch(name):
    row = SPARSE[name]
    tx = jmeta.optim.sparse_adam(maximize=row["kwargs"].get("maximize", False))

    def objective(table, batch):
        indices, targets = batch
        return jnp.mean((table[indices] - targets) ** 2)

    @jax.jit
    def evaluate(settings, table):
        def outer(settings, table):
            run = jmeta.inner_loop(
                objective,
                table,
                tx,
                STEPS,
                batches=(jnp.asarray(row["indices"]), jnp.asarray(row["targets"])),
                hyperparams=settings,
                history=True,
            )
            return jnp.mean((run.params - row["wanted"]) ** 2), run

        return jax.value_and_grad(outer, argnums=(0, 1), has_aux=True)(settings, table)

    (value, run), (d_settings, d_table) = evaluate(
        floats(row["settings"]), jnp.asarray(row["params"][0])
    )
    assert_trees_close(run.history, row["params"], rtol=F64_TORCH)
    assert_trees_close(run.losses, row["losses"], rtol=F64_TORCH)
    for field, recorded in row["state"].items():
        assert_trees_close(getattr(run.opt_state, field), recorded, rtol=F64_TORCH)
    assert_trees_close(value, row["outer"], rtol=F64_TORCH)
    atol = 1e-11 * row["outer"]
    assert_trees_close(d_settings, row["d_settings"], rtol=1e-6, atol=atol)
    assert_trees_close(d_table, row["d_params"], rtol=1e-6, atol=atol)
    # the row that no batch reaches
    assert_trees_close(run.params[6], row["params"][0][6], rtol=0.0)
