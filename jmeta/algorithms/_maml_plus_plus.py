"""MAML++: what makes MAML's training steady."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from jmeta._core import validate
from jmeta._core.settings import PerLeaf, PerStep
from jmeta._core.tree import strongly_typed
from jmeta._core.typing import Key, PyTree
from jmeta._loop.inner_loop import inner_loop
from jmeta.adjoint import Adjoint, Unroll, proximal
from jmeta.algorithms._base import (
    Adapted,
    TaskLoss,
    check_params,
    check_task,
    learner,
)
from jmeta.tasks import Task


class MAMLPlusPlusParams(NamedTuple):
    """What MAML++ learns.

    Attributes:
        params: Initial weights.
        lr: A rate for each weight array (a layer's kernel, its bias) and step: a tree
            like `params`, leaves of shape `[steps]`.
        state: BatchNorm's running statistics with leading axis `steps`, or None.
    """

    params: PyTree
    lr: PyTree
    state: PyTree = None


def maml_plus_plus_params(
    params: PyTree, steps: int, lr: ArrayLike = 0.01, state: PyTree = None
) -> MAMLPlusPlusParams:
    """MAML++'s first meta-parameters: the same rate and statistics for every step.

    Args:
        params: Initial weights.
        steps: Inner steps to have rates and statistics for.
        lr: Initial rate, a scalar.
        state: The third of what `make_functional(model)` gives for a BatchNorm model.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: `steps` below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> maml_plus_plus_params({"w": jnp.zeros((2, 3))}, steps=5).lr["w"].shape
        (5,)
    """
    validate.floats("params", params, use="Pass the initial weights.")
    validate.count("steps", steps, minimum=1)
    validate.number("lr", lr)
    if state is not None:
        validate.arrays("state", state, use="Pass BatchNorm's statistics, or nothing.")
    params, state = strongly_typed((params, state))
    rates = jax.tree.map(lambda w: jnp.full((steps,), lr, w.dtype), params)
    repeat = lambda x: jnp.broadcast_to(x, (steps, *x.shape))
    return MAMLPlusPlusParams(params, rates, jax.tree.map(repeat, state))


def msl_weights(steps: int, epoch: ArrayLike, epochs: int) -> jax.Array:
    """The paper's annealed weights of the loss after each step, for `step_weights`.

    Equal at epoch 0; then those of early steps go down linearly (to no less than 0.03
    of where they began) in favour of the last, which is alone from `epochs` on.

    Args:
        steps: Inner steps.
        epoch: Epoch from 0, may be traced.
        epochs: Epochs with a multi-step loss.

    Returns:
        Shape `[steps]`, of sum 1.

    Raises:
        TypeError: `steps` or `epochs` that are no Python integers.
        ValueError: One of them below 1, or `epoch` below 0.

    Example:
        >>> [msl_weights(4, epoch, epochs=2).tolist() for epoch in (0, 1, 2)]
        [[0.25, 0.25, 0.25, 0.25], [0.125, 0.125, 0.125, 0.625], [0.0, 0.0, 0.0, 1.0]]
    """
    validate.count("steps", steps, minimum=1)
    validate.number("epoch", epoch, low=0)
    validate.count("epochs", epochs, minimum=1)
    share = jnp.maximum(1 - jnp.asarray(epoch) / epochs, 0.03)
    early = jnp.where(jnp.asarray(epoch) < epochs, share, 0.0) / steps
    return jnp.full((steps,), early).at[-1].set(1 - (steps - 1) * early)


def maml_plus_plus(
    apply_fn: Callable[..., Any],
    tx: optax.GradientTransformation,
    steps: int,
    *,
    loss_fn: Callable[..., Any],
    step_weights: ArrayLike | None = None,
    adjoint: Adjoint = Unroll(),  # noqa: B008 (frozen, without state)
) -> TaskLoss:
    """MAML++: MAML with a rate per layer and step, multi-step loss, BatchNorm per step.

        theta_0   = theta
        theta_t+1 = theta_t - lr_t grad L_support(theta_t; statistics_t)
        loss      = sum_t step_weights_t L_query(theta_t+1; statistics_t)

    Args:
        apply_fn: As in `maml`, and so is `loss_fn`. If the meta-parameters have
            statistics: `(params, state, inputs) -> (outputs, new_state)`.
        tx: As in `meta_sgd`, `jmeta.optim.sgd()` in the paper.
        steps: Inner steps. Those beyond the learned rates repeat the last.
        loss_fn: See `apply_fn`.
        step_weights: Of the query loss after each step, shape `[steps]`, see
            `msl_weights`; may be traced. Default: the loss after the last alone.
        adjoint: For early epochs build another loss with `Unroll(order=1)`.

    Returns:
        `task_loss(meta_params, task, key=None) -> (loss, Adapted)` of
        `MAMLPlusPlusParams`. The gradient of `state` is old statistics minus new, which
        add nothing to the loss: outer SGD with rate 1 for this part (`optax.partition`)
        takes the running average as BatchNorm does.

    Raises:
        TypeError: As `maml`; meta-parameters that are weights alone.
        ValueError: `step_weights` of another shape; `tx` has no `lr`.

    Example:
        >>> import jax, jax.numpy as jnp, jmeta
        >>> mse = lambda outputs, targets: jnp.mean((outputs - targets) ** 2)
        >>> @jax.jit
        ... def meta_loss(meta_params, task, epoch):  # compiled once for all epochs
        ...     weights = msl_weights(2, epoch, epochs=10)
        ...     options = {"loss_fn": mse, "step_weights": weights}
        ...     model, tx = lambda w, x: w * x, jmeta.optim.sgd()
        ...     return maml_plus_plus(model, tx, 2, **options)(meta_params, task)[0]
        >>> x = jnp.ones(4)
        >>> task = jmeta.Task(support=(x, 2 * x), query=(x, 3 * x))
        >>> meta_params = maml_plus_plus_params(0.0, steps=2, lr=0.25)
        >>> [float(meta_loss(meta_params, task, epoch)) for epoch in (0, 10)]
        [3.125, 2.25]

    References:
        Antoniou et al. (2019), How to train your MAML, arXiv:1810.09502. As in its
        code the query after step t shares statistics t with the step.
    """
    model = learner(apply_fn, tx, steps, loss_fn)
    validate.adjoint("adjoint", adjoint)
    _check_weights(step_weights, steps)

    def task_loss(
        meta_params: MAMLPlusPlusParams, task: Task, key: Key | None = None
    ) -> tuple[jax.Array, Adapted]:
        check_task(task, key)
        check_params(meta_params, MAMLPlusPlusParams, "maml_plus_plus_params")
        rates, states = _at_steps((meta_params.lr, meta_params.state), steps)
        run = inner_loop(
            *(_loss_on(model, task.support), meta_params.params, tx, steps),
            batches=jax.lax.stop_gradient(states),
            hyperparams={"lr": PerStep(PerLeaf(rates))},
            key=key,
            has_aux=True,
            adjoint=adjoint,
            history=step_weights is not None,
        )
        query_loss = _loss_on(model, task.query, model.query_key(key))
        loss, outputs, new_states = _judge(query_loss, run, meta_params, step_weights)
        return loss + _follow(states, new_states), Adapted(outputs, run.losses)

    return task_loss


def _check_weights(step_weights, steps):
    if step_weights is not None and jnp.shape(step_weights) != (steps,):
        raise ValueError(
            f"`step_weights` must have a weight for each of the `steps`={steps}; got"
            f" shape {jnp.shape(step_weights)}. Make them by `msl_weights`."
        )


def _at_steps(tree, steps):
    """What each step uses of values with a leading axis, the last for all beyond."""
    index = lambda x: np.minimum(np.arange(steps), len(x) - 1)
    return jax.tree.map(lambda x: x[index(x)], tree)


def _loss_on(model, data, key=None):
    """The loss as a function, with BatchNorm's statistics where there are some."""
    inputs, targets = data

    def loss(params, state=None, key=key):
        if state is None:
            outputs = model.apply_fn(params, inputs, key=key)
        else:
            outputs, state = model.apply_fn(params, state, inputs, key=key)
        return model.loss_fn(outputs, targets), (outputs, jax.lax.stop_gradient(state))

    return loss


def _judge(query_loss, run, meta_params, step_weights):
    """Weighted query loss, the last outputs, statistics after support and query."""
    last = lambda tree: jax.tree.map(lambda x: x[-1], tree)
    if not len(run.losses):  # before adaptation: the first step's statistics
        state = jax.tree.map(lambda x: x[0], meta_params.state)
        loss, (outputs, _) = query_loss(run.params, state)
        return loss, outputs, jax.tree.map(lambda x: x[:0], meta_params.state)
    _, states = run.aux
    if step_weights is None:
        loss, (outputs, state) = query_loss(run.params, last(states))
        states = jax.tree.map(lambda x, new: x.at[-1].set(new), states, state)
        return loss, outputs, states
    thetas = jax.tree.map(lambda x: x[1:], run.history)
    losses, (outputs, states) = jax.vmap(query_loss)(thetas, states)
    return jnp.sum(jnp.asarray(step_weights) * losses), last(outputs), states


def _follow(states, new_states):
    """0, whose gradient in the statistics is the way from the new ones to the old."""
    if states is None:
        return 0
    distance = proximal(states, jax.lax.stop_gradient(new_states), 1.0)
    return distance - jax.lax.stop_gradient(distance)
