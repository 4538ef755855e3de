"""Implicit MAML."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.typing import ArrayLike

from jmeta._core import validate
from jmeta._core.typing import Key, PyTree
from jmeta._loop.inner_loop import inner_loop
from jmeta.adjoint import Adjoint, Implicit, Unroll, proximal
from jmeta.algorithms._base import Adapted, TaskLoss, check_task, learner
from jmeta.tasks import Task


def imaml(
    apply_fn: Callable[..., Any],
    tx: optax.GradientTransformation,
    steps: int,
    *,
    loss_fn: Callable[..., Any],
    weight: ArrayLike,
    adjoint: Adjoint = Implicit(),  # noqa: B008 (frozen, without state)
) -> TaskLoss:
    """iMAML: weights near which every task has its solution, however it is found.

        adapted = argmin L_support(phi) + weight / 2 ||phi - theta||^2
        loss    = L_query(adapted)
        dadapted/dtheta = (I + L_support''(adapted) / weight)^-1

    Args:
        apply_fn: As in `maml`, and so are `tx` and `loss_fn`.
        tx: See `apply_fn`.
        steps: As many as reach the minimum; `aux.residual` says how near they came.
            With 0 the weights themselves are judged.
        loss_fn: See `apply_fn`.
        weight: Strength of the pull to theta, the paper's lambda; may be learned.
        adjoint: `Implicit(solver=CG(maxiter=5), tol=1e-4)` solves as roughly as the
            paper, and ends the loop at that residual. Far from convexity, where the
            matrix is not positive definite, `solver=NormalCG()`.

    Returns:
        `task_loss(params, task, key=None) -> (loss, Adapted)`. All steps share a key,
        `fold_in(key, 0)`, so that what is minimised stays the same.

    Raises:
        TypeError: As `maml`.

    Example:
        >>> import jax, jax.numpy as jnp, jmeta
        >>> mse = lambda outputs, targets: jnp.mean((outputs - targets) ** 2)
        >>> x = jnp.ones(4)
        >>> task = jmeta.Task(support=(x, 2 * x), query=(x, 3 * x))
        >>> tx = jmeta.optim.sgd(lr=0.25)
        >>> task_loss = imaml(lambda w, x: w * x, tx, 30, loss_fn=mse, weight=2.0)
        >>> grad, aux = jax.grad(task_loss, has_aux=True)(0.0, task)
        >>> float(grad), aux.outputs.tolist(), float(aux.residual)
        (-2.0, [1.0, 1.0, 1.0, 1.0], 0.0)

    References:
        Rajeswaran et al. (2019), Meta-learning with implicit gradients,
        arXiv:1909.04630.
    """
    model = learner(apply_fn, tx, steps, loss_fn)
    validate.adjoint("adjoint", adjoint)
    validate.number("weight", weight, low=0.0)

    def task_loss(
        params: PyTree, task: Task, key: Key | None = None
    ) -> tuple[jax.Array, Adapted]:
        check_task(task, key)
        inputs, targets = task.support
        support_key = None if key is None else jax.random.fold_in(key, 0)

        def objective(phi: PyTree) -> tuple[jax.Array, jax.Array]:
            outputs = model.apply_fn(phi, inputs, key=support_key)
            loss = model.loss_fn(outputs, targets)
            return loss + proximal(phi, params, weight), loss

        # without a step there is no solution, and the weights themselves are judged
        start = jax.lax.stop_gradient(params) if steps else params
        way = adjoint if steps else Unroll()
        run = inner_loop(objective, start, tx, steps, has_aux=True, adjoint=way)
        loss, outputs = model.judge(run.params, task, key)
        return loss, Adapted(outputs, run.aux, run.residual)

    return task_loss
