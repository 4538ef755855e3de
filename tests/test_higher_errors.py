"""What higher's interface refuses, and what it says to do."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen

import jmeta
from jmeta import (
    apply_trainable_opt_params,
    create_diff_optim,
    get_diff_optim,
    get_trainable_opt_params,
    monkeypatch,
)
from tests.higher_cases import (
    SGD,
    assert_same,
    groups,
    line,
    towards,
)

ADAM = jmeta.optim.adam()
X, Y = 2.0, 3.0


def wrong(value) -> Any:
    """What a type checker would complain about."""
    return value


ERRORS = {
    "a loss in place of a function": (
        lambda f, d: d.step((f(X) - Y) ** 2),
        TypeError,
        r"JAX has no tape; got an array.*diffopt.step\(lambda: loss\(fmodel\(x\), y",
    ),
    "a number in place of a function": (
        lambda f, d: d.step(0.5),
        TypeError,
        "takes a function that computes the loss.*got 0.5",
    ),
    "outputs from before": (
        lambda f, d: (lambda out: d.step(lambda: (out - Y) ** 2))(f(X)),
        ValueError,
        r"does not call `fmodel`.*diffopt.step\(lambda: loss\(fmodel\(x\), y\)\)",
    ),
    "a loss cut off": (
        lambda f, d: d.step(lambda: jax.lax.stop_gradient(f(X))),
        ValueError,
        "does not depend on the trained parameters",
    ),
    "a loss of nothing": (
        lambda f, d: d.step(lambda params: jnp.sin(1.0)),
        ValueError,
        "does not depend on the trained parameters",
    ),
    "a Python float": (
        lambda f, d: d.step(lambda: float(f(X))),
        TypeError,
        "must stay in JAX",
    ),
    "a vector": (
        lambda f, d: d.step(lambda: f(jnp.ones(3))),
        ValueError,
        r"shape \(3,\).*\.mean\(\)",
    ),
    "a pair": (
        lambda f, d: d.step(lambda: (f(X), Y)),
        ValueError,
        "must return the loss alone; got a tuple of 2",
    ),
    "too many arguments": (
        lambda f, d: d.step(lambda params, x: f(x)),
        TypeError,
        r"function `loss_fn\(\)` or `loss_fn\(params\)`; got the arguments \(params, x",
    ),
    "no room for a batch": (
        lambda f, d: d.run(lambda: f(X), 2, jnp.ones(2)),
        TypeError,
        r"`loss_fn\(batch\)` or `loss_fn\(params, batch\)`",
    ),
    "batches of another length": (
        lambda f, d: d.run(lambda x: f(x), 2, jnp.ones(3)),
        ValueError,
        "leading length `steps`=2",
    ),
    "unknown setting": (
        lambda f, d: d.step(lambda: f(X), override={"learning_rate": [0.1]}),
        ValueError,
        "no entry 'learning_rate'.*Use `lr`",
    ),
    "too many values": (
        lambda f, d: d.step(lambda: f(X), override={"lr": [0.1, 0.2]}),
        ValueError,
        "one value for `lr`, or one for each.*got 2.*a single group",
    ),
    "a value for each step": (
        lambda f, d: d.step(lambda: f(X), override={"lr": jnp.ones(3)}),
        ValueError,
        "leading length `steps`=1",
    ),
    "a time to come": (
        lambda f, d: f.parameters(time=99),
        IndexError,
        "`time` must be from 0.* got 99",
    ),
    "setting inside a loss": (
        lambda f, d: d.step(lambda: setattr(f, "fast_params", 2.0) or f(X)),
        RuntimeError,
        "cannot be set inside the loss of a step",
    ),
    "a step inside a loss": (
        lambda f, d: d.step(lambda: d.step(lambda: f(X))),
        RuntimeError,
        "cannot be set inside the loss of a step",
    ),
    "parameters of another structure": (
        lambda f, d: setattr(f, "fast_params", {"w": 1.0}),
        ValueError,
        "`fast_params` must be a tree like",
    ),
    "patching twice": (
        lambda f, d: monkeypatch(f),
        TypeError,
        "has fast parameters already",
    ),
    "too many parts": (
        lambda f, d: monkeypatch((f, 1, 2, 3)),
        TypeError,
        "`model` must be an nnx module.*got 4 entries",
    ),
    "a linen module alone": (
        lambda f, d: monkeypatch(linen.Dense(2)),
        ValueError,
        "A linen module needs its `variables`",
    ),
    "no transform": (
        lambda f, d: get_diff_optim(wrong(0.1), 1.0),
        TypeError,
        r"`tx` must be an optax transform; got 0.1. Pass `jmeta.optim.sgd\(lr=0.1\)`",
    ),
    "a transform in place of its factory": (
        lambda f, d: create_diff_optim(wrong(SGD), params=1.0),
        TypeError,
        "factory of transforms.*`get_diff_optim`",
    ),
    "torch's name": (
        lambda f, d: create_diff_optim(wrong("SGD"), params=1.0),
        TypeError,
        "such as `jmeta.optim.sgd`; got 'SGD'",
    ),
    "nothing to train": (
        lambda f, d: create_diff_optim(jmeta.optim.sgd),
        ValueError,
        "Pass `params` or `fmodel`",
    ),
    "no parameters at a step": (
        lambda f, d: get_diff_optim(SGD, 1.0).step(lambda w: w**2),
        ValueError,
        r"diffopt.step\(loss_fn, params=params\)",
    ),
    "no argument without a model": (
        lambda f, d: get_diff_optim(SGD, 1.0).step(wrong(lambda: 1.0), params=1.0),
        TypeError,
        r"must be a function `loss_fn\(params\)`; got the arguments \(\)",
    ),
    "another optimizer's state": (
        lambda f, d: get_diff_optim(SGD, 1.0, opt_state=ADAM.init(1.0)),
        ValueError,
        "`opt_state` must be a state of `tx`",
    ),
    "too few values for the groups": (
        lambda f, d: get_diff_optim(
            groups(rest=SGD, c=SGD), {"w": 1.0}, override={"lr": [0.1, 0.2]}
        ),
        ValueError,
        r"got 2.*3 parameter groups, in this order: \['z', 'a', 'c'\]",
    ),
    "no settings to learn": (
        lambda f, d: get_trainable_opt_params(optax.sgd(0.1)),
        ValueError,
        "keeps no settings in its state",
    ),
    "a setting twice": (
        lambda f, d: get_trainable_opt_params(optax.chain(SGD, SGD)),
        ValueError,
        "`lr` occurs 2 times",
    ),
    "an unknown setting to apply": (
        lambda f, d: apply_trainable_opt_params(SGD, {"rho": [0.1]}).init(1.0),
        ValueError,
        "no entry 'rho'",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    act, error, message = ERRORS[name]
    fmodel, diffopt = line(1.0)
    with pytest.raises(error, match=message):
        act(fmodel, diffopt)
    # whatever went wrong, the next step is as good as any
    diffopt.step(towards(fmodel, 2.0))
    assert_same(fmodel.fast_params, 1.2)
