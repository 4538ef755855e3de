"""The algorithms written out in plain JAX: Python loops of `jax.grad`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import jmeta
from jmeta import Task, Unroll, algorithms as alg

SGD = jmeta.optim.sgd(lr=0.1)
STEPS = 3
TASKS = 3
KEEP = 0.7
"""Of the hidden units, by dropout."""


def head(path):
    return path[0] == "head"


def mse(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


def net(params, x, key=None):
    """A hidden layer, with dropout if there is a key."""
    hidden = jnp.tanh(x @ params["body"]["w"] + params["body"]["b"][None])
    if key is not None:
        kept = jax.random.bernoulli(key, KEEP, hidden.shape)
        hidden = jnp.where(kept, hidden / KEEP, 0)
    return hidden @ params["head"]["w"]


def weights(seed=0):
    rng = np.random.default_rng(seed)
    body = {"w": jnp.array(rng.normal(size=(2, 4))), "b": jnp.array(rng.normal(size=4))}
    return {"body": body, "head": {"w": jnp.array(rng.normal(size=(4, 1)))}}


def tasks(count=TASKS):
    rng = np.random.default_rng(1)
    draw = lambda width: rng.normal(size=(count, 5, width))
    return Task(support=(draw(2), draw(1)), query=(draw(2), draw(1)))


def one_task():
    return jax.tree.map(lambda x: jnp.array(x[0]), tasks(1))


def rates(like):
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda x: jnp.array(rng.uniform(0.05, 0.3, x.shape)), like)


def step_rates(steps=STEPS):
    return rates(jax.tree.map(lambda _: jnp.zeros(steps), weights()))


def sgd(params, grads, lr):
    """One rate for all, or a tree of rates."""
    if not isinstance(lr, dict):
        lr = jax.tree.map(lambda _: lr, params)
    return jax.tree.map(lambda p, g, r: p - r * g, params, grads, lr)


def support_loss(params, task, key, t):
    x, y = task.support
    return mse(net(params, x, None if key is None else jax.random.fold_in(key, t)), y)


def query_outputs(params, task, key, steps):
    key = None if key is None else jax.random.fold_in(key, steps)
    return net(params, task.query[0], key)


def descend(params, task, key, steps, lr=lambda t: 0.1, cut=lambda g: g):
    """Parameters at each time, and the loss before each step."""
    history, losses = [params], []
    for t in range(steps):
        loss, grads = jax.value_and_grad(support_loss)(params, task, key, t)
        params = sgd(params, cut(grads), lr(t))
        history.append(params)
        losses.append(loss)
    return history, jnp.array(losses)


def judged(params, losses, task, key, steps):
    outputs = query_outputs(params, task, key, steps)
    return mse(outputs, task.query[1]), (outputs, losses)


def maml(params, task, key, steps):
    history, losses = descend(params, task, key, steps)
    return judged(history[-1], losses, task, key, steps)


def fomaml(params, task, key, steps):
    history, losses = descend(params, task, key, steps, cut=jax.lax.stop_gradient)
    return judged(history[-1], losses, task, key, steps)


def adam_maml(params, task, key, steps):
    """Adam's equations, over a flat vector."""
    flat, unravel = ravel_pytree(params)
    m = v = jnp.zeros_like(flat)
    losses = []
    for t in range(steps):
        loss = lambda flat, t=t: support_loss(unravel(flat), task, key, t)
        value, g = jax.value_and_grad(loss)(flat)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        m_hat, v_hat = m / (1 - 0.9 ** (t + 1)), v / (1 - 0.999 ** (t + 1))
        flat = flat - 0.1 * m_hat / (jnp.sqrt(v_hat) + 1e-3)
        losses.append(value)
    return judged(unravel(flat), jnp.array(losses), task, key, steps)


def anil(params, task, key, steps):
    losses, part = [], params["head"]
    for t in range(steps):
        loss = lambda part, t=t: support_loss({**params, "head": part}, task, key, t)
        value, grads = jax.value_and_grad(loss)(part)
        part = sgd(part, grads, 0.1)
        losses.append(value)
    return judged({**params, "head": part}, jnp.array(losses), task, key, steps)


def meta_sgd(meta_params, task, key, steps):
    params, lr = meta_params
    history, losses = descend(params, task, key, steps, lambda t: lr)
    return judged(history[-1], losses, task, key, steps)


def rate_of_step(lr, t):
    return jax.tree.map(lambda x: x[min(t, len(x) - 1)], lr)


def per_step(meta_params, task, key, steps):
    params, lr, _ = meta_params
    of_step = lambda t: rate_of_step(lr, t)
    history, losses = descend(params, task, key, steps, of_step)
    return judged(history[-1], losses, task, key, steps)


def multi_step(meta_params, task, key, steps):
    params, lr, _ = meta_params
    of_step = lambda t: rate_of_step(lr, t)
    history, losses = descend(params, task, key, steps, of_step)
    if not steps:
        return judged(params, losses, task, key, steps)
    total = 0.0
    for weight, params in zip(MULTI_STEP[:steps], history[1:], strict=True):
        outputs = query_outputs(params, task, key, steps)
        total += weight * mse(outputs, task.query[1])
    return total, (outputs, losses)


MULTI_STEP = np.array([0.2, 0.3, 0.5, 0.7, 0.1])


def reptile(params, task, key, steps):
    history, losses = descend(params, task, key, steps)
    adapted = jax.lax.stop_gradient(history[-1])
    leaves = zip(jax.tree.leaves(params), jax.tree.leaves(adapted), strict=True)
    distance = 0.5 * sum(jnp.sum((p - a) ** 2) for p, a in leaves)
    return distance, judged(adapted, losses, task, key, steps)[1]


class Case(NamedTuple):
    """An algorithm and what it should give.

    Attributes:
        build: `(steps) -> task_loss`.
        reference: `(meta_params, task, key, steps) -> (loss, (outputs, losses))`.
        meta_params: Makes the meta-parameters.
    """

    build: Callable[[int], Any]
    reference: Callable[..., Any]
    meta_params: Callable[[], Any] = weights


def case(builder, reference, meta_params=weights, tx: Any = SGD, **options):
    build = lambda steps: builder(net, tx, steps, loss_fn=mse, **options)
    return Case(build, reference, meta_params)


def rates_per_weight():
    return alg.MetaSGDParams(weights(), rates(weights()))


def rates_per_step():
    return alg.MAMLPlusPlusParams(weights(), step_rates())


ADAM = jmeta.optim.adam(lr=0.1, eps=1e-3)
NO_RATE: optax.GradientTransformation = jmeta.optim.sgd()

CASES = {
    "maml": case(alg.maml, maml),
    "maml, plain adjoint": case(alg.maml, maml, adjoint=Unroll(mixed=False)),
    "maml, adam": case(alg.maml, adam_maml, tx=ADAM),
    "maml, optax": case(alg.maml, maml, tx=optax.sgd(0.1)),
    "fomaml": case(alg.maml, fomaml, adjoint=Unroll(order=1)),
    "anil": case(alg.anil, anil, trainable=head),
    "meta_sgd": case(alg.meta_sgd, meta_sgd, rates_per_weight, NO_RATE),
    "maml_plus_plus": case(alg.maml_plus_plus, per_step, rates_per_step, NO_RATE),
    "maml_plus_plus, multi-step": Case(
        lambda steps: alg.maml_plus_plus(
            net, NO_RATE, steps, loss_fn=mse, step_weights=MULTI_STEP[:steps]
        ),
        multi_step,
        rates_per_step,
    ),
    "reptile": case(alg.reptile, reptile),
}
