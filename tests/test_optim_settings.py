"""What settings may be: pairs as lists, traced values, arrays, schedules."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta import PerLeaf, PerStep, optim
from tests.helpers import F64_SAME, assert_trees_close

PAIRS = {
    "adam": {"betas": (0.8, 0.9)},
    "adamw": {"betas": (0.8, 0.9)},
    "nadam": {"betas": (0.8, 0.9)},
    "radam": {"betas": (0.8, 0.9)},
    "adamax": {"betas": (0.8, 0.9)},
    "sparse_adam": {"betas": (0.8, 0.9)},
    "rprop": {"etas": (0.6, 1.4), "step_sizes": (0.01, 0.12)},
    "adafactor": {"eps": (0.5, 0.3)},
    "muon": {"ns_coefficients": (3.0, -3.2, 1.2)},
}
OPTIMIZERS = [
    name
    for name in vars(optim)
    if not name.startswith("_") and name not in ("finite", "param_groups")
    if inspect.isfunction(getattr(optim, name))
]
STEPS = 3


def loss(w):
    return jnp.sum(jnp.sin(w) * jnp.array([[1.0, -0.5], [0.7, 2.0]]))


def final(tx, hyperparams=None):
    start = jnp.array([[0.3, -0.8], [1.1, 0.4]])
    return jmeta.inner_loop(loss, start, tx, STEPS, hyperparams=hyperparams).params


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_is_a_tuple_or_a_list(name):
    make = getattr(optim, name)
    as_lists = {k: list(v) for k, v in PAIRS[name].items()}
    ways = jax.jit(
        lambda: {
            "tuple": final(make(**PAIRS[name])),
            "list": final(make(**as_lists)),
            "override": final(make(), as_lists),
            "callable": final(
                make(), {k: lambda t, v=v: v for k, v in as_lists.items()}
            ),
            "per step": final(
                make(),
                {k: [jnp.full(STEPS, x) for x in v] for k, v in as_lists.items()},
            ),
            "default": final(make()),
        }
    )()
    for way in ("list", "override", "callable", "per step"):
        assert_trees_close(ways[way], ways["tuple"], rtol=F64_SAME)
    assert np.abs(ways["default"] - ways["tuple"]).max() > 1e-9
    hyperparams = make(**as_lists).init(jnp.ones((2, 2))).hyperparams
    assert all(isinstance(hyperparams[k], tuple) for k in as_lists)


def test_a_list_for_a_pair_in_groups_and_in_steps():
    tx = optim.param_groups({"w": optim.adam()}, labels=lambda path: "w")
    run = lambda tx, override: final_of_tree(tx, {"betas": override})
    assert_trees_close(
        run(tx, {"w": [0.5, 0.9]}), run(optim.adam(), (0.5, 0.9)), rtol=F64_SAME
    )
    by_step = PerStep([jnp.full(STEPS, 0.5), jnp.full(STEPS, 0.9)])
    by_leaf = [PerLeaf({"w": 0.5}), 0.9]
    for way in (by_step, by_leaf):
        assert_trees_close(
            run(optim.adam(), way), run(optim.adam(), (0.5, 0.9)), rtol=F64_SAME
        )


def final_of_tree(tx, hyperparams):
    start = {"w": jnp.array([[0.3, -0.8], [1.1, 0.4]])}
    run = jmeta.inner_loop(
        lambda p: loss(p["w"]), start, tx, STEPS, hyperparams=hyperparams
    )
    return run.params


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_constructors_take_traced_values_and_arrays(name):
    """No constructor looks at the value of a setting that has none yet."""
    make = getattr(optim, name)
    own = make().init(jnp.ones((2, 2))).hyperparams

    @jax.jit
    def traced(settings):
        return make(**settings).init(jnp.ones((2, 2))).hyperparams

    assert_trees_close(traced(own), own, rtol=0.0)
    # out of every range: what is learned may cross a bound
    outside = jax.tree.map(lambda x: jnp.asarray(-1.5), own)
    assert_trees_close(make(**outside).init(jnp.ones((2, 2))).hyperparams, outside, 0.0)


def test_nesterov_with_a_momentum_that_is_not_known():
    traced = jax.jit(lambda m: final(optim.sgd(momentum=m, nesterov=True)))(0.5)
    schedule = final(optim.sgd(momentum=lambda step: 0.5, nesterov=True))
    known = final(optim.sgd(momentum=0.5, nesterov=True))
    overridden = final(optim.sgd(momentum=0.1, nesterov=True), {"momentum": 0.5})
    for other in (traced, schedule, overridden):
        assert_trees_close(other, known, rtol=F64_SAME)
    assert np.abs(known - final(optim.sgd(momentum=0.5))).max() > 1e-4
