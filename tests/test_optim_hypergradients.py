"""Hypergradients of every optimizer equal recorded, difference-checked values."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta import Unroll
from tests.helpers import F64_DIFFERENCE, F64_TORCH, assert_trees_close
from tests.optimizer_cases import (
    Result,
    assert_hypergradients,
    flags,
    floats,
    hypergradient,
    problem,
    ravel,
    transform,
)
from tests.reference.read import cases

RECORDED = {row["name"]: row for row in cases("hypergradients")}
CORNERS = {row["name"]: row for row in cases("corner_cases")}
RUNS = sorted({name.rpartition("/")[0] for name in RECORDED})
TIMES = (1, 5, 12)

ADJOINTS = [
    Unroll(mixed=mixed, checkpoint=checkpoint)
    for mixed in (True, False)
    for checkpoint in (None, "step", "nested")
]
# each flag is compiled anew, so only those without are run under all by default
UNROLLED = [
    pytest.param(
        name,
        adjoint,
        marks=() if quick else pytest.mark.slow,
        id=f"{name}-mixed={adjoint.mixed}-{adjoint.checkpoint}",
    )
    for adjoint in ADJOINTS
    if adjoint != Unroll()
    for name in RUNS
    for row in [RECORDED[f"{name}/T1"]]
    if row["optimizer"] in ("SGD", "Adam", "AdamW")
    for quick in [
        row["problem"] == "mlp"
        and not flags(row["kwargs"])
        and row["optimizer"] != "AdamW"
    ]
]


def of_kind(kind: str) -> list[str]:
    return [name for name, row in CORNERS.items() if row["kind"] == kind]


def evaluate(row: dict[str, Any], **options: Any) -> Result:
    """The run of a recorded case."""
    run = hypergradient(
        row["problem"], row["optimizer"], flags(row["kwargs"]), **options
    )
    return run(row["steps"], row["settings"])


@pytest.mark.parametrize("name", RUNS)
def test_every_setting_and_initial_parameter(name):
    for steps in TIMES:
        row = RECORDED[f"{name}/T{steps}"]
        result = evaluate(row)
        assert_hypergradients(result, row)
        assert set(result.d_settings) == set(row["d_settings"])
        assert np.abs(result.d_settings["lr"]) > 0


@pytest.mark.parametrize(("name", "adjoint"), UNROLLED)
def test_every_way_to_unroll(name, adjoint):
    for steps in TIMES:
        row = RECORDED[f"{name}/T{steps}"]
        assert_hypergradients(evaluate(row, adjoint=adjoint), row)


@pytest.mark.parametrize("name", of_kind("zero"))
def test_settings_of_exactly_0(name):
    row = CORNERS[name]
    assert 0 in [x for v in row["settings"].values() for x in np.atleast_1d(v)]
    assert_hypergradients(evaluate(row), row)


@pytest.mark.parametrize("name", of_kind("branch"))
def test_branching_from_a_trained_optimizer(name):
    """The state is a constant; its step counter is that of the first four steps."""
    row = CORNERS[name]
    start = row["start"]
    tx = transform(row["optimizer"], flags(row["kwargs"]))
    fresh = tx.init(problem(row["problem"]).start)
    leaves = list(start["state"].values())
    fields = {"started": jnp.array(True)} if hasattr(fresh, "started") else {}
    for field in leaves[0]:
        values = {leaf: start["state"][leaf][field] for leaf in start["state"]}
        scalar = np.ndim(leaves[0][field]) == 0
        value = jnp.asarray(leaves[0][field]) if scalar else ravel(values)
        fields[field] = value.astype(getattr(fresh, field).dtype)

    run = hypergradient(row["problem"], row["optimizer"], flags(row["kwargs"]))
    params, settings = ravel(start["params"]), row["settings"]
    result = run(row["steps"], settings, params, fresh._replace(**fields))
    assert_hypergradients(result, row)
    final = result.run.history[row["steps"]]
    assert_trees_close(final, ravel(row["final"]), rtol=F64_TORCH)
    afresh = run(row["steps"], settings, params).run.history[row["steps"]]
    assert np.abs(final - afresh).max() > 1e-4


@pytest.mark.parametrize("name", of_kind("average"))
def test_average_of_asgd(name):
    row = CORNERS[name]
    assert_hypergradients(evaluate(row, judge="ax"), row)


@pytest.mark.parametrize("name", of_kind("second_lr"))
def test_second_derivative_in_lr(name):
    row = CORNERS[name]
    second = second_derivative(row["problem"], row["optimizer"], flags(row["kwargs"]))
    settings = floats(row["settings"])
    got = second(settings, settings["lr"], row["steps"])
    assert abs(row["d2_lr"]) > 1e-3
    assert_trees_close(got, row["d2_lr"], rtol=F64_DIFFERENCE, atol=1e-11)


@functools.cache
def second_derivative(problem_name: str, optimizer: str, flags: tuple[str, ...]) -> Any:
    task, tx = problem(problem_name), transform(optimizer, flags)

    @jax.jit
    def second(settings, lr, time):
        def outer(lr):
            run = jmeta.inner_loop(
                task.inner,
                task.start,
                tx,
                5,
                hyperparams=settings | {"lr": lr},
                history=True,
            )
            return task.outer(run.history[time])

        return jax.grad(jax.grad(outer))(lr)

    return second


def test_names_are_those_of_torch():
    for row in RECORDED.values():
        tx = transform(row["optimizer"])
        assert set(tx.init(jnp.ones(1)).hyperparams) == set(row["settings"])
