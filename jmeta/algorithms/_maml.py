"""Model-agnostic meta-learning (MAML)."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from jmeta._core import validate
from jmeta._core.typing import Key, PyTree
from jmeta.adjoint import Adjoint, Unroll
from jmeta.algorithms._base import Adapted, TaskLoss, check_task, make_learner
from jmeta.tasks import Task


def maml(
    apply_fn: Callable[..., Any],
    tx: optax.GradientTransformation,
    steps: int,
    *,
    loss_fn: Callable[..., Any],
    adjoint: Adjoint = Unroll(),  # noqa: B008 (frozen, without state)
) -> TaskLoss:
    """MAML: initial weights from which a few steps lead to a low loss.

        adapted = theta
        adapted <- adapted - lr grad L_support(adapted)     `steps` times
        loss    = L_query(adapted)

    Args:
        apply_fn: `apply_fn(params, inputs[, key=])`, which gives outputs. Make it of a
            module by `make_functional(module, state=False)`; BatchNorm then uses the
            statistics of each batch.
        tx: The inner optimizer, any optax transform.
        steps: Number of inner steps, from 0. To evaluate with another number, build
            another loss.
        loss_fn: `loss_fn(outputs, targets)`, a scalar; used on support and query set.
        adjoint: How the loop is differentiated; `Unroll(order=1)` is first-order MAML.

    Returns:
        `task_loss(params, task, key=None) -> (loss, Adapted)`. If `apply_fn` takes a
        key, step t of the loop gets `fold_in(key, t)` and the query set
        `fold_in(key, steps)`.

    Raises:
        TypeError: An argument of the wrong kind, or a task that is no `jmeta.Task`.

    Example:
        >>> import jax, jax.numpy as jnp, jmeta
        >>> mse = lambda outputs, targets: jnp.mean((outputs - targets) ** 2)
        >>> x = jnp.ones(4)
        >>> task = jmeta.Task(support=(x, 2 * x), query=(x, 3 * x))
        >>> tx = jmeta.optim.sgd(lr=0.25)
        >>> task_loss = maml(lambda w, x: w * x, tx, 1, loss_fn=mse)
        >>> (loss, aux), grad = jax.value_and_grad(task_loss, has_aux=True)(0.0, task)
        >>> float(loss), aux.losses.tolist(), float(grad)
        (4.0, [4.0], -2.0)

    References:
        Finn et al. (2017), Model-agnostic meta-learning for fast adaptation of deep
        networks, arXiv:1703.03400.
    """
    model = make_learner(apply_fn, tx, steps, loss_fn)
    validate.adjoint("adjoint", adjoint)

    def task_loss(
        params: PyTree, task: Task, key: Key | None = None
    ) -> tuple[jax.Array, Adapted]:
        check_task(task, key)
        run = model.adapt(params, task, key, adjoint=adjoint)
        loss, outputs = model.query_loss(run.params, task, key)
        return loss, Adapted(outputs, run.losses)

    return task_loss
