"""Wrong calls of `algorithms`."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn, nnx

import jmeta
from jmeta import algorithms as alg
from tests.wrong_calls.table import WrongCall

X = jnp.ones((4, 2))
TASK = jmeta.Task(support=(X, X), query=(X, X))
SGD = jmeta.optim.sgd(lr=0.1)
W = jnp.ones((2, 2))
BUILDERS: dict[str, Any] = {
    "maml": alg.maml,
    "anil": lambda *args, **kwargs: alg.anil(
        *args, **({"trainable": lambda path: True} | kwargs)
    ),
    "meta_sgd": alg.meta_sgd,
    "reptile": alg.reptile,
    "maml_plus_plus": alg.maml_plus_plus,
    "imaml": lambda *args, **kwargs: alg.imaml(*args, **({"weight": 1.0} | kwargs)),
}


def linear(params, x):
    return x @ params


def mse(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


def build_params(params: Any):
    return alg.meta_sgd_params(params)


def build(name="maml", apply_fn=linear, tx: Any = SGD, steps: Any = 1, **kwargs: Any):
    return BUILDERS[name](apply_fn, tx, steps, **({"loss_fn": mse} | kwargs))


def called(name="maml", params: Any = W, task: Any = TASK, key: Any = None, **kwargs):
    return build(name, **kwargs)(params, task, key)


def adapt(objective: Any = None, tx: Any = SGD, steps: Any = 1, **kwargs: Any) -> Any:
    objective = objective or (lambda params, task: jnp.sum((params - task) ** 2))
    return alg.adapted(objective, tx, steps, **kwargs)


def half_loss(outputs, targets):
    return (outputs - targets) ** 2


def of_every_builder() -> list[WrongCall]:
    """What all of them refuse, by one check."""
    rows = []
    for name in BUILDERS:
        rows += [
            WrongCall(
                *(f"{name}-tx-number", lambda name=name: build(name, tx=0.1)),
                *(TypeError, "tx", "0.1", "jmeta.optim.sgd(lr=0.1)"),
            ),
            WrongCall(
                *(f"{name}-loss_fn", lambda name=name: build(name, loss_fn="mse")),
                *(TypeError, "loss_fn", "'mse'", "Pass `loss_fn(outputs, targets)`"),
            ),
            WrongCall(
                *(f"{name}-apply_fn", lambda name=name: build(name, apply_fn=W)),
                *(TypeError, "apply_fn", "an array", "jmeta.make_functional"),
            ),
            WrongCall(
                *(f"{name}-task-pair", lambda name=name: called(name, task=(X, X))),
                *(TypeError, "task", "a tuple", "jmeta.Task(support="),
            ),
            WrongCall(
                *(f"{name}-key-integer", lambda name=name: called(name, key=0)),
                *(TypeError, "key", "got 0", "jax.random.key(0)"),
            ),
        ]
        if name != "reptile":
            rows += [
                WrongCall(
                    f"{name}-adjoint-class",
                    lambda name=name: build(name, adjoint=jmeta.Unroll),
                    *(TypeError, "adjoint", "the class Unroll", "`Unroll()`"),
                ),
            ]
    return rows


ROWS = [
    *of_every_builder(),
    WrongCall(
        *("maml-tx-factory", lambda: build(tx=optax.sgd)),
        *(TypeError, "tx", "sgd", "Call it"),
    ),
    WrongCall(
        *("maml-steps-float", lambda: build(steps=2.0)),
        *(TypeError, "steps", "2.0", "Python integer"),
    ),
    WrongCall(
        *("maml-steps-negative", lambda: build(steps=-1)),
        *(ValueError, "steps", "-1", "at least 0"),
    ),
    WrongCall(
        *(
            "maml-nnx-module",
            lambda: build(apply_fn=nnx.Linear(2, 2, rngs=nnx.Rngs(0))),
        ),
        *(TypeError, "apply_fn", "a Linear", "jmeta.make_functional"),
    ),
    WrongCall(
        *("maml-linen-module", lambda: build(apply_fn=nn.Dense(2))),
        *(TypeError, "apply_fn", "a Dense", "jmeta.make_functional"),
    ),
    WrongCall(
        "maml-equinox-module",
        lambda: build(apply_fn=eqx.nn.Linear(2, 2, key=jax.random.key(0))),
        *(TypeError, "apply_fn", "a Linear", "jmeta.make_functional"),
    ),
    WrongCall(
        *("maml-adjoint-string", lambda: build(adjoint="unroll")),
        *(TypeError, "adjoint", "'unroll'", "`Unroll()`"),
    ),
    WrongCall(
        *("maml-adjoint-none", lambda: build(adjoint=None)),
        *(TypeError, "adjoint", "None", "`Unroll()`"),
    ),
    WrongCall(
        *("maml-task-none", lambda: called(task=None)),
        *(TypeError, "task", "None", "jmeta.Task("),
    ),
    WrongCall(
        "maml-query-none",
        lambda: called(task=jmeta.Task(support=(X, X), query=None)),  # pyright: ignore[reportArgumentType]
        *(TypeError, "query", "None", "a pair `(x, y)`"),
    ),
    WrongCall(
        "maml-support-array",
        lambda: called(task=jmeta.Task(support=X, query=(X, X))),  # pyright: ignore[reportArgumentType]
        *(TypeError, "support", "an array", "a pair `(x, y)`"),
    ),
    WrongCall(
        *("maml-list-outputs", lambda: called(apply_fn=lambda w, x: [x @ w])),
        *(TypeError, "loss_fn", "a list of 1", "one array"),
    ),
    WrongCall(
        *("maml-state-outputs", lambda: called(apply_fn=lambda w, x: (x @ w, {}))),
        *(TypeError, "loss_fn", "a tuple of 2", "state=False"),
    ),
    WrongCall(
        *("maml-loss-vector", lambda: called(loss_fn=half_loss)),
        *(ValueError, "loss_fn", "shape (4, 2)", ".mean()"),
    ),
    WrongCall(
        *("maml-loss-pair", lambda: called(loss_fn=lambda o, t: (mse(o, t), o))),
        *(TypeError, "loss_fn", "a tuple", "nothing else beside"),
    ),
    WrongCall(
        *("maml-loss-number", lambda: called(loss_fn=lambda o, t: 1.0)),
        *(TypeError, "loss_fn", "1.0", "jax.numpy"),
    ),
    WrongCall(
        *("maml-loss-integer", lambda: called(loss_fn=lambda o, t: (o > t).sum())),
        *(TypeError, "loss_fn", "int", "derivative"),
    ),
    WrongCall(
        *("maml-key-array", lambda: called(key=jnp.zeros(3))),
        *(TypeError, "key", "shape (3,)", "jax.random.key(0)"),
    ),
    WrongCall(
        *("maml-keys", lambda: called(key=jax.random.split(jax.random.key(0)))),
        *(ValueError, "key", "keys of shape (2,)", "jax.vmap"),
    ),
    WrongCall(
        *("anil-trainable", lambda: build("anil", trainable=["head"])),
        *(TypeError, "trainable", "a list", "lambda path"),
    ),
    WrongCall(
        *("imaml-weight-string", lambda: build("imaml", weight="2")),
        *(TypeError, "weight", "'2'", "number"),
    ),
    WrongCall(
        *("imaml-weight-negative", lambda: build("imaml", weight=-1.0)),
        *(ValueError, "weight", "-1.0", "at least 0"),
    ),
    WrongCall(
        *("meta_sgd-weights-alone", lambda: called("meta_sgd")),
        *(TypeError, "meta_params", "Array", "meta_sgd_params"),
    ),
    WrongCall(
        *("maml_plus_plus-weights-alone", lambda: called("maml_plus_plus")),
        *(TypeError, "meta_params", "Array", "maml_plus_plus_params"),
    ),
    WrongCall(
        "maml_plus_plus-step_weights",
        lambda: build("maml_plus_plus", step_weights=jnp.ones(3)),
        *(ValueError, "step_weights", "shape (3,)", "msl_weights"),
    ),
    WrongCall(
        *("meta_sgd_params-module", lambda: build_params(linear)),
        *(TypeError, "params", "the function linear", "initial weights"),
    ),
    WrongCall(
        *("meta_sgd_params-lr", lambda: alg.meta_sgd_params(W, lr="a")),  # pyright: ignore[reportArgumentType]
        *(TypeError, "lr", "'a'", "number"),
    ),
    WrongCall(
        *(
            "meta_sgd_params-integers",
            lambda: alg.meta_sgd_params({"w": jnp.arange(3)}),
        ),
        *(TypeError, "params", "int", "initial weights"),
    ),
    WrongCall(
        "maml_plus_plus_params-steps",
        lambda: alg.maml_plus_plus_params(W, steps=0),
        *(ValueError, "steps", "0", "at least 1"),
    ),
    WrongCall(
        "maml_plus_plus_params-state",
        lambda: alg.maml_plus_plus_params(W, 2, state=linear),
        *(TypeError, "state", "the function linear", "BatchNorm"),
    ),
    WrongCall(
        *("msl_weights-steps", lambda: alg.msl_weights(2.5, 0, 3)),  # pyright: ignore[reportArgumentType]
        *(TypeError, "steps", "2.5", "Python integer"),
    ),
    WrongCall(
        *("msl_weights-epoch", lambda: alg.msl_weights(2, -1, 3)),
        *(ValueError, "epoch", "-1", "at least 0"),
    ),
    WrongCall(
        *("msl_weights-epochs", lambda: alg.msl_weights(2, 0, 0)),
        *(ValueError, "epochs", "0", "at least 1"),
    ),
    WrongCall(
        *("adapted-objective-arguments", lambda: adapt(lambda params: 0.0)(W, W)),
        *(TypeError, "objective", "(params)", "must take 2 arguments"),
    ),
    WrongCall(
        *("adapted-objective-number", lambda: adapt(3.0)),
        *(TypeError, "objective", "3.0", "Pass `objective(params, task)`"),
    ),
    WrongCall(
        *("adapted-steps", lambda: adapt(steps="3")),
        *(TypeError, "steps", "'3'", "Python integer"),
    ),
    WrongCall(
        *("adapted-tx", lambda: adapt(tx=None)),
        *(TypeError, "tx", "None", "jmeta.optim.sgd"),
    ),
    WrongCall(
        *("adapted-outer", lambda: adapt(outer=W)),
        *(TypeError, "outer", "an array", "Pass `outer(params, task)`"),
    ),
    WrongCall(
        *("adapted-init", lambda: adapt(init=W)),
        *(TypeError, "init", "an array", "Pass `init(meta_params, task)`"),
    ),
    WrongCall(
        *("adapted-hyperparams", lambda: adapt(hyperparams={"lr": 0.1})),
        *(TypeError, "hyperparams", "a dict", "lambda meta_params"),
    ),
    WrongCall(
        *("adapted-has_aux", lambda: adapt(has_aux="yes")),
        *(TypeError, "has_aux", "'yes'", "True or False"),
    ),
    WrongCall(
        *("adapted-has_aux-alone", lambda: adapt(has_aux=True)),
        *(ValueError, "outer", "None", "Pass a function that gives `(loss, aux)`"),
    ),
    WrongCall(
        "adapted-no-aux",
        lambda: adapt(outer=lambda p, t: jnp.sum(p), has_aux=True)(W, W),
        *(TypeError, "outer", "an array", "Leave `has_aux` out"),
    ),
    WrongCall(
        "adapted-outer-vector",
        lambda: adapt(outer=lambda p, t: p - t)(W, W),
        *(ValueError, "outer", "shape (2, 2)", ".mean()"),
    ),
    WrongCall(
        *("adapted-objective-pair", lambda: adapt(lambda p, t: (p.sum(), p))(W, W)),
        *(TypeError, "objective", "a tuple", "nothing else beside"),
    ),
    WrongCall(
        *("adapted-adjoint", lambda: adapt(adjoint=jmeta.Implicit)),
        *(TypeError, "adjoint", "the class Implicit", "`Implicit(...)`"),
    ),
    WrongCall(
        *("adapted-key", lambda: adapt()(W, W, 3)),
        *(TypeError, "key", "got 3", "jax.random.key(0)"),
    ),
]
