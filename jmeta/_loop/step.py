"""One training step: its inputs, its outputs and the function that computes it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import keystr, tree_leaves_with_path

from jmeta._core.tree import allow_mixed_dtypes, cast_like, is_float
from jmeta._core.typing import Key, PyTree
from jmeta._jaxpr.remembered import preserving_rules
from jmeta._loop.objective import Inputs
from jmeta.adjoint._base import Gradient, Objective, Start, Step, missing_output
from jmeta.optim._finite.update_guard import accepted_extras, guarded_update
from jmeta.optim.hyperparams import Assignment, override, restore, stop_gradient


class Carry(NamedTuple):
    """The values that go from step to step.

    Attributes:
        params: The trained parameters.
        opt_state: The optimizer's state.
        state: The model's state, None without one.
    """

    params: PyTree
    opt_state: PyTree
    state: PyTree


def without_derivative(carry: Carry) -> Carry:
    """Stop the gradient of a carry, except for the optimizer's hyperparameters.

    Args:
        carry: A step's carry, whose model state has no gradient in any case.
    """
    return Carry(
        jax.lax.stop_gradient(carry.params),
        stop_gradient(carry.opt_state),
        carry.state,
    )


class StepInput(NamedTuple):
    """The values that differ between steps.

    Attributes:
        step: Index of the step, an int32 scalar.
        batch: The step's slice of `batches`, None without them.
        hyperparams: The step's slice of each override that has a steps axis.
        perturbation: What is added to the parameters, None without perturbations.
    """

    step: jax.Array
    batch: PyTree
    hyperparams: PyTree
    perturbation: PyTree


class StepOutput(NamedTuple):
    """The outputs of a step.

    Attributes:
        loss: The loss before the step, a scalar.
        aux: The objective's auxiliary output, None without `has_aux`.
        params: The parameters that the step started from, None without history.
    """

    loss: jax.Array
    aux: PyTree
    params: PyTree


class Training(NamedTuple):
    """The parts of a training step that are the same at every step.

    Attributes:
        tx: The transform.
        overrides: The overrides of the transform's settings.
        grad_callback: Function from gradients to gradients, or None.
        batch: Data that every step sees, None without it.
        key: The loop's PRNG key, None without one.
        history: Whether a step gives the parameters that it started from.
    """

    tx: optax.GradientTransformation
    overrides: list[Assignment]
    grad_callback: Callable[[PyTree], PyTree] | None
    batch: PyTree
    key: Key | None
    history: bool

    def xs(self, steps: int, batches: PyTree, perturbations: PyTree) -> StepInput:
        """Collect the inputs of all steps, with leading axis `steps`.

        Args:
            steps: Number of steps.
            batches: Data with leading axis `steps`, or None.
            perturbations: A tree like the history, or None.
        """
        return StepInput(
            step=jnp.arange(steps, dtype=jnp.int32),
            batch=batches,
            hyperparams=[assignment.xs for assignment in self.overrides],
            perturbation=jax.tree.map(lambda d: d[:-1], perturbations),
        )

    def inputs(self, carry: Carry, x: StepInput) -> Inputs:
        """Make the objective's inputs at a step.

        Args:
            carry: The step's carry, whose model state is used.
            x: The step's input.
        """
        key = None if self.key is None else jax.random.fold_in(self.key, x.step)
        batch = self.batch if x.batch is None else x.batch
        return Inputs(carry.state, batch, key)

    def make_step(
        self, objective: Objective, gradient: Gradient, start: Start | None = None
    ) -> Step:
        """Make the step for one way to compute the inner gradient.

        Args:
            objective: The inner objective.
            gradient: Computes the inner gradient.
            start: Which steps are taken, and where the others are computed; None when
                all are taken. See `jmeta.adjoint._active` for the reason.

        Returns:
            `(carry, x) -> (carry, y)`, as `jax.lax.scan` takes it.
        """
        train = self._make_training_step(objective, gradient)
        if start is not None:
            train = _if_active(train, start)

        def step(carry: Carry, x: StepInput) -> tuple[Carry, StepOutput]:
            carry = _perturbed(carry, x)
            new, loss, aux = train(carry, x)
            return new, StepOutput(loss, aux, carry.params if self.history else None)

        # The objective has been rewritten, but the functions that a `jax.custom_vjp`
        # rule calls appear only when the gradient is traced, so the step is rewritten.
        return preserving_rules(step) if objective.foreign_rules else step

    def _make_training_step(self, objective, gradient):
        tx, update = self.tx, guarded_update(self.tx)

        def train(carry: Carry, x: StepInput) -> tuple[Carry, jax.Array, PyTree]:
            params, inputs = carry.params, self.inputs(carry, x)
            (loss, extra), grads = gradient(params, inputs)
            if self.grad_callback is not None:
                grads = _same_tree(self.grad_callback(grads), grads)

            def value_fn(params: PyTree) -> jax.Array:
                return objective.pure(objective.captured, params, inputs)[0]

            extras = accepted_extras(
                tx, {"value": loss, "grad": grads, "value_fn": value_fn}
            )
            before = override(carry.opt_state, self.overrides, x.step, x.hyperparams)
            updates, opt_state = update(grads, before, params, **extras)
            opt_state = restore(opt_state, carry.opt_state, self.overrides)
            new = Carry(
                optax.apply_updates(params, updates),
                _like_opt_state(opt_state, carry.opt_state),
                extra.state,
            )
            return new, loss, extra.aux

        return train


def _if_active(train, start):
    """Make a step that does nothing from index `start.active` on."""
    carry = _perturbed(start.carry, start.x)
    elsewhere = jax.lax.stop_gradient((carry, start.x))

    def train_if_active(carry, x):
        on = x.step < start.active
        new, *given = train(*_where(on, (carry, x), elsewhere))
        given = jax.tree.map(jnp.asarray, given)
        nothing = jax.tree.map(missing_output, given)
        return _where(on, new, carry), *_where(on, given, nothing)

    return train_if_active


def _perturbed(carry: Carry, x: StepInput) -> Carry:
    if x.perturbation is None:
        return carry
    return carry._replace(params=perturbed(carry.params, x.perturbation))


def perturbed(params: PyTree, shifts: PyTree) -> PyTree:
    """Add shifts to the parameters, in the parameters' own precision.

    Args:
        params: The trained parameters.
        shifts: A tree like them.
    """

    def add(param, shift):
        with allow_mixed_dtypes(param, shift):
            return (param + shift).astype(param.dtype)

    return jax.tree.map(add, params, shifts)


def _where(on, tree, otherwise):
    return jax.tree.map(lambda a, b: jnp.where(on, a, b), tree, otherwise)


def _same_tree(grads, before):
    if jax.tree.structure(grads) != jax.tree.structure(before):
        raise ValueError(
            "`grad_callback` must give gradients like those it gets; got"
            f" {jax.tree.structure(grads)} for {jax.tree.structure(before)}."
        )
    for (path, grad), like in zip(
        tree_leaves_with_path(grads), jax.tree.leaves(before), strict=True
    ):
        if not is_float(grad):
            raise ValueError(
                "`grad_callback` must give gradients that are real floats; leaf"
                f" {keystr(path)!r} has dtype {jnp.result_type(grad)}."
            )
        if jnp.shape(grad) != like.shape:
            raise ValueError(
                f"`grad_callback` must keep the shapes of the gradients; leaf"
                f" {keystr(path)!r} went from {like.shape} to {jnp.shape(grad)}."
            )
    return cast_like(grads, before)


def _like_opt_state(opt_state, before):
    """Cast the new optimizer state to the old one's dtypes, for a loop's carry."""
    if jax.tree.structure(opt_state) != jax.tree.structure(before):
        raise ValueError(
            "`tx.update` must keep the structure of its state; it went from"
            f" {jax.tree.structure(before)} to {jax.tree.structure(opt_state)}."
        )
    for (path, new), old in zip(
        tree_leaves_with_path(opt_state), jax.tree.leaves(before), strict=True
    ):
        if jnp.shape(new) != jnp.shape(old):
            raise ValueError(
                "`tx.update` must keep the shapes of its state; leaf"
                f" {keystr(path)!r} went from {jnp.shape(old)} to {jnp.shape(new)}."
            )
    return cast_like(opt_state, before)
