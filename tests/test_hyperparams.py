"""Overrides: every form a value may take, wherever the settings stand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jmeta import PerLeaf, PerStep, inner_loop
from jmeta.optim import adam, sgd
from jmeta.optim.hyperparams import _map_nodes, places
from tests.helpers import F64_SAME, assert_trees_close

STEPS = 4
RATES = np.array([0.3, 0.1, 0.0, 0.2])
LABELS = {"body": "slow", "head": "fast"}


def start():
    rng = np.random.default_rng(3)
    return {k: jnp.asarray(rng.normal(size=2)) for k in ("body", "head")}


def objective(params):
    return jnp.sum((params["body"] - 0.3) ** 4 + (params["body"] * params["head"]) ** 2)


def loop(tx, hyperparams=None, **kwargs):
    return inner_loop(objective, start(), tx, STEPS, hyperparams=hyperparams, **kwargs)


def by_hand(make, steps=STEPS):
    """Train with `make(t)` as the transform of step t; the states are alike."""
    params = start()
    opt_state = make(0).init(params)
    for t in range(steps):
        tx = make(t)
        # the constructor's settings of this step, and what has been accumulated
        fresh = [p.values for p in places(tx.init(params))]
        values = iter(fresh)
        opt_state = _map_nodes(
            lambda path, node: node._replace(hyperparams=next(values)),  # noqa: B023
            opt_state,
        )
        updates, opt_state = tx.update(jax.grad(objective)(params), opt_state, params)
        params = optax.apply_updates(params, updates)
    return params


def leaves(body, head):
    return PerLeaf({"body": jnp.asarray(body), "head": jnp.asarray(head)})


def groups(slow, fast):
    return optax.partition({"slow": sgd(lr=slow), "fast": sgd(lr=fast)}, LABELS)


def named(decay, sgd_decay):
    return optax.named_chain(
        ("first", sgd(lr=1.0, weight_decay=decay, maximize=True)),
        ("second", sgd(lr=0.1, weight_decay=sgd_decay)),
    )


injected = optax.inject_hyperparams(optax.sgd)
OVERRIDES = {
    "constant": (sgd(), {"lr": 0.1}, lambda t: sgd(lr=0.1)),
    "numpy": (sgd(), {"lr": np.float32(0.5)}, lambda t: sgd(lr=0.5)),
    "integer": (sgd(), {"lr": 0, "momentum": 1}, lambda t: sgd(lr=0.0, momentum=1.0)),
    "per step": (sgd(), {"lr": RATES}, lambda t: sgd(lr=RATES[t])),
    "PerStep": (sgd(), {"lr": PerStep(RATES)}, lambda t: sgd(lr=RATES[t])),
    "callable": (sgd(), {"lr": lambda t: 0.1 * t}, lambda t: sgd(lr=0.1 * t)),
    "over a schedule": (sgd(lr=lambda t: 1.0 + t), {"lr": 0.1}, lambda t: sgd(lr=0.1)),
    "two": (
        sgd(), {"lr": RATES, "momentum": 0.5}, lambda t: sgd(RATES[t], momentum=0.5),
    ),
    "pair": (
        adam(0.1), {"betas": (0.5, 0.7)}, lambda t: adam(0.1, betas=(0.5, 0.7)),
    ),
    "mixed pair": (
        adam(0.1), {"betas": (0.5, RATES)}, lambda t: adam(0.1, betas=(0.5, RATES[t])),
    ),
    "callable in a pair": (
        adam(0.1),
        {"betas": (lambda t: 0.1 * t, 0.7)},
        lambda t: adam(0.1, betas=(0.1 * t, 0.7)),
    ),
    "callable pair": (
        adam(0.1),
        {"betas": lambda t: (0.1 * t, 0.7)},
        lambda t: adam(0.1, betas=(0.1 * t, 0.7)),
    ),
    "PerStep pair": (
        adam(0.1),
        {"betas": PerStep((RATES, RATES))},
        lambda t: adam(0.1, betas=(RATES[t], RATES[t])),
    ),
    "PerLeaf": (sgd(), {"lr": leaves(0.1, 0.2)}, lambda t: groups(0.1, 0.2)),
    "PerLeaf prefix": (sgd(), {"lr": PerLeaf(0.1)}, lambda t: sgd(lr=0.1)),
    "PerLeaf callable": (
        sgd(), {"lr": lambda t: leaves(0.1 * t, 0.2)}, lambda t: groups(0.1 * t, 0.2),
    ),
    "PerLeaf per step": (
        sgd(),
        {"lr": PerStep(leaves(RATES, 2 * RATES))},
        lambda t: groups(RATES[t], 2 * RATES[t]),
    ),
    "group": (
        groups(0.3, 0.2), {"lr": {"slow": RATES}}, lambda t: groups(RATES[t], 0.2),
    ),
    "groups": (
        groups(1.0, 1.0), {"lr": {"slow": 0.1, "fast": RATES}},
        lambda t: groups(0.1, RATES[t]),
    ),
    "every group": (groups(0.3, 0.2), {"lr": 0.1}, lambda t: groups(0.1, 0.1)),
    "named part": (
        named(0.3, 0.2), {"weight_decay": {"first": 0.1}}, lambda t: named(0.1, 0.2),
    ),
    "named parts": (
        named(0.3, 0.2),
        {"weight_decay": {"first": 0.1, "second": 0.4}},
        lambda t: named(0.1, 0.4),
    ),
    "chain": (
        optax.chain(optax.clip(0.2), sgd()),
        {"lr": RATES},
        lambda t: optax.chain(optax.clip(0.2), sgd(lr=RATES[t])),
    ),
    "optax": (injected(0.3), {"learning_rate": RATES}, lambda t: injected(RATES[t])),
    "optax in a chain": (
        optax.chain(optax.clip(0.2), injected(0.3)),
        {"learning_rate": lambda t: 0.1 * t},
        lambda t: optax.chain(optax.clip(0.2), injected(0.1 * t)),
    ),
}  # fmt: skip


# rates that compute with the integer step
MIXED = {"over a schedule", "optax in a chain"} | {
    name for name in OVERRIDES if "callable" in name
}
mixes = pytest.mark.standard_promotion("a user's own function mixes dtypes")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=mixes if n in MIXED else ()) for n in OVERRIDES],
)
def test_overrides(name):
    """As if the transform had been built with the value, at each step; never stick."""
    tx, hyperparams, make = OVERRIDES[name]
    run = jax.jit(lambda: loop(tx, hyperparams))()
    expected = by_hand(make)
    assert_trees_close(run.params, expected, rtol=F64_SAME)
    own = places(loop(tx).opt_state)
    kept = places(run.opt_state)
    for found, wanted in zip(kept, own, strict=True):
        assert_trees_close(dict(found.values), dict(wanted.values), rtol=0)
    without = loop(tx).params
    moved = [jnp.any(jnp.abs(run.params[k] - without[k]) > 1e-5) for k in without]
    assert any(moved)


def test_elementwise_rates():
    """Meta-SGD: a rate for every entry, learned."""
    rates = {"body": jnp.array([0.1, 0.2]), "head": jnp.array([0.3, 0.0])}

    def meta_loss(rates):
        return jnp.sum(loop(sgd(), {"lr": PerLeaf(rates)}).params["body"] ** 3)

    def hand(rates):
        params = start()
        for _ in range(STEPS):
            grads = jax.grad(objective)(params)
            params = jax.tree.map(lambda p, r, g: p - r * g, params, rates, grads)
        return jnp.sum(params["body"] ** 3)

    value = jax.jit(jax.value_and_grad(meta_loss))
    assert_trees_close(value(rates), jax.value_and_grad(hand)(rates), rtol=F64_SAME)


def test_settings_per_step_sum_to_the_constant():
    tx = adam(0.1)

    def meta_loss(hyperparams):
        return jnp.sum(loop(tx, hyperparams).params["body"] ** 3)

    constant = {"lr": jnp.asarray(0.2), "betas": (jnp.asarray(0.8), jnp.asarray(0.9))}
    steps = jax.tree.map(lambda x: x * jnp.ones(STEPS), constant)
    grads = jax.jit(jax.grad(meta_loss))(constant)
    sums = jax.tree.map(jnp.sum, jax.jit(jax.grad(meta_loss))(steps))
    assert_trees_close(sums, grads, rtol=F64_SAME)
    captured = jax.grad(lambda lr: meta_loss(constant | {"lr": lambda t: lr}))(0.2)
    assert_trees_close(captured, grads["lr"], rtol=F64_SAME)
    built = jax.grad(
        lambda lr: jnp.sum(loop(adam(lr, betas=(0.8, 0.9))).params["body"] ** 3)
    )(0.2)
    assert_trees_close(built, grads["lr"], rtol=F64_SAME)


@mixes
def test_schedules_go_on_under_an_override():
    tx = sgd(lr=lambda step: 0.5 * 0.5**step, momentum=0.25)
    half = loop(tx, {"lr": 0.1, "momentum": 0.0})
    assert float(half.opt_state.hyperparams["lr"]) == 0.5 * 0.5**STEPS
    assert float(half.opt_state.hyperparams["momentum"]) == 0.25


def test_frozen_parameters_may_have_a_rate():
    only = functools.partial(loop, sgd(), trainable=lambda path: path == ("body",))
    found = only({"lr": leaves(0.1, 0.7)}).params
    assert_trees_close(found, only({"lr": 0.1}).params, rtol=F64_SAME)


def test_settings_keep_their_precision():
    """b2 = 0.999 would be 1 in bfloat16, and nothing would move."""
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), start())
    for b2 in (0.999, jnp.asarray(0.999, jnp.float32)):
        run = inner_loop(
            objective, params, adam(0.1), STEPS, hyperparams={"betas": (0.9, b2)}
        )
        assert run.params["body"].dtype == jnp.bfloat16
        assert jnp.all(jnp.isfinite(run.params["body"]))
        assert jnp.all(jnp.abs(run.params["body"] - params["body"]) > 0.1)
        assert float(run.opt_state.hyperparams["betas"][1]) == 0.999


def test_label_twice_is_refused():
    both = optax.named_chain(("all", optax.partition({"a": sgd(), "b": sgd()}, {
        "body": "a", "head": "b"})))  # fmt: skip
    with pytest.raises(ValueError, match="`lr` is overridden twice"):
        loop(both, {"lr": {"all": 0.1, "a": 0.2}})
