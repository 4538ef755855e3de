"""Wrong calls of the moving averages."""

from typing import Any

import jax.numpy as jnp
import optax
from flax import nnx

from jmeta import EMA, PerLeaf, ema, ema_params, swap_params
from tests.wrong_calls.table import WrongCall

PARAMS = {"w": jnp.ones(2), "b": jnp.ones(1)}
STATE = EMA(0.5).init(PARAMS)
TWO = optax.chain(ema(0.5), ema(0.9)).init(PARAMS)


def swap(model: Any, averaged: Any) -> None:
    with swap_params(model, averaged):
        pass


def linear() -> nnx.Linear:
    return nnx.Linear(2, 1, use_bias=False, rngs=nnx.Rngs(0))


# wrong on purpose
# pyright: reportArgumentType=false, reportCallIssue=false
ROWS = [
    *(
        WrongCall(f"{name}-{argument}-{got}", call, error, argument, got, use)
        for name, rows in {
            "ema": [
                (lambda: ema("a"), TypeError, "decay", "'a'", "a number"),
                (lambda: ema(None), TypeError, "decay", "None", "a schedule"),
                (lambda: ema(1.5), ValueError, "decay", "1.5", "at most 1"),
                (lambda: ema(-0.1), ValueError, "decay", "-0.1", "at least 0"),
                (lambda: ema(1.0, debias=True), ValueError, "decay", "1.0", "below 1"),
                (lambda: ema(jnp.ones(2)), ValueError, "decay", "(2,)", "PerLeaf"),
                (lambda: ema([0.9]), TypeError, "decay", "a list", "a number"),
                (lambda: ema(0.9, warmup=10), TypeError, "warmup", "10", "True or"),
                (lambda: ema(0.9, debias="a"), TypeError, "debias", "'a'", "True or"),
                (
                    lambda: ema(0.9).update(PARAMS, STATE),
                    *(ValueError, "ema", "", "update(grads, state, params)"),
                ),
            ],
            "EMA": [
                (
                    lambda: EMA(0.9).update(STATE, {"w": jnp.ones(2)}),
                    *(ValueError, "params", "{'w': (2,)}", "new state with `init`"),
                ),
                (
                    lambda: EMA(0.9).update(STATE, {**PARAMS, "b": jnp.ones(3)}),
                    *(ValueError, "params", "(3,)", "new state with `init`"),
                ),
                (
                    lambda: EMA(0.9).set(STATE, [jnp.ones(2), jnp.ones(1)]),
                    *(ValueError, "params", "[(2,), (1,)]", "Pass the same parameters"),
                ),
                (
                    lambda: EMA(0.9).update(PARAMS, PARAMS),
                    *(TypeError, "state", "a dict", "`EMA.init(params)`"),
                ),
                (
                    lambda: EMA(0.9).value([PARAMS]),
                    *(TypeError, "state", "a list", "what `update` returns"),
                ),
                (
                    lambda: EMA(PerLeaf({"w": 0.9})).init(PARAMS),
                    *(ValueError, "PerLeaf", "['b']", "for every parameter"),
                ),
            ],
            "ema_params": [
                (lambda: ema_params(3), ValueError, "opt_state", "got 0", "Chain"),
                (lambda: ema_params(TWO), ValueError, "opt_state", "got 2", "Chain"),
            ],
            "swap_params": [
                (
                    lambda: swap(3, PARAMS),
                    *(TypeError, "model", "3", "`ema_params(opt_state)`"),
                ),
                (
                    lambda: swap(PARAMS, PARAMS),
                    *(TypeError, "model", "a dict", "an nnx module"),
                ),
                (
                    lambda: swap({"params": PARAMS}, {"w": jnp.ones(2)}),
                    *(ValueError, "averaged", "['b']", "every parameter"),
                ),
                (
                    lambda: swap(linear(), {"weight": jnp.ones((2, 1))}),
                    *(ValueError, "averaged", "['weight']", "of the model"),
                ),
                (
                    lambda: swap(linear(), {"kernel": jnp.ones((1, 2))}),
                    *(ValueError, "averaged", "(1, 2)", "the model's shapes"),
                ),
            ],
        }.items()
        for call, error, argument, got, use in rows
    ),
]
