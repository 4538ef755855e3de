"""Wrong calls of `jmeta.optim` and of overrides of its settings."""

from typing import Any

import jax.numpy as jnp
import optax

import jmeta
from jmeta import optim
from tests.wrong_calls.table import WrongCall

ALIKE = (
    *(optim.adadelta, optim.adagrad, optim.adamax, optim.adamw, optim.asgd),
    *(optim.nadam, optim.radam, optim.rmsprop, optim.rprop, optim.sparse_adam),
)
W = jnp.ones((2, 2))
STEP = "a schedule `step -> value`"


def init(tx: Any, params: Any = W) -> Any:
    return tx.init(params)


def override(tx: Any, **hyperparams: Any) -> Any:
    square = lambda w: jnp.sum(w**2)
    return jmeta.inner_loop(square, W, tx, 2, hyperparams=hyperparams)


def schedule_to(value: Any) -> Any:
    return init(optim.sgd(lr=lambda step: value))


def per_leaf(optimizer: Any, **settings: Any) -> Any:
    tx = optimizer(**{k: jmeta.PerLeaf(v) for k, v in settings.items()})
    return tx.update(W, tx.init(W), W)


# wrong on purpose
# pyright: reportArgumentType=false, reportCallIssue=false
ROWS = [
    *(
        WrongCall(f"{name}-{argument}-{got}", call, error, argument, got, use)
        for name, rows in {
            "sgd": [
                (lambda: optim.sgd(lr="a"), TypeError, "lr", "'a'", STEP),
                (lambda: optim.sgd(lr=None), TypeError, "lr", "None", STEP),
                (lambda: optim.sgd(lr=True), TypeError, "lr", "True", "a number"),
                (lambda: optim.sgd(lr=[0.1]), TypeError, "lr", "a list", "PerLeaf"),
                (lambda: optim.sgd(lr=(0.1, 0.2)), TypeError, "lr", "a tuple", STEP),
                (lambda: optim.sgd(lr=1j), TypeError, "lr", "1j", STEP),
                (lambda: optim.sgd(lr=float), TypeError, "lr", "the class", STEP),
                (
                    lambda: optim.sgd(lr=jnp.ones(3)),
                    *(ValueError, "lr", "shape (3,)", "`PerLeaf(tree)`"),
                ),
                (lambda: optim.sgd(lr=-0.1), ValueError, "lr", "-0.1", "at least 0"),
                (
                    lambda: optim.sgd(lr=float("nan")),
                    *(ValueError, "lr", "nan", "at least 0"),
                ),
                (
                    lambda: optim.sgd(momentum=-1),
                    *(ValueError, "momentum", "-1", "at least 0"),
                ),
                (
                    lambda: optim.sgd(nesterov=1),
                    *(TypeError, "nesterov", "1", "True or False"),
                ),
                (
                    lambda: optim.sgd(nesterov=True),
                    *(ValueError, "momentum", "got 0", "above 0"),
                ),
                (
                    lambda: optim.sgd(momentum=0.9, dampening=0.1, nesterov=True),
                    *(ValueError, "dampening", "0.1", "Leave one"),
                ),
            ],
            "schedule": [
                (lambda: schedule_to("a"), TypeError, "lr", "'a'", STEP),
                (
                    lambda: schedule_to(jnp.ones(2)),
                    *(ValueError, "lr", "(2,)", "PerLeaf"),
                ),
                (
                    lambda: optim.sgd(lr=jmeta.PerLeaf({"w": "a"})),
                    *(TypeError, "lr", "a PerLeaf", "a number"),
                ),
            ],
            "adam": [
                (
                    lambda: optim.adam(betas=0.9),
                    *(TypeError, "betas", "0.9", "`betas=(a, b)`"),
                ),
                (
                    lambda: optim.adam(betas=(0.9, 0.99, 0.999)),
                    *(ValueError, "betas", "3", "`betas=(a, b)`"),
                ),
                (
                    lambda: optim.adam(betas=[0.9]),
                    *(ValueError, "betas", "1", "`betas=(a, b)`"),
                ),
                (
                    lambda: optim.adam(betas=jnp.array([0.9, 0.99])),
                    *(TypeError, "betas", "shape (2,)", "a tuple or a list"),
                ),
                (
                    lambda: optim.adam(betas="ab"),
                    *(TypeError, "betas", "'ab'", "a tuple or a list"),
                ),
                (
                    lambda: optim.adam(betas=[0.9, 1.0]),
                    *(ValueError, "betas", "1.0", "below 1"),
                ),
                (
                    lambda: optim.adam(betas=(0.9, "a")),
                    *(TypeError, "betas", "'a'", "a number"),
                ),
                (
                    lambda: optim.adam(eps=-1e-8),
                    ValueError,
                    "eps",
                    "-1e-08",
                    "at least",
                ),
                (
                    lambda: optim.adam(amsgrad="yes"),
                    *(TypeError, "amsgrad", "'yes'", "True or False"),
                ),
                (
                    lambda: optim.adamw(weight_decay=-1.0),
                    *(ValueError, "weight_decay", "-1.0", "at least 0"),
                ),
            ],
            "others": [
                (
                    lambda: optim.nadam(momentum_decay=-1.0),
                    *(ValueError, "momentum_decay", "-1.0", "at least 0"),
                ),
                (
                    lambda: optim.radam(maximize=None),
                    *(TypeError, "maximize", "None", "True or False"),
                ),
                (
                    lambda: optim.adadelta(rho=1.5),
                    *(ValueError, "rho", "1.5", "at most 1"),
                ),
                (
                    lambda: optim.rprop(etas=(1.2, 0.5)),
                    *(ValueError, "etas", "(1.2, 0.5)", "etas[0] < 1"),
                ),
                (
                    lambda: optim.rprop(step_sizes=1.0),
                    *(TypeError, "step_sizes", "1.0", "a tuple or a list"),
                ),
                (
                    lambda: optim.sparse_adam(lr=0.0),
                    *(ValueError, "lr", "0.0", "above 0"),
                ),
                (
                    lambda: optim.rmsprop(centered="no"),
                    *(TypeError, "centered", "'no'", "True or False"),
                ),
            ],
            "lbfgs": [
                (
                    lambda: optim.lbfgs(max_iter=2.5),
                    *(TypeError, "max_iter", "2.5", "Python integer"),
                ),
                (
                    lambda: optim.lbfgs(max_iter=0),
                    *(ValueError, "max_iter", "0", "at least 1"),
                ),
                (
                    lambda: optim.lbfgs(history_size=True),
                    *(TypeError, "history_size", "True", "Python integer"),
                ),
                (
                    lambda: optim.lbfgs(tolerance_grad="a"),
                    *(TypeError, "tolerance_grad", "'a'", "a number"),
                ),
                (
                    lambda: optim.lbfgs(line_search_fn="wolfe"),
                    *(
                        ValueError,
                        "line_search_fn",
                        "'wolfe'",
                        "'strong_wolfe' or None",
                    ),
                ),
            ],
            "adafactor": [
                (
                    lambda: optim.adafactor(eps=1e-3),
                    *(TypeError, "eps", "0.001", "`eps=(a, b)`"),
                ),
                (
                    lambda: optim.adafactor(eps=(1e-3, None)),
                    *(TypeError, "eps", "None", "a number"),
                ),
                (lambda: optim.adafactor(d=0.5), ValueError, "d", "0.5", "at least 1"),
                (
                    lambda: optim.adafactor(beta2_decay=0.8),
                    *(ValueError, "beta2_decay", "0.8", "at most 0"),
                ),
                (
                    lambda: per_leaf(optim.adafactor, d=jnp.ones((2, 2))),
                    *(ValueError, "d", "(2, 2)", "scalars"),
                ),
            ],
            "muon": [
                (
                    lambda: init(optim.muon(), {"b": jnp.ones(3)}),
                    *(ValueError, "muon", "('b',) has shape (3,)", "param_groups"),
                ),
                (
                    lambda: optim.muon(ns_coefficients=(1.0, 2.0)),
                    *(ValueError, "ns_coefficients", "2", "(a, b, c)"),
                ),
                (
                    lambda: optim.muon(ns_steps=100),
                    *(ValueError, "ns_steps", "100", "less than 100"),
                ),
                (
                    lambda: optim.muon(ns_steps=5.0),
                    *(TypeError, "ns_steps", "5.0", "Python integer"),
                ),
                (
                    lambda: optim.muon(adjust_lr_fn="rms"),
                    *(ValueError, "adjust_lr_fn", "'rms'", "'match_rms_adamw'"),
                ),
                (
                    lambda: optim.muon(ns_dtype="bf16"),
                    *(TypeError, "ns_dtype", "'bf16'", "`jnp.bfloat16`"),
                ),
                (
                    lambda: optim.muon(ns_dtype=jnp.int32),
                    *(TypeError, "ns_dtype", "int32", "`jnp.bfloat16`"),
                ),
            ],
            "finite": [
                (
                    lambda: optim.finite(3),
                    *(TypeError, "tx", "got 3", "`optax.adam(1e-3)`"),
                ),
                (
                    lambda: optim.finite(optax.adam),
                    *(TypeError, "tx", "the function adam", "`optax.adam(1e-3)`"),
                ),
            ],
            "param_groups": [
                (
                    lambda: optim.param_groups({"a": 0.1}, lambda path: "a"),
                    *(TypeError, "groups['a']", "0.1", "an optimizer for each label"),
                ),
                (
                    lambda: optim.param_groups([optim.sgd()], lambda path: "a"),
                    *(TypeError, "groups", "a list", '{"head": sgd()'),
                ),
                (
                    lambda: optim.param_groups({}, lambda path: "a"),
                    *(ValueError, "groups", "none", "at least one"),
                ),
                (
                    lambda: optim.param_groups({"a": optim.sgd()}, "a"),
                    *(TypeError, "labels", "'a'", "to a label"),
                ),
                (
                    lambda: init(optim.param_groups({"a": optim.sgd()}, lambda p: "b")),
                    *(ValueError, "labels", "'b'", "Add that group"),
                ),
            ],
            "update": [
                (
                    lambda: optim.adam().update(W, init(optim.adam())),
                    *(ValueError, "update", "", "update(grads, state, params)"),
                ),
            ],
            "override": [
                (
                    lambda: override(optim.sgd(), lr=[0.1, 0.2]),
                    *(ValueError, "lr", "[0.1, 0.2]", "array with a value per step"),
                ),
                (
                    lambda: override(optim.adam(), betas=[0.9]),
                    *(ValueError, "betas", "(0.9,)", "(a, b)"),
                ),
                (
                    lambda: override(optim.adam(), betas=0.9),
                    *(ValueError, "betas", "0.9", "(a, b)"),
                ),
                (
                    lambda: override(optim.sgd(), lr="a"),
                    *(TypeError, "lr", "'a'", STEP),
                ),
                (
                    lambda: override(optim.sgd(), lr=float),
                    *(TypeError, "lr", "the class float", STEP),
                ),
                (
                    lambda: override(optim.adam(), b1=0.9),
                    *(ValueError, "betas", "'b1'", "Use `betas`"),
                ),
            ],
        }.items()
        for call, error, argument, got, use in rows
    ),
    # every optimizer looks at its settings in the same way
    *(
        WrongCall(f"{make.__name__}-lr-{lr}", lambda f=make, lr=lr: f(lr=lr), *expected)
        for make in ALIKE
        for lr, expected in {
            "a": (TypeError, "lr", "'a'", STEP),
            -1.0: (ValueError, "lr", "-1.0", "must be"),
        }.items()
    ),
]
