"""Reptile."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from jmeta._core.typing import Key, PyTree
from jmeta.adjoint import proximal
from jmeta.algorithms._base import Adapted, TaskLoss, check_task, learner
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
    Nothing is differentiated through the loop. The loss is a distance; to see how well
    tasks are learned judge `aux.outputs`, or evaluate with `maml`, which adapts alike.

    Args:
        apply_fn: As in `maml`, and so are `steps` and `loss_fn`.
        tx: The inner optimizer, any optax transform; Adam with `betas=(0, 0.999)` in
            the paper.
        steps: See `apply_fn`. More than one, or only the mean over tasks is learned.
        loss_fn: See `apply_fn`.

    Returns:
        `task_loss(params, task, key=None) -> (loss, Adapted)`.

    Raises:
        TypeError: As `maml`.

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
    model = learner(apply_fn, tx, steps, loss_fn)

    def task_loss(
        params: PyTree, task: Task, key: Key | None = None
    ) -> tuple[jax.Array, Adapted]:
        check_task(task, key)
        run = model.adapt(jax.lax.stop_gradient(params), task, key)
        adapted = jax.lax.stop_gradient(run.params)
        outputs = model.judge(adapted, task, key)[1]
        return proximal(params, adapted, 1.0), Adapted(outputs, run.losses)

    return task_loss
