"""Adafactor and Muon equal torch in numbers and derivatives, whatever the shapes."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta import ForwardMode, PerLeaf
from tests.helpers import (
    F64_DIFFERENCE,
    F64_SAME,
    F64_TORCH,
    assert_trees_close,
    central_difference,
)
from tests.optimizer_cases import LOSSES, STEPS, floats
from tests.reference.read import case, cases

ROWS = {row["name"]: row for row in cases("by_shape")}
TIMES = (1, 5, 12)
BFLOAT16 = 5e-3
"""torch's own Muon against its rule in float64, measured at up to 2.8e-3."""
NUMERIC = {
    "Adafactor": ("lr", "beta2_decay", "eps", "d", "weight_decay"),
    "Muon": ("lr", "weight_decay", "momentum", "ns_coefficients", "eps"),
}


def losses(row: dict[str, Any]) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """The inner and outer objective of the parameters that are trained."""
    if row["problem"] == "axes":
        apart = lambda p: p["k"] - p["s"] * row["m"]
        inner = lambda p: jnp.mean(row["c"] * apart(p) ** 2) + 0.1 * (p["s"] - 2) ** 2
        return inner, lambda p: jnp.mean((p["k"] - 0.5) ** 2) + (p["s"] + 1) ** 2
    if row["problem"] == "zero_matrix":
        inner = lambda p: 0.5 * jnp.sum(row["c"] * p["w"] ** 2)
        return inner, lambda p: jnp.mean((p["w"] - row["c"]) ** 2)
    inner, outer = LOSSES[row["problem"]]
    frozen = {k: jnp.asarray(v[0]) for k, v in row["params"].items()}
    return lambda p: inner(frozen | p), lambda p: outer(frozen | p)


def trained(row: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    """Of a tree by torch's names the leaves that the optimizer has."""
    return {k: jnp.asarray(v) for k, v in tree.items() if row["state"][k]}


def start_of(row: dict[str, Any]) -> dict[str, Any]:
    return trained(row, {k: v[0] for k, v in row["params"].items()})


def hypergradient(name: str, adjoint: Any = None) -> Callable[..., Any]:
    """`(time, settings, params) -> ((outer, run), (d_settings, d_params))`, compiled.

    Rows that differ in numeric settings alone share it.
    """
    row = ROWS[name]
    numeric = NUMERIC[row["optimizer"]]
    static = tuple((k, v) for k, v in row["kwargs"].items() if k not in numeric)
    alike = ("problem", "optimizer")
    of = next(n for n in ROWS if all(ROWS[n][key] == row[key] for key in alike))
    return compiled(of, static, adjoint or jmeta.Unroll())


@functools.cache
def compiled(of, static, adjoint):
    row = ROWS[of]
    inner, outer = losses(row)
    tx = getattr(jmeta.optim, row["optimizer"].lower())(**dict(static))

    @jax.jit
    def evaluate(time, settings, params):
        def judged(settings, params):
            run = jmeta.inner_loop(
                inner,
                params,
                tx,
                STEPS,
                hyperparams=settings,
                history=True,
                adjoint=adjoint,
            )
            return outer(jax.tree.map(lambda x: x[time], run.history)), run

        grad = jax.value_and_grad(judged, argnums=(0, 1), has_aux=True)
        return grad(settings, params)

    return evaluate


@pytest.mark.parametrize("name", ROWS)
def test_parameters_state_and_hypergradients_equal_torch(name):
    row = ROWS[name]
    evaluate, start = hypergradient(name), start_of(row)
    for steps in TIMES:
        recorded = row["hypergradients"][f"T{steps}"]
        settings = floats(recorded["settings"])
        (value, run), (d_settings, d_params) = evaluate(steps, settings, start)
        atol = 1e-11 * abs(recorded["outer"])
        assert_trees_close(value, recorded["outer"], rtol=F64_TORCH)
        assert_trees_close(
            d_settings, floats(recorded["d_settings"]), F64_DIFFERENCE, atol
        )
        given = trained(row, recorded["d_params"])
        assert_trees_close(d_params, given, F64_DIFFERENCE, atol)
    path = trained(row, row["params"])
    assert_trees_close(run.history, path, F64_TORCH, atol=1e-15)
    assert_trees_close(run.losses, row["losses"][:STEPS], F64_TORCH, atol=1e-15)
    for leaf, state in row["state"].items():
        for field, expected in state.items():
            got = getattr(run.opt_state, field)
            got = got if field == "step" else got[leaf]
            assert_trees_close(got, expected, F64_TORCH, atol=1e-15)
    moved = max(np.abs(np.diff(v, axis=0)).max() for v in path.values())
    assert moved > 1e-3 or row["problem"] == "zero_matrix" or settings["lr"] == 0


def test_every_setting_has_a_derivative_somewhere():
    for optimizer, names in NUMERIC.items():
        derived = [
            row["hypergradients"][f"T{steps}"]["d_settings"]
            for row in ROWS.values()
            if row["optimizer"] == optimizer
            for steps in TIMES
        ]
        assert set(derived[0]) == set(names)
        for setting in names:
            entries = np.stack([np.atleast_1d(d[setting]) for d in derived])
            assert (np.abs(entries).max(axis=0) > 1e-4).all(), setting


@pytest.mark.parametrize("name", ["adafactor_all/mlp", "muon_eps/mlp"])
def test_forward_mode(name):
    row = ROWS[name]
    recorded = row["hypergradients"]["T5"]
    evaluate = hypergradient(name, ForwardMode(limit=128))
    settings = floats(recorded["settings"])
    _, (d_settings, d_params) = evaluate(5, settings, start_of(row))
    assert_trees_close(d_settings, floats(recorded["d_settings"]), F64_DIFFERENCE, 1e-9)
    given = trained(row, recorded["d_params"])
    assert_trees_close(d_params, given, F64_DIFFERENCE, 1e-9)


@pytest.mark.parametrize("name", [n for n, r in ROWS.items() if "bfloat16_params" in r])
def test_muon_in_bfloat16_is_torchs_own(name):
    row = ROWS[name]
    inner, _ = losses(row)
    expected = trained(row, row["bfloat16_params"])

    def path(dtype):
        tx = jmeta.optim.muon(**row["kwargs"], ns_dtype=dtype)
        run = lambda p: jmeta.inner_loop(inner, p, tx, STEPS, history=True)
        return jax.jit(run)(start_of(row)).history

    def apart(one):
        return max(np.abs(one[k] - v).max() for k, v in expected.items())

    in_bfloat16, in_float64 = path(jnp.bfloat16), path(None)
    assert 1e-4 < apart(in_float64) < BFLOAT16
    # equal to 3e-16 here; but the order of sums in bfloat16 is the compiler's
    assert apart(in_bfloat16) < 0.5 * apart(in_float64)


def curvature(optimizer: str, settings: dict[str, Any]) -> Callable[..., Any]:
    """The gradient of an outer loss where all matrices and all gradients are 0."""
    weights = jnp.array([[1.0, -0.5, 0.3], [0.2, 0.8, -1.1]])

    def outer(lr, w):
        tx = getattr(jmeta.optim, optimizer)(**settings)
        inner = lambda w: 0.5 * jnp.sum(w**2 * weights**2)
        run = jmeta.inner_loop(inner, w, tx, 3, hyperparams={"lr": lr})
        return jnp.sum((run.params - weights) ** 2)

    return jax.grad(outer, argnums=(0, 1))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("adafactor", {"eps": (0.5, 0.1)}),
        ("muon", {"eps": 0.5, "ns_steps": 2}),
        ("adafactor", {}),
        ("muon", {}),
        ("adafactor", {"eps": (0.0, 0.0)}),
        ("muon", {"eps": 0.0}),
    ],
)
def test_second_derivatives_at_zero(name, settings):
    grad = curvature(name, settings)
    at, direction = (0.05, jnp.zeros((2, 3))), (0.3, jnp.full((2, 3), 0.2))
    second = lambda x, d: jax.jvp(lambda x: grad(*x), (x,), (d,))[1]
    found = jax.jit(second)(at, direction)
    chex.assert_tree_all_finite((found, jax.jit(grad)(*at)))
    # with a large eps the update is smooth there, so that there are differences
    if np.max(settings.get("eps", 0.0)) > 0.1:
        f = jax.jit(lambda x: grad(*x))
        expected = central_difference(f, at, direction, step=1e-3)
        assert_trees_close(found, expected, rtol=F64_DIFFERENCE, atol=1e-8)
        assert max(np.abs(x).max() for x in jax.tree.leaves(expected)) > 0.1


def test_nones_epsilon_is_that_of_the_dtype():
    tx: Any = jmeta.optim.adafactor()
    own = lambda params: tx.init(params).hyperparams["eps"][0]
    single, half = jnp.zeros((2, 2), jnp.float32), jnp.zeros(2, jnp.bfloat16)
    assert own(jnp.zeros(2)) == 2.0**-52
    assert own(single) == 2.0**-23
    mixed = own({"a": single, "b": half})
    assert isinstance(mixed, PerLeaf)
    assert mixed.tree == {"a": 2.0**-23, "b": 2.0**-7}
    params = {"a": single, "b": half}
    updates, _ = tx.update(params, tx.init(params), params)
    assert updates["b"].dtype == jnp.bfloat16


def test_settings_differ_between_parameters():
    params = {"a": jnp.ones((2, 3)), "b": jnp.arange(6.0).reshape(3, 2) + 1}
    grads = jax.tree.map(jnp.cos, params)
    each = {
        "adafactor": {"lr": (0.3, 0.1), "d": (1.0, 1.5), "weight_decay": (0.1, 0.2)},
        "muon": {"lr": (0.3, 0.1), "eps": (3.0, 0.1), "momentum": (0.5, 0.9)},
    }
    for name, settings in each.items():
        make = getattr(jmeta.optim, name)
        both: Any = make(
            **{k: PerLeaf({"a": v, "b": w}) for k, (v, w) in settings.items()}
        )
        together, _ = both.update(grads, both.init(params), params)
        for i, leaf in enumerate(params):
            tx: Any = make(**{k: v[i] for k, v in settings.items()})
            one = {leaf: params[leaf]}
            alone, _ = tx.update({leaf: grads[leaf]}, tx.init(one), one)
            assert_trees_close(together[leaf], alone[leaf], rtol=F64_SAME)
        assert np.abs(together["a"]).max() > 1e-3


def test_a_function_adjusts_the_rate_of_muon():
    kernel = jnp.asarray(case("problems", "mlp")["params"]["0.weight"].T)
    grads = jnp.cos(kernel)
    as_torch = lambda shape: max(1, shape[1] / shape[0]) ** 0.5
    step = lambda tx, w, g: tx.update(g, tx.init(w), w)[0]
    flax = step(jmeta.optim.muon(adjust_lr_fn=as_torch), kernel, grads)
    torch = step(jmeta.optim.muon(), kernel.T, grads.T).T
    assert_trees_close(flax, torch, rtol=F64_SAME)
    assert np.abs(flax - step(jmeta.optim.muon(), kernel, grads)).max() > 1e-4
