"""MAML++: MAML with changes that make its training stable."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
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
    make_learner,
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
    params: PyTree, steps: int, lr: chex.Numeric = 0.01, state: PyTree = None
) -> MAMLPlusPlusParams:
    """Make MAML++'s first meta-parameters: one rate and statistics for all steps.

    Args:
        params: Initial weights, a pytree of float arrays.
        steps: Number of inner steps that get rates and statistics of their own.
        lr: Initial learning rate of every layer and step, a scalar.
        state: BatchNorm's running statistics, the third result of
            `make_functional(model)`; None for a model without them.

    Returns:
        The weights, rates of shape `[steps]`, and statistics with leading axis `steps`.

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


def msl_weights(steps: int, epoch: chex.Numeric, epochs: int) -> jax.Array:
    """Compute the paper's annealed weights of the loss after each step.

    Pass them to `maml_plus_plus` as `step_weights`. At epoch 0 all are equal. Then
    those of the early steps fall linearly, to no less than 0.03 of their first value,
    and that of the last step rises. From epoch `epochs` on only the last is not 0.

    Args:
        steps: Number of inner steps.
        epoch: The current epoch, from 0; may be traced.
        epochs: Number of epochs with a multi-step loss.

    Returns:
        Weights of sum 1, shape `[steps]`.

    Raises:
        TypeError: `steps` or `epochs` is no Python integer.
        ValueError: `steps` or `epochs` is below 1, or `epoch` below 0.

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
        apply_fn: `apply_fn(params, inputs[, key=])`, which gives outputs. If the
            meta-parameters have statistics, `apply_fn(params, state, inputs[, key=])`,
            which gives `(outputs, new_state)`.
        tx: An optimizer with a setting `lr`, whose own value is not used: the paper's
            `jmeta.optim.sgd()`, or any other of `jmeta.optim`.
        steps: Number of inner steps, from 0. Steps beyond those with learned rates
            use the last rates.
        loss_fn: `loss_fn(outputs, targets)`, a scalar; used on support and query set.
        step_weights: Weights of the query loss after each step, shape `[steps]`, such
            as `msl_weights` gives; may be traced. Default: only the loss after the last
            step counts.
        adjoint: How the loop is differentiated. For the paper's first-order early
            epochs build another loss with `Unroll(order=1)`.

    Returns:
        `task_loss(meta_params, task, key=None) -> (loss, Adapted)`. The meta-parameters
        are a `MAMLPlusPlusParams`. The statistics add nothing to the loss, but the
        gradient by `state` is the old statistics minus the new ones. So outer SGD with
        rate 1 for this part (by `optax.partition`) updates them as BatchNorm does.

    Raises:
        TypeError: An argument of the wrong kind, a task that is no `jmeta.Task`, or
            meta-parameters that are weights alone.
        ValueError: `step_weights` of another shape, or `tx` has no `lr`.

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
    model = make_learner(apply_fn, tx, steps, loss_fn)
    validate.adjoint("adjoint", adjoint)
    _check_weights(step_weights, steps)

    def task_loss(
        meta_params: MAMLPlusPlusParams, task: Task, key: Key | None = None
    ) -> tuple[jax.Array, Adapted]:
        check_task(task, key)
        check_params(meta_params, MAMLPlusPlusParams, "maml_plus_plus_params")
        rates, states = _entries_for_steps((meta_params.lr, meta_params.state), steps)
        run = inner_loop(
            *(_loss_on(model, task.support), meta_params.params, tx, steps),
            # Each step gets its own statistics, through which no gradient goes.
            batches=jax.lax.stop_gradient(states),
            hyperparams={"lr": PerStep(PerLeaf(rates))},
            key=key,
            has_aux=True,
            adjoint=adjoint,
            history=step_weights is not None,
        )
        query_loss = _loss_on(model, task.query, model.query_key(key))
        loss, outputs, new_states = _weighted_loss(
            query_loss, run, meta_params, step_weights
        )
        loss += _statistics_update(states, new_states)
        return loss, Adapted(outputs, run.losses)

    return task_loss


def _check_weights(step_weights, steps):
    if step_weights is not None and jnp.shape(step_weights) != (steps,):
        raise ValueError(
            f"`step_weights` must have a weight for each of the `steps`={steps}; got"
            f" shape {jnp.shape(step_weights)}. Make them by `msl_weights`."
        )


def _entries_for_steps(tree, steps):
    """The first `steps` entries of every leaf; where they run out the last one."""
    index = lambda x: np.minimum(np.arange(steps), len(x) - 1)
    return jax.tree.map(lambda x: x[index(x)], tree)


def _loss_on(model, data, key=None):
    """The loss on data as a function of parameters and of any BatchNorm statistics."""
    inputs, targets = data

    def loss(params, state=None, key=key):
        if state is None:
            outputs = model.apply_fn(params, inputs, key=key)
        else:
            outputs, state = model.apply_fn(params, state, inputs, key=key)
        return model.loss_fn(outputs, targets), (outputs, jax.lax.stop_gradient(state))

    return loss


def _weighted_loss(query_loss, run, meta_params, step_weights):
    """Weighted query loss, the last outputs, statistics after support and query set."""
    last = lambda tree: jax.tree.map(lambda x: x[-1], tree)
    if not len(run.losses):
        # Without steps the model has not adapted and uses the first step's statistics.
        state = jax.tree.map(lambda x: x[0], meta_params.state)
        loss, (outputs, _) = query_loss(run.params, state)
        return loss, outputs, jax.tree.map(lambda x: x[:0], meta_params.state)
    _, states = run.aux
    if step_weights is None:
        loss, (outputs, state) = query_loss(run.params, last(states))
        states = jax.tree.map(lambda x, new: x.at[-1].set(new), states, state)
        return loss, outputs, states
    # The history begins with the initial weights; the loss is that after each step.
    thetas = jax.tree.map(lambda x: x[1:], run.history)
    losses, (outputs, states) = jax.vmap(query_loss)(thetas, states)
    return jnp.sum(jnp.asarray(step_weights) * losses), last(outputs), states


def _statistics_update(states, new_states):
    """The number 0, whose gradient by the statistics is the old minus the new ones."""
    if states is None:
        return 0
    # Subtracting the distance itself makes the number 0 and leaves its gradient.
    distance = proximal(states, jax.lax.stop_gradient(new_states), 1.0)
    return distance - jax.lax.stop_gradient(distance)
