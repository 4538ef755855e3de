"""Wrong calls of `inner_loop`."""

import jax.numpy as jnp

import jmeta
from tests.wrong_calls.table import WrongCall


def loop(steps=2, **kwargs):
    square = lambda w: jnp.sum(w**2)
    return jmeta.inner_loop(square, jnp.ones(3), jmeta.optim.sgd(), steps, **kwargs)


ROWS = [
    WrongCall(
        *("inner_loop-steps-float", lambda: loop(2.0)),
        *(TypeError, "steps", "2.0", "Python integer"),
    ),
]
