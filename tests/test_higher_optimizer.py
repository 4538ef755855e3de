"""The differentiable optimizer: overrides, branching, callbacks, learned settings."""

import jax
import jax.numpy as jnp
import optax
import pytest

import jmeta
from jmeta import (
    apply_trainable_opt_params,
    create_diff_optim,
    get_diff_optim,
    get_trainable_opt_params,
    inner_loop,
    innerloop_ctx,
    monkeypatch,
)
from tests.higher_cases import (
    SGD,
    TXS,
    apply_fn,
    assert_same,
    groups,
    line,
    mse,
    normal,
    problem,
    towards,
)

OVERRIDES = {
    "one value": ({"lr": [0.3]}, {"lr": 0.3}),
    "a bare value": ({"lr": 0.3}, {"lr": 0.3}),
    "a list in the order of the groups": (
        {"lr": [0.3, 0.02]},
        {"lr": {"z": 0.3, "a": 0.02}},
    ),
    "labels": ({"lr": {"a": 0.02}}, {"lr": {"a": 0.02}}),
    "two names": (
        {"lr": [0.3, 0.02], "momentum": [0.5]},
        {"lr": {"z": 0.3, "a": 0.02}, "momentum": 0.5},
    ),
    "an array of one": ({"lr": [jnp.ones((1,)) * 0.3]}, {"lr": 0.3}),
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_override(name):
    override, hyperparams = OVERRIDES[name]
    params, _, batch = problem()
    objective = lambda params: mse(apply_fn(params, batch[0]), batch[1])
    plain = inner_loop(objective, params, groups(), 2)
    want = inner_loop(objective, params, groups(), 2, hyperparams=hyperparams)
    assert jnp.abs(plain.params["b"] - want.params["b"]).max() > 1e-3
    for at_once in (True, False):
        diffopt = get_diff_optim(
            groups(), params, override=override if at_once else None
        )
        new = params
        for _ in range(2):
            step_override = None if at_once else override
            new = diffopt.step(objective, override=step_override, params=new)
        assert_same(new, want.params)


def test_override_of_a_pair():
    betas = 0.5, 0.6
    objective = lambda w: ((w - 3.0) ** 2).sum()
    first = jnp.array([1.0, 2.0])
    diffopt = get_diff_optim(TXS["adam"], first, override={"betas": [betas]})
    want = inner_loop(objective, first, TXS["adam"], 1, hyperparams={"betas": betas})
    assert_same(diffopt.step(objective, params=first), want.params)


def test_override_of_a_step_does_not_stick():
    fmodel, diffopt = line(1.0, override={"lr": [0.5]})
    diffopt.step(towards(fmodel, 0.0), override={"lr": [0.25]})
    assert_same(fmodel.fast_params, 0.5)
    diffopt.step(towards(fmodel, 2.0))
    assert_same(fmodel.fast_params, 2.0)
    assert_same(diffopt.opt_state.hyperparams["lr"], 0.1)


def test_override_by_step():
    """A callable counts all steps; an array has one value for each step of a run."""
    fmodel, diffopt = line(1.0, override={"lr": lambda step: (step + 1) / 8})
    diffopt.step(towards(fmodel, 0.0))
    assert_same(fmodel.fast_params, 0.75)
    diffopt.run(towards(fmodel, 0.0), 2)
    assert_same(fmodel.parameters(time=2), 0.375)
    assert_same(fmodel.parameters(time=3), 0.09375)
    diffopt.run(towards(fmodel, 0.0), 2, override={"lr": jnp.array([0.0, 0.25])})
    assert_same(fmodel.parameters(time=4), 0.09375)
    assert_same(fmodel.parameters(time=5), 0.046875)


def test_branching_from_a_trained_optimizer():
    params, _, val = problem()
    objective = lambda params: mse(apply_fn(params, val[0]), val[1])
    tx = jmeta.optim.adam(lr=0.05)
    warm = inner_loop(objective, params, tx, 2)
    want = inner_loop(objective, params, tx, 4)
    for track in (True, False):
        with innerloop_ctx(
            (apply_fn, warm.params),
            tx,
            opt_state=warm.opt_state,
            track_higher_grads=track,
        ) as (fmodel, diffopt):
            for _ in range(2):
                diffopt.step(lambda fmodel=fmodel: mse(fmodel(val[0]), val[1]))
            assert_same(fmodel.fast_params, want.params)
            assert_same(diffopt.opt_state, want.opt_state)
    fresh = inner_loop(objective, warm.params, tx, 2)
    assert jnp.abs(fresh.params["b"] - want.params["b"]).max() > 1e-4


def test_grad_callback():
    """The one of the step wins, for that step."""
    halve, none = lambda g: g / 2, lambda g: g * 0
    fmodel, diffopt = line(1.0, grad_callback=halve)
    diffopt.step(towards(fmodel, 0.0))
    diffopt.step(towards(fmodel, 0.0), grad_callback=none)
    diffopt.run(towards(fmodel, 0.0), 1)
    diffopt.run(towards(fmodel, 0.0), 1, grad_callback=none)
    times = [float(fmodel.parameters(time=t)) for t in range(1, 5)]
    assert_same(times, [0.9, 0.9, 0.81, 0.81])


def test_optimizer_without_model():
    """Images, labels, anything: the parameters are handed over at each step."""
    energy = lambda image: ((image["pixels"] - 1.0) ** 2).sum()
    image = {"pixels": normal(0, 2, 2)}

    def descend(make, image):
        diffopt = make(image)
        for _ in range(2):
            image = diffopt.step(energy, params=image)
        image = diffopt.run(energy, 2, params=image)
        return image["pixels"]

    got = descend(lambda image: get_diff_optim(SGD, image), image)
    assert_same(got, 1.0 + 0.8**4 * (image["pixels"] - 1.0))
    create = lambda image: create_diff_optim(jmeta.optim.sgd, {"lr": 0.1}, image)
    assert_same(descend(create, image), got)
    grad = jax.grad(lambda image: descend(create, image).sum())(image)
    assert_same(grad["pixels"], jnp.full((2, 2), 0.8**4))


def test_optimizer_created_for_a_model():
    fmodel = monkeypatch((jnp.multiply, 1.0), copy_initial_weights=False)
    diffopt = create_diff_optim(
        jmeta.optim.sgd,
        {"lr": 0.1},
        fmodel=fmodel,
        override={"lr": [0.5]},
        track_higher_grads=False,
    )
    assert_same(diffopt.step(towards(fmodel, 2.0)), 2.0)
    assert_same(create_diff_optim(jmeta.optim.sgd, params=1.0).opt_state.step, 0)


ADAM = jmeta.optim.adam(lr=0.5, betas=(0.8, 0.9))

INJECTED = optax.inject_hyperparams(optax.sgd)(learning_rate=0.5, nesterov=True)

SCHEDULED = jmeta.optim.sgd(lr=lambda step: 1 / (2 * step + 2), momentum=0.25)

SGD_VALUES = {"momentum": [0.0], "dampening": [0.0], "weight_decay": [0.0]}

TRAINABLE = {
    "sgd": (jmeta.optim.sgd(lr=0.5, nesterov=False), {"lr": [0.5]} | SGD_VALUES),
    "pair": (
        ADAM,
        {"lr": [0.5], "betas": [(0.8, 0.9)], "eps": [1e-8], "weight_decay": [0.0]},
    ),
    "chain": (optax.chain(optax.clip(1.0), SGD), {"lr": [0.1]} | SGD_VALUES),
    "optax": (INJECTED, {"learning_rate": [0.5]}),
    "groups": (
        groups(jmeta.optim.sgd(lr=0.5), jmeta.optim.sgd(lr=0.25)),
        {"lr": [0.5, 0.25]} | {name: v * 2 for name, v in SGD_VALUES.items()},
    ),
    "unlike groups": (
        groups(SGD, ADAM, frozen=optax.set_to_zero()),
        {
            "lr": [0.1, 0.5],
            "weight_decay": [0.0, 0.0],
            "momentum": {"z": 0.0},
            "dampening": {"z": 0.0},
            "betas": {"a": (0.8, 0.9)},
            "eps": {"a": 1e-8},
        },
    ),
    "schedule": (SCHEDULED, {"lr": [0.5]} | SGD_VALUES | {"momentum": [0.25]}),
}


@pytest.mark.parametrize("name", TRAINABLE)
def test_trainable_opt_params(name):
    tx, values = TRAINABLE[name]
    got = get_trainable_opt_params(tx)
    assert_same(got, values)
    assert all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(got))

    # applied, they are the new optimizer's own, in groups of the same order
    doubled = jax.tree.map(lambda leaf: leaf / 2, got)
    new = apply_trainable_opt_params(tx, doubled)
    assert_same(get_trainable_opt_params(new), doubled)

    # and trains as the old one does with them as overrides
    params, _, batch = problem()
    objective = lambda params: mse(apply_fn(params, batch[0]), batch[1])
    by_override = get_diff_optim(tx, params, override=doubled)
    run = inner_loop(objective, params, new, 3)
    want = by_override.run(objective, 3, params=params)
    assert_same(run.params, want)
    assert jnp.abs(inner_loop(objective, params, tx, 3).params["w"] - want["w"]).any()


def test_applied_values_can_be_overridden():
    new = apply_trainable_opt_params(SCHEDULED, {"lr": [0.25]})
    objective = lambda w: w**2
    want = inner_loop(objective, 1.0, jmeta.optim.sgd(lr=0.125, momentum=0.25), 2)
    run = inner_loop(objective, 1.0, new, 2, hyperparams={"lr": 0.125})
    assert_same(run.params, want.params)
    assert_same(run.opt_state.hyperparams["lr"], 0.25)


def test_learned_settings_are_differentiable():
    def after(lr):
        tx = apply_trainable_opt_params(SGD, {"lr": [lr]})
        return inner_loop(lambda w: w**2, 1.0, tx, 2).params

    assert_same(jax.jit(jax.value_and_grad(after))(0.1), (0.64, -3.2))
