"""MAML with implicit gradients (iMAML)."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import optax

from jmeta._core import validate
from jmeta._core.typing import Key, PyTree
from jmeta._loop.inner_loop import inner_loop
from jmeta.adjoint import Adjoint, Implicit, Unroll, proximal
from jmeta.algorithms._base import Adapted, TaskLoss, check_task, make_learner
from jmeta.tasks import Task


def imaml(
    apply_fn: Callable[..., Any],
    tx: optax.GradientTransformation,
    steps: int,
    *,
    loss_fn: Callable[..., Any],
    weight: chex.Numeric,
    adjoint: Adjoint = Implicit(),  # noqa: B008 (frozen, without state)
) -> TaskLoss:
    """iMAML: initial weights near which every task has its solution.

    Only the solution matters for the gradient, not the steps that lead to it, so their
    number does not change the memory.

        adapted = argmin L_support(phi) + weight / 2 ||phi - theta||^2
        loss    = L_query(adapted)
        dadapted/dtheta = (I + L_support''(adapted) / weight)^-1

    Args:
        apply_fn: `apply_fn(params, inputs[, key=])`, which gives outputs. Make it of a
            module by `make_functional(module, state=False)`.
        tx: The inner optimizer, any optax transform.
        steps: Number of inner steps, enough to reach the minimum; `aux.residual` says
            how near they came. With 0 the loss is that of the initial weights.
        loss_fn: `loss_fn(outputs, targets)`, a scalar; used on support and query set.
        weight: Strength of the pull to theta, the paper's lambda; may be learned.
        adjoint: How the loop is differentiated. `Implicit(solver=CG(maxiter=5),
            tol=1e-4)` solves as roughly as the paper, and ends the loop at that
            residual. Use `solver=NormalCG()` where the inner loss is so far from convex
            that the matrix is not positive definite.

    Returns:
        `task_loss(params, task, key=None) -> (loss, Adapted)`. All steps share the key
        `fold_in(key, 0)`, so that they minimise the same objective.

    Raises:
        TypeError: An argument of the wrong kind, or a task that is no `jmeta.Task`.

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
    model = make_learner(apply_fn, tx, steps, loss_fn)
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

        # The solution does not depend on where the loop starts, so it is cut off.
        # Without steps there is no solution. The loss is then that of the weights,
        # which must keep their gradient.
        if steps:
            start, used_adjoint = jax.lax.stop_gradient(params), adjoint
        else:
            start, used_adjoint = params, Unroll()
        options = {"has_aux": True, "adjoint": used_adjoint}
        run = inner_loop(objective, start, tx, steps, **options)
        loss, outputs = model.query_loss(run.params, task, key)
        return loss, Adapted(outputs, run.aux, run.residual)

    return task_loss
