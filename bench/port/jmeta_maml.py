"""MAML with jmeta: the twin of `higher_maml.py`."""

from functools import partial

import jax
import optax
from flax import nnx

import jmeta


def make_model(ways, rngs):
    def block(channels):
        return [
            nnx.Conv(channels, 64, (3, 3), padding="VALID", rngs=rngs),
            nnx.BatchNorm(64, rngs=rngs),
            nnx.relu,
            partial(nnx.max_pool, window_shape=(2, 2), strides=(2, 2)),
        ]

    flatten = lambda x: x.reshape(len(x), -1)
    head = nnx.Linear(64, ways, rngs=rngs)
    return nnx.Sequential(*block(1), *block(64), *block(64), flatten, head)


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def make_step(apply_fn, inner_steps=5):
    """A step of Adam on a batch of tasks; query loss and accuracy, compiled."""
    meta_opt = optax.adam(1e-3)
    inner_opt = jmeta.optim.sgd(lr=1e-1)
    fnet = jmeta.matmul_convs(apply_fn)

    def task_loss(params, task):
        run = jmeta.inner_loop(
            *(fnet, params, inner_opt, inner_steps),
            loss_fn=cross_entropy,
            batch=task.support,
        )
        x_qry, y_qry = task.query
        qry_logits = fnet(run.params, x_qry)
        hits = qry_logits.argmax(1) == y_qry
        return cross_entropy(qry_logits, y_qry), hits.mean()

    gradient = jmeta.task_value_and_grad(task_loss, has_aux=True, chunk_size=1)

    @jax.jit
    def step(params, opt_state, tasks):
        (loss, accuracies), grads = gradient(params, tasks)
        updates, opt_state = meta_opt.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return params, opt_state, (loss, accuracies.mean())

    return meta_opt.init, step


def train(params, init, step, batches):
    """A step for each batch of tasks; the query losses and accuracies."""
    opt_state, log = init(params), []
    for tasks in batches:
        params, opt_state, logged = step(params, opt_state, tasks)
        log.append(logged)
    return jax.device_get(log)
