"""Plots show the numbers that they are given and leave global state alone."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest

import jmeta
from tests.helpers import F64_SAME, assert_trees_close

mpl.use("agg")

import matplotlib.pyplot as plt


@pytest.fixture(autouse=True)
def _closed_figures() -> Iterator[None]:
    style = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == style


def run(lrs, **options):
    return jmeta.inner_loop(
        lambda p: jnp.sum((p["w"] - 3.0) ** 2) + p["b"] ** 2,
        {"w": jnp.array([1.0, 2.0]), "b": jnp.array(0.5)},
        jmeta.optim.sgd(),
        4,
        hyperparams={"lr": lrs},
        **options,
    )


def curves(ax):
    """By label, without the axis at 0."""
    lines = {line.get_label(): line.get_ydata() for line in ax.get_lines()}
    return {name: y for name, y in lines.items() if not name.startswith("_")}


def test_hypergradients_of_rates_per_step():
    lrs = jnp.full(4, 0.1)
    grad = jax.grad(lambda lrs: jnp.sum(run(lrs).params["w"] ** 2))(lrs)
    ax = jmeta.plot.hypergradients({"lr": grad})
    assert_trees_close(curves(ax), {"lr": grad}, F64_SAME)
    assert ax.get_yscale() == "symlog"


def test_hypergradients_of_perturbations():
    zeros = {"w": jnp.zeros((5, 2)), "b": jnp.zeros(5)}
    grad = jax.grad(lambda d: jnp.sum(run(0.1, perturbations=d).params["w"] ** 2))(
        zeros
    )
    ax = jmeta.plot.hypergradients(grad)
    norms = np.linalg.norm(grad["w"], axis=1)
    assert_trees_close(curves(ax), {"b": grad["b"], "norm of w": norms}, F64_SAME)
    assert (norms > 0).all()


def test_losses():
    one = run(0.1)
    assert_trees_close(
        curves(jmeta.plot.losses(one)), {"inner loss": one.losses}, F64_SAME
    )
    both = {"slow": run(0.01), "fast": run(0.3).losses}
    expected = {"slow": both["slow"].losses, "fast": both["fast"]}
    assert_trees_close(curves(jmeta.plot.losses(both)), expected, F64_SAME)


def test_losses_of_a_batch_are_a_band():
    batch = jax.vmap(lambda lr: run(lr))(jnp.array([0.05, 0.1, 0.2]))
    ax = jmeta.plot.losses(batch)
    assert_trees_close(curves(ax), {"inner loss": batch.losses.mean(0)}, F64_SAME)
    assert len(ax.collections) == 1


def test_history():
    kept = run(0.1, history=True)
    ax = jmeta.plot.history(kept)
    way = kept.history["w"] - kept.history["w"][:1]
    expected = {
        "b": jnp.abs(kept.history["b"] - 0.5),
        "w": jnp.linalg.norm(way, axis=1),
    }
    assert_trees_close(curves(ax), expected, F64_SAME)


@pytest.mark.parametrize("draw", ["hypergradients", "losses", "history"])
def test_draws_on_the_axes_that_it_is_given(draw):
    data = {
        "hypergradients": jnp.array([1.0, -2.0]),
        "losses": run(0.1),
        "history": run(0.1, history=True),
    }[draw]
    _, axes = plt.subplots(1, 2)
    assert getattr(jmeta.plot, draw)(data, ax=axes[1]) is axes[1]
    assert not axes[0].has_data()
    assert len(plt.get_fignums()) == 1
    axes[1].figure.canvas.draw()


def test_hypergradients_that_are_zero_or_not_finite_are_drawn():
    ax = jmeta.plot.hypergradients(jnp.array([0.0, jnp.nan, 0.0]))
    ax.figure.canvas.draw()


def test_adaptation():
    x = np.linspace(-1.0, 1.0, 5)
    outputs = {"0 steps": x[:, None] ** 2, "1 step": x**3, "10 steps": x**4}
    seen = np.array([[0.5], [-0.5]]), np.array([[1.0], [2.0]])
    ax = jmeta.plot.adaptation(
        x[::-1, None],
        {name: y[::-1] for name, y in outputs.items()},
        seen=seen,
        truth=np.sin(x[::-1]),
    )
    expected = {"truth": np.sin(x), "seen": seen[1][:, 0], "0 steps": x**2}
    assert_trees_close(
        curves(ax), expected | {"1 step": x**3, "10 steps": x**4}, F64_SAME
    )
    assert [line.get_linestyle() for line in ax.get_lines()[2:]] == [":", "--", "-"]
    one = np.array([[0.5]]), np.array([[2.0]])
    ax = jmeta.plot.adaptation(x, {"after": x}, seen=one)
    assert_trees_close(curves(ax), {"seen": one[1][:, 0], "after": x}, F64_SAME)


def test_accuracy_and_its_interval():
    rng = np.random.default_rng(0)
    values = rng.uniform(0.2, 0.8, size=(3, 600))
    ax = jmeta.plot.accuracy({"MAML": values}, np.array([0, 5, 10]), label="steps")
    assert_trees_close(curves(ax), {"MAML": values.mean(1)}, F64_SAME)
    (band,) = ax.collections
    vertices = band.get_paths()[0].vertices
    at_five = vertices[vertices[:, 0] == 5, 1]
    half = 1.96 * values[1].std(ddof=1) / np.sqrt(600)
    expected = values[1].mean() + half * np.array([-1, 1])
    assert_trees_close(np.sort(at_five), expected, F64_SAME)
    assert ax.get_xlabel() == "steps"

    ax = jmeta.plot.accuracy({"before": values[0], "after": values[2]})
    heights = [bar.get_height() for bar in ax.patches]
    assert_trees_close(heights, [values[0].mean(), values[2].mean()], F64_SAME)
