"""Few-shot MAML with jmeta: the twin of `higher_maml.py`."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import jmeta


def few_shot_net(ways, rngs, width=64, blocks=3):
    """Convolutions of 28x28 images down to one pixel, then a linear head."""
    layers = []
    for block in range(blocks):
        channels = width if block else 1
        layers += [
            nnx.Conv(channels, width, (3, 3), padding="VALID", rngs=rngs),
            nnx.BatchNorm(width, rngs=rngs),
            nnx.relu,
            partial(nnx.max_pool, window_shape=(2, 2), strides=(2, 2)),
        ]
    flatten = lambda x: x.reshape(len(x), -1)
    return nnx.Sequential(*layers, flatten, nnx.Linear(width, ways, rngs=rngs))


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def adapted(apply_fn, sgd, steps, params, task):
    """Query loss and accuracy of the weights that some steps on the support give."""
    run = jmeta.inner_loop(
        *(apply_fn, params, sgd, steps),
        loss_fn=cross_entropy,
        batch=task.support,
    )
    images, labels = task.query
    logits = apply_fn(run.params, images)
    return cross_entropy(logits, labels), jnp.mean(logits.argmax(1) == labels)


def make_step(apply_fn, steps=5):
    """Adam's initial state, and its step on a batch of tasks, compiled."""
    sgd, adam = jmeta.optim.sgd(lr=0.1), optax.adam(1e-3)
    task_loss = partial(adapted, jmeta.matmul_convs(apply_fn), sgd, steps)
    gradient = jmeta.task_value_and_grad(task_loss, has_aux=True, chunk_size=1)

    @jax.jit
    def step(params, opt_state, tasks):
        (loss, accuracies), grads = gradient(params, tasks)
        updates, opt_state = adam.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return params, opt_state, (loss, accuracies.mean())

    return adam.init, step


def meta_train(params, init, step, batches):
    """A step of Adam for each batch of tasks; mean query losses and accuracies."""
    opt_state, record = init(params), []
    for tasks in batches:
        params, opt_state, means = step(params, opt_state, tasks)
        record.append(means)
    return jax.device_get(record)
