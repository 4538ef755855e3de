"""Models, data and optimizers for the tests of higher's interface."""

import functools

import jax.numpy as jnp
import numpy as np
import optax

import jmeta
from jmeta import (
    innerloop_ctx,
)
from tests.helpers import F64_SAME, assert_trees_close

assert_same = functools.partial(assert_trees_close, rtol=F64_SAME, atol=F64_SAME)

STEPS = 3


def normal(seed, *shape):
    return jnp.asarray(np.random.RandomState(seed).normal(size=shape))


def apply_fn(params, x):
    return jnp.tanh(x @ params["w"] + params["b"][None])


def mse(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


def problem():
    """Parameters, a batch for each step, a validation batch."""
    params = {"w": normal(0, 3, 2), "b": normal(1, 2)}
    batches = normal(2, STEPS, 5, 3), normal(3, STEPS, 5, 2)
    return params, batches, (normal(4, 5, 3), normal(5, 5, 2))


SGD = jmeta.optim.sgd(lr=0.1)

TXS = {
    "sgd": jmeta.optim.sgd(momentum=0.5, weight_decay=0.1),
    "adam": jmeta.optim.adam(betas=(0.8, 0.9), eps=1e-3),
}


# `weight * x`, whose state is the sum of all inputs so far
STATEFUL_LINE = (lambda w, s, x: (w * x, s + x), 1.0, 0.0)


def line(weight=1.0, tx=SGD, **options):
    """A context on `weight * x`, opened for good."""
    return innerloop_ctx((jnp.multiply, jnp.asarray(weight)), tx, **options).__enter__()


def towards(fmodel, target):
    """A loss whose step of rate 0.1 with SGD is `w - 0.2 (w - target)`."""
    return lambda: (fmodel(1.0) - target) ** 2


def groups(head=SGD, rest=SGD, **others):
    """Two parameter groups, not in alphabetical order."""
    labels = lambda params: {name: LABELS[name] for name in params}
    return optax.partition({"z": head, "a": rest, **others}, labels)


LABELS = {"w": "z", "b": "a"}
