"""Meta-SGD: a learned rate for every weight."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jmeta._core import validate
from jmeta._core.settings import PerLeaf
from jmeta._core.tree import strongly_typed
from jmeta._core.typing import Key, Params, PyTree
from jmeta.adjoint import Adjoint, Unroll
from jmeta.algorithms._base import (
    Adapted,
    TaskLoss,
    check_params,
    check_task,
    make_learner,
)
from jmeta.tasks import Task


class MetaSGDParams(NamedTuple):
    """What Meta-SGD learns.

    Attributes:
        params: Initial weights.
        lr: Learning rates, a tree like `params`; each leaf has the shape of its weight
            or broadcasts to it.
    """

    params: PyTree
    lr: PyTree


def meta_sgd_params(params: Params, lr: chex.Numeric = 0.01) -> MetaSGDParams:
    """Make Meta-SGD's first meta-parameters: the weights, and one rate for all entries.

    Args:
        params: Initial weights, a pytree of float arrays.
        lr: Initial learning rate of every entry, a scalar.

    Returns:
        The weights, and rates of the same shapes.

    Raises:
        TypeError: `params` are no floats, or `lr` is no number.

    Example:
        >>> import jax.numpy as jnp
        >>> meta_sgd_params({"w": jnp.zeros(2)}, lr=0.5).lr["w"].tolist()
        [0.5, 0.5]
    """
    validate.floats("params", params, use="Pass the initial weights.")
    validate.number("lr", lr)
    params = strongly_typed(params)
    return MetaSGDParams(params, jax.tree.map(lambda w: jnp.full_like(w, lr), params))


def meta_sgd(
    apply_fn: Callable[..., Any],
    tx: optax.GradientTransformation,
    steps: int,
    *,
    loss_fn: Callable[..., Any],
    adjoint: Adjoint = Unroll(),  # noqa: B008 (frozen, without state)
) -> TaskLoss:
    """Meta-SGD: MAML that also learns a rate for every weight.

    With a rate for every weight the direction of a step is learned too.

        adapted = theta
        adapted <- adapted - lr * grad L_support(adapted)     `steps` times
        loss    = L_query(adapted)

    Args:
        apply_fn: `apply_fn(params, inputs[, key=])`, which gives outputs. Make it of a
            module by `make_functional(module, state=False)`.
        tx: An optimizer with a setting `lr`, whose own value is not used: the paper's
            `jmeta.optim.sgd()`, or any other of `jmeta.optim`.
        steps: Number of inner steps, from 0; 1 in the paper.
        loss_fn: `loss_fn(outputs, targets)`, a scalar; used on support and query set.
        adjoint: How the loop is differentiated.

    Returns:
        `task_loss(meta_params, task, key=None) -> (loss, Adapted)`. The meta-parameters
        are a `MetaSGDParams`, first made by `meta_sgd_params(params, lr)`.

    Raises:
        TypeError: An argument of the wrong kind, a task that is no `jmeta.Task`, or
            meta-parameters without rates.
        ValueError: `tx` has no `lr`, or the rates are no tree like the weights.

    Example:
        >>> import jax, jax.numpy as jnp, jmeta
        >>> mse = lambda outputs, targets: jnp.mean((outputs - targets) ** 2)
        >>> x = jnp.ones(4)
        >>> task = jmeta.Task(support=(x, 2 * x), query=(x, 3 * x))
        >>> task_loss = meta_sgd(lambda w, x: w * x, jmeta.optim.sgd(), 1, loss_fn=mse)
        >>> meta_params = meta_sgd_params(0.0, lr=0.25)
        >>> jax.tree.map(float, jax.grad(task_loss, has_aux=True)(meta_params, task)[0])
        MetaSGDParams(params=-2.0, lr=-16.0)

    References:
        Li et al. (2017), Meta-SGD: learning to learn quickly for few-shot learning,
        arXiv:1707.09835.
    """
    model = make_learner(apply_fn, tx, steps, loss_fn)
    validate.adjoint("adjoint", adjoint)

    def task_loss(
        meta_params: MetaSGDParams, task: Task, key: Key | None = None
    ) -> tuple[jax.Array, Adapted]:
        check_task(task, key)
        check_params(meta_params, MetaSGDParams, "meta_sgd_params")
        params, rates = meta_params.params, {"lr": PerLeaf(meta_params.lr)}
        run = model.adapt(params, task, key, hyperparams=rates, adjoint=adjoint)
        loss, outputs = model.query_loss(run.params, task, key)
        return loss, Adapted(outputs, run.losses)

    return task_loss
