"""The inner loop: training as one compiled, differentiable function."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jmeta._core import validate
from jmeta._core.tree import split_by_path, strongly_typed
from jmeta._core.typing import Key, Params, Path, PyTree
from jmeta._core.varying import in_shard_map, make_varying, varying_axes
from jmeta._jaxpr.hoist import hoist
from jmeta._loop import checks
from jmeta._loop.objective import make_objective
from jmeta._loop.step import Carry, Training, perturbed, without_derivative
from jmeta.adjoint import Adjoint, Unroll
from jmeta.adjoint._base import Loop, Objective, Outcome, first_slice
from jmeta.adjoint._gradient import reverse_gradient
from jmeta.optim.hyperparams import assign


class Run(NamedTuple):
    """The result of an inner loop.

    Attributes:
        params: The trained parameters, frozen ones included.
        opt_state: The optimizer's state, with its own hyperparameters in place of
            overrides.
        state: The model's state, None without one.
        losses: `losses[t]` is the loss before step t, shape `[steps]`; NaN, without
            derivative, where that step was not taken. See `mean_loss`.
        aux: The objective's auxiliary output, leading axis `steps`; None without
            `has_aux`. Where a step was not taken, it is NaN, or 0 for integers.
        history: The trained parameters at each time, leading axis `steps + 1`; None
            without `history=True`.
        steps_taken: Number of steps that were taken, with `active` or with an adjoint
            that has a tolerance; else None.
        residual: Norm of the condition's residual at the end, a scalar; None unless the
            adjoint is implicit.
    """

    params: PyTree
    opt_state: PyTree
    state: PyTree
    losses: jax.Array
    aux: PyTree
    history: PyTree
    steps_taken: jax.Array | None = None
    residual: jax.Array | None = None

    @property
    def mean_loss(self) -> jax.Array:
        """The mean of `losses` over the steps that were taken; NaN if none was.

        It is NaN too if the loss of a step that was taken is NaN. For a run that comes
        out of `jax.vmap` with the loops along the leading axes, it is one mean for each
        loop.

        Example:
            >>> import jax, jmeta
            >>> square = lambda w: w**2
            >>> sgd = jmeta.optim.sgd(lr=0.25)
            >>> loop = lambda n: jmeta.inner_loop(square, 2.0, sgd, 3, active=n)
            >>> run = jax.vmap(loop)(jax.numpy.array([1, 2]))
            >>> run.losses[:, :2].tolist(), run.mean_loss.tolist()
            ([[4.0, nan], [4.0, 1.0]], [4.0, 2.5])
        """
        if self.steps_taken is None:
            return self.losses.mean(-1)
        index = jax.lax.broadcasted_iota(
            jnp.int32, self.losses.shape, self.losses.ndim - 1
        )
        taken = index < self.steps_taken[..., None]
        total = jnp.where(taken, self.losses, 0).sum(-1)
        some = self.steps_taken > 0
        count = jnp.where(some, self.steps_taken, 1).astype(total.dtype)
        return jnp.where(some, total / count, jnp.nan)

    def parameters(self, time: int = -1) -> PyTree:
        """Return the parameters after `time` steps, frozen ones included.

        Args:
            time: Number of steps, from 0; negative times count from the end.

        Returns:
            A tree like `params`.

        Raises:
            ValueError: The history was not kept, or the run is of several loops.
            IndexError: There is no such time.
        """
        if self.history is None:
            raise ValueError(
                "`parameters(time=...)` needs the history; call"
                " `inner_loop(..., history=True)`."
            )
        if self.losses.ndim != 1:
            raise ValueError(
                "`parameters(time=...)` needs the run of a single loop; got one with"
                f" `losses` of shape {self.losses.shape}. Call it in the function that"
                " is mapped, or map it over the run."
            )
        checks.time(time, len(self.losses) + 1)
        return jax.tree.map(
            lambda param, kept: param if kept is None else kept[time],
            self.params,
            self.history,
        )


def inner_loop(
    apply_fn: Callable[..., Any],
    params: Params,
    tx: optax.GradientTransformation,
    steps: int,
    *,
    loss_fn: Callable[..., Any] | None = None,
    batch: PyTree = None,
    batches: PyTree = None,
    hyperparams: Mapping[str, Any] | None = None,
    opt_state: PyTree = None,
    state: PyTree = None,
    key: Key | None = None,
    has_aux: bool = False,
    grad_callback: Callable[[PyTree], PyTree] | None = None,
    trainable: Callable[[Path], bool] | None = None,
    adjoint: Adjoint = Unroll(),  # noqa: B008 (frozen, without state)
    history: bool = False,
    perturbations: PyTree = None,
    active: chex.Numeric | None = None,
) -> Run:
    """Train for some steps, so that the whole result can be differentiated.

    Take `jax.grad` of anything computed from the result: with respect to `params`,
    hyperparameters, data, or values that `apply_fn` and `loss_fn` capture. The loop is
    one `jax.lax.scan`, so compile time does not grow with `steps`. `inner_loop` does
    not jit anything: jit the outer function, so that JAX caches that.

    Args:
        apply_fn: Function `apply_fn(params[, state][, inputs][, key=])` that gives
            outputs, or `(outputs, new_state)` with `state`; see `make_functional`.
            Without `loss_fn` its output is the scalar objective.
        params: Initial parameters, a pytree of float arrays.
        tx: A transform of `jmeta.optim` or of optax. In the update of the latter,
            operations at a point where their slope is infinite, such as the root of a
            second moment of 0, are constants for derivatives. The few transforms that
            need more (`optax.radam`) are named in `jmeta/optim/README.md`: wrap them
            in `jmeta.optim.finite`.
        steps: Number of steps, a Python integer from 0; for a traced number see
            `active`.
        loss_fn: Function `loss_fn(outputs, targets)` that gives the scalar objective.
        batch: Data that every step sees: `(inputs, targets)` with `loss_fn`, else the
            inputs.
        batches: Data with leading axis `steps`, one slice for each step; replaces
            `batch`.
        hyperparams: Overrides of the transform's settings by name: a number, an array
            of shape `[steps]`, a callable `step -> value`, a tuple or list for a pair
            such as `betas`, `PerLeaf`, `PerStep`, or `{label: override}` for parameter
            groups and parts of an `optax.named_chain`. An override replaces a schedule
            and never sticks: `opt_state.hyperparams` keeps the transform's own values.
        opt_state: Optimizer state to continue from, cast to the dtypes of
            `tx.init(params)`, which is the default. Its hyperparameters replace the
            constructor's.
        state: Mutable model state, a pytree of arrays that is carried from step to
            step; it carries no gradient.
        key: PRNG key; `apply_fn` gets `key=jax.random.fold_in(key, t)` at step t.
        has_aux: Whether the objective is `(loss, aux)`.
        grad_callback: Function from gradients to gradients that is applied before the
            transform, such as clipping.
        trainable: Predicate on a parameter's path, such as `("head", "kernel")`: is it
            trained? The others are constants of the loop, which the outer gradient
            still reaches. `history`, `perturbations` and `opt_state` hold None for
            them.
        adjoint: How the loop is differentiated, an object of `jmeta.adjoint`.
        history: Whether to keep the parameters at each time.
        perturbations: A tree like the history, added to the parameters at each time.
            At zeros, its gradient is the one with respect to `parameters(time=t)`.
        active: Number of steps that are taken, up to `steps`; an integer scalar, which
            may be traced and differ between tasks under `vmap`. The other steps do
            nothing and have no part in any derivative. A traced number below 0 counts
            as 0, one above `steps` as `steps`.

    Returns:
        The trained parameters with everything else that the loop gave, a `Run`.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: An argument does not fit the others; the message says which.

    Example:
        >>> import jax, jmeta
        >>> tx = jmeta.optim.sgd()
        >>> def meta_loss(lr):
        ...     objective = lambda w: (w - 3.0) ** 2
        ...     run = jmeta.inner_loop(objective, 0.0, tx, 2, hyperparams={"lr": lr})
        ...     return (run.params - 3.0) ** 2
        >>> loss, hypergrad = jax.jit(jax.value_and_grad(meta_loss))(0.25)
        >>> float(loss), float(hypergrad)
        (0.5625, -9.0)

    References:
        Grefenstette et al. (2019), Generalized inner loop meta-learning,
        arXiv:1910.01727.
    """
    checks.steps(steps)
    validate.transform("tx", tx)
    checks.one_batch(batch, batches, steps)
    checks.functions(loss_fn, grad_callback, trainable)
    validate.adjoint("adjoint", adjoint)
    active = checks.active(active, steps)
    validate.flag("has_aux", has_aux)
    validate.flag("history", history)
    validate.arrays("params", params, some=False)
    validate.arrays("state", state, some=False)
    if hyperparams is not None:
        must, use = "a dict from names to values", 'Pass `{"lr": 0.1}`.'
        validate.instance("hyperparams", hyperparams, Mapping, must, use=use)
    if key is not None:
        validate.key("key", key)
    params, state, batch, batches = strongly_typed((params, state, batch, batches))
    trained, merge = split_by_path(params, trainable or (lambda path: True))
    checks.trained(trained)
    if opt_state is None:
        opt_state = tx.init(trained)
    else:
        opt_state = checks.opt_state(opt_state, tx, trained)
    if perturbations is not None:
        validate.arrays("perturbations", perturbations, some=False)
        perturbations = strongly_typed(perturbations)
        checks.perturbations(perturbations, trained, steps)
    overrides = assign(hyperparams or {}, opt_state, steps, params)
    carry = Carry(trained, strongly_typed(opt_state), jax.lax.stop_gradient(state))
    training = Training(
        tx=tx,
        overrides=overrides,
        grad_callback=grad_callback,
        batch=batch,
        key=key,
        history=history,
    )
    xs = training.xs(steps, batches, perturbations)

    def objective_of(carry: Carry) -> Objective:
        inputs = jax.eval_shape(training.inputs, carry, first_slice(xs))
        args = apply_fn, loss_fn, has_aux, merge
        return make_objective(*args, carry.params, inputs)

    # Inside shard_map each device trains parameters of its own, see `make_varying`.
    axes = varying_axes((carry, batch, xs, hyperparams, key, active))
    # If the counts differ between devices, so do the slices that a step sees.
    xs = make_varying(xs, varying_axes(active))
    objective = objective_of(carry := make_varying(carry, axes))
    # Inside shard_map the objective is traced twice. The values that the user's
    # functions capture can differ over further axes, and they are known only after the
    # first trace; the second one has parameters that differ over these axes too.
    if in_shard_map():
        step = training.make_step(objective, reverse_gradient(objective))
        captured = hoist(step, carry, first_slice(xs)).captured
        objective = objective_of(
            carry := make_varying(carry, axes | varying_axes(captured))
        )
    loop = Loop(
        objective=objective,
        make_step=functools.partial(training.make_step, objective),
        inputs=training.inputs,
        carry=carry,
        xs=xs,
        steps=steps,
        active=active,
        without_derivative=without_derivative,
        perturbations=perturbations,
    )
    outcome = adjoint(loop)
    validate.instance("adjoint", outcome, Outcome, "one that gives an `Outcome`")
    if outcome.steps_taken is None:
        outcome = outcome._replace(steps_taken=active)
    return _finish(outcome, merge, perturbations, history)


def _finish(outcome, merge, perturbations, history):
    """Make the `Run`, with the perturbation and the parameters of the last time."""
    (trained, opt_state, state), ys = outcome.carry, outcome.ys
    if perturbations is not None:
        last = jax.tree.map(lambda d: d[-1], perturbations)
        trained = perturbed(trained, last)
    kept = None
    if history:
        kept = jax.tree.map(
            lambda ps, p: jnp.concatenate([ps, p[None]]), ys.params, trained
        )
    return Run(
        params=merge(trained),
        opt_state=opt_state,
        state=state,
        losses=ys.loss,
        aux=ys.aux,
        history=kept,
        steps_taken=outcome.steps_taken,
        residual=outcome.residual,
    )
