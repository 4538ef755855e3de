"""Almost no inner loop (ANIL)."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from jmeta._core import validate
from jmeta._core.typing import Key, Path, PyTree
from jmeta.adjoint import Adjoint, Unroll
from jmeta.algorithms._base import Adapted, TaskLoss, check_task, make_learner
from jmeta.tasks import Task


def anil(
    apply_fn: Callable[..., Any],
    tx: optax.GradientTransformation,
    steps: int,
    *,
    loss_fn: Callable[..., Any],
    trainable: Callable[[Path], bool],
    adjoint: Adjoint = Unroll(),  # noqa: B008 (frozen, without state)
) -> TaskLoss:
    """ANIL: MAML whose inner loop adapts only the head, or any other part.

        head' <- head' - lr grad_head L_support(body, head')     `steps` times
        loss  = L_query(body, head')

    Body and head are both meta-learned. Another part to adapt is low-rank factors
    beside frozen weights (LoRA).

    Args:
        apply_fn: `apply_fn(params, inputs[, key=])`, which gives outputs. Make it of a
            module by `make_functional(module, state=False)`.
        tx: The inner optimizer, any optax transform.
        steps: Number of inner steps, from 0.
        loss_fn: `loss_fn(outputs, targets)`, a scalar; used on support and query set.
        trainable: `trainable(path) -> bool`, whether the inner loop adapts the
            parameter at a path such as `("head", "kernel")`.
        adjoint: How the loop is differentiated.

    Returns:
        `task_loss(params, task, key=None) -> (loss, Adapted)`.

    Raises:
        TypeError: An argument of the wrong kind, or a task that is no `jmeta.Task`.
        ValueError: `trainable` leaves no parameter to adapt.

    Example:
        >>> import jax, jax.numpy as jnp, jmeta
        >>> apply_fn = lambda params, x: params["head"] * params["body"] * x
        >>> mse = lambda outputs, targets: jnp.mean((outputs - targets) ** 2)
        >>> x = jnp.ones(4)
        >>> task = jmeta.Task(support=(x, 2 * x), query=(x, 3 * x))
        >>> tx, head = jmeta.optim.sgd(lr=0.25), lambda path: path == ("head",)
        >>> task_loss = anil(apply_fn, tx, 1, loss_fn=mse, trainable=head)
        >>> params = {"body": 1.0, "head": 0.0}
        >>> jax.tree.map(float, jax.grad(task_loss, has_aux=True)(params, task)[0])
        {'body': -8.0, 'head': -2.0}

    References:
        Raghu et al. (2020), Rapid learning or feature reuse? Towards understanding the
        effectiveness of MAML, arXiv:1909.09157.
    """
    model = make_learner(apply_fn, tx, steps, loss_fn)
    validate.adjoint("adjoint", adjoint)
    use = "Pass `lambda path: path[0] == 'head'` or the like."
    validate.function("trainable", trainable, use=use)

    def task_loss(
        params: PyTree, task: Task, key: Key | None = None
    ) -> tuple[jax.Array, Adapted]:
        check_task(task, key)
        run = model.adapt(params, task, key, trainable=trainable, adjoint=adjoint)
        loss, outputs = model.query_loss(run.params, task, key)
        return loss, Adapted(outputs, run.losses)

    return task_loss
