"""Reptile, a first-order algorithm."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from jmeta._core.typing import Key, PyTree
from jmeta.adjoint import proximal
from jmeta.algorithms._base import Adapted, TaskLoss, check_task, make_learner
from jmeta.tasks import Task


def reptile(
    apply_fn: Callable[..., Any],
    tx: optax.GradientTransformation,
    steps: int,
    *,
    loss_fn: Callable[..., Any],
) -> TaskLoss:
    """Reptile: initial weights near the adapted ones of every task.

        adapted = theta
        adapted <- adapted - lr grad L_support(adapted)     `steps` times
        loss    = 0.5 ||theta - stop_gradient(adapted)||^2

    The gradient of this loss is Reptile's `theta - adapted`: outer SGD with rate
    epsilon is the paper's `theta + epsilon (adapted - theta)`, averaged over tasks.
    The loop itself is not differentiated. The loss is a distance and does not say how
    well tasks are learned: for that compare `aux.outputs` with the targets, or evaluate
    with `maml`, which adapts in the same way.

    Args:
        apply_fn: `apply_fn(params, inputs[, key=])`, which gives outputs. Make it of a
            module by `make_functional(module, state=False)`.
        tx: The inner optimizer, any optax transform; Adam with `betas=(0, 0.999)` in
            the paper.
        steps: Number of inner steps, from 0. Take more than one: a single step of
            SGD is plain training on the mean of the tasks.
        loss_fn: `loss_fn(outputs, targets)`, a scalar; minimised on the support set.

    Returns:
        `task_loss(params, task, key=None) -> (loss, Adapted)`.

    Raises:
        TypeError: An argument of the wrong kind, or a task that is no `jmeta.Task`.

    Example:
        >>> import jax, jax.numpy as jnp, jmeta
        >>> mse = lambda outputs, targets: jnp.mean((outputs - targets) ** 2)
        >>> x = jnp.ones(4)
        >>> task = jmeta.Task(support=(x, 2 * x), query=(x, 3 * x))
        >>> tx = jmeta.optim.sgd(lr=0.25)
        >>> task_loss = reptile(lambda w, x: w * x, tx, 2, loss_fn=mse)
        >>> grad, aux = jax.grad(task_loss, has_aux=True)(0.0, task)
        >>> float(grad), aux.outputs.tolist()
        (-1.5, [1.5, 1.5, 1.5, 1.5])

    References:
        Nichol et al. (2018), On first-order meta-learning algorithms,
        arXiv:1803.02999.
    """
    model = make_learner(apply_fn, tx, steps, loss_fn)

    def task_loss(
        params: PyTree, task: Task, key: Key | None = None
    ) -> tuple[jax.Array, Adapted]:
        check_task(task, key)
        # The adapted weights are constants of the loss, so the loop is cut off.
        run = model.adapt(jax.lax.stop_gradient(params), task, key)
        adapted = jax.lax.stop_gradient(run.params)
        outputs = model.query_loss(adapted, task, key)[1]
        return proximal(params, adapted, 1.0), Adapted(outputs, run.losses)

    return task_loss
