"""Which device axes of a `jax.shard_map` values differ over."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec as P

import jmeta
from jmeta._core.varying import in_shard_map, make_varying, varying_axes
from tests.helpers import F64_SAME, assert_trees_close

ROWS, COLUMNS = P("row"), P("column")


def mesh():
    axes = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((2, 2), ("row", "column"), axis_types=axes)


def test_outside_nothing_varies():
    tree = {"a": jnp.ones(2), "b": None, "c": 1.0, "f": jnp.sin}
    assert not in_shard_map()
    assert varying_axes(tree) == frozenset()
    assert make_varying(tree["a"], frozenset()) is tree["a"]


def test_axes():
    seen = {}

    def look(x, y, z):
        seen["in"] = in_shard_map()
        seen["each"] = [varying_axes(a) for a in (x, y, z)]
        seen["tree"] = varying_axes({"x": x, "y": [y], "z": z, "lr": jnp.sin})
        seen["literal"] = varying_axes((1.0, None))
        both = make_varying({"x": x, "z": z}, frozenset({"row", "column"}))
        seen["vary"] = [varying_axes(a) for a in both.values()]
        seen["key"] = varying_axes(make_varying(jax.random.key(0), frozenset({"row"})))
        return x + y + z

    x = jnp.arange(2.0)
    specs = {"in_specs": (ROWS, COLUMNS, P()), "out_specs": P(("row", "column"))}
    jax.eval_shape(jax.shard_map(look, mesh=mesh(), **specs), x, x, x[:1])
    row, column = frozenset({"row"}), frozenset({"column"})
    assert seen == {
        "in": True,
        "each": [row, column, frozenset()],
        "tree": row | column,
        "literal": frozenset(),
        "vary": [row | column, row | column],
        "key": row,
    }


def loop(w, lr, center, place):
    """`center` differs over devices; it reaches the loop at one place."""
    objective = lambda w, c: jnp.sum(jnp.cosh(w - c))
    kwargs: dict[str, Any] = {"hyperparams": {"lr": lr}}
    match place:
        case "batch":
            kwargs["batch"] = center
        case "batches":
            kwargs["batches"] = jnp.stack([center] * 3)
        case "captured":
            objective = lambda w: jnp.sum(jnp.cosh(w - center))
        case "hyperparams":
            kwargs |= {"hyperparams": {"lr": lr * center[0]}, "batch": lr}
        case "schedule":
            kwargs["hyperparams"] = {"lr": lambda t: lr * center[0]}
            kwargs["batch"] = lr
        case "params":
            w, kwargs["batch"] = w * center, lr
        case "opt_state":
            kwargs["opt_state"] = jmeta.optim.sgd(lr=center[0], momentum=0.5).init(w)
            kwargs |= {"hyperparams": None, "batch": lr}
        case "grad_callback":
            kwargs |= {"grad_callback": lambda g: g * center, "batch": lr}
        case "active":
            kwargs |= {"active": 1 + (center[0] > 0.5).astype(int), "batch": lr}
        case "perturbations":
            kwargs |= {"perturbations": jnp.ones((4, 1)) * center[None], "batch": lr}
    tx = jmeta.optim.sgd(momentum=0.5)
    return jmeta.inner_loop(objective, w, tx, 3, **kwargs)


PLACES = (
    "batch batches captured hyperparams schedule params opt_state grad_callback active"
    " perturbations"
)


@pytest.mark.parametrize("adjoint_inside", [True, False], ids=["inside", "outside"])
@pytest.mark.parametrize("place", PLACES.split())
def test_wherever_a_difference_enters(place, adjoint_inside):
    centers = jnp.asarray(np.random.default_rng(0).uniform(0.2, 0.8, size=2))

    def mean(w, lr, center):
        return jax.lax.pmean(jnp.sum(loop(w, lr, center, place).params ** 3), "row")

    def spread(fun):
        specs = {"in_specs": (P(), P(), ROWS), "out_specs": P()}
        return jax.shard_map(fun, mesh=mesh(), **specs)

    args = jnp.array([0.4]), jnp.array(0.3)
    if adjoint_inside:
        fun = jax.grad(mean, argnums=(0, 1))
        found = jax.jit(spread(fun))(*args, centers)
    else:
        fun = jax.grad(lambda args: spread(mean)(*args, centers))
        found = jax.jit(fun)(args)
    one = lambda w, lr, c: jnp.sum(loop(w, lr, c, place).params ** 3)
    grads = jax.vmap(jax.grad(one, argnums=(0, 1)), (None, None, 0))
    expected = jax.tree.map(
        lambda g: g.mean(0), jax.jit(grads)(*args, centers[:, None])
    )
    assert_trees_close(found, expected, rtol=F64_SAME, atol=1e-14)
