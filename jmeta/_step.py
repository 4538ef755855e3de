"""One training step, and what it is made of."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import keystr, tree_leaves_with_path

from jmeta._objective import Inputs
from jmeta._tree import cast_like
from jmeta._typing import Key, PyTree
from jmeta.adjoint._base import Gradient, Objective, Step
from jmeta.optim.hyperparams import Assignment, override, restore, stop_gradient


class Carry(NamedTuple):
    """What goes from step to step; `params` are the trained ones."""

    params: PyTree
    opt_state: PyTree
    state: PyTree


def constant(carry: Carry) -> Carry:
    """The same without derivative, except for the optimizer's hyperparameters."""
    return Carry(
        jax.lax.stop_gradient(carry.params),
        stop_gradient(carry.opt_state),
        jax.lax.stop_gradient(carry.state),
    )


class X(NamedTuple):
    """What differs between steps: the index and slices of what has a steps axis."""

    step: jax.Array
    batch: PyTree
    hyperparams: PyTree
    perturbation: PyTree


class Y(NamedTuple):
    """What a step gives; `params` are those it started from, None without history."""

    loss: jax.Array
    aux: PyTree
    params: PyTree


class Training(NamedTuple):
    """The fixed parts of a training step; see `jmeta.inner_loop` for their meaning."""

    tx: optax.GradientTransformation
    overrides: list[Assignment]
    grad_callback: Callable[[PyTree], PyTree] | None
    batch: PyTree
    key: Key | None
    history: bool
    active: jax.typing.ArrayLike | None

    def xs(self, steps: int, batches: PyTree, perturbations: PyTree) -> X:
        """What differs between steps, leading axis `steps`."""
        return X(
            step=jnp.arange(steps, dtype=jnp.int32),
            batch=batches,
            hyperparams=[assignment.xs for assignment in self.overrides],
            perturbation=jax.tree.map(lambda d: d[:-1], perturbations),
        )

    def inputs(self, carry: Carry, x: X) -> Inputs:
        """What the objective takes at a step beside the parameters."""
        key = None if self.key is None else jax.random.fold_in(self.key, x.step)
        batch = self.batch if x.batch is None else x.batch
        return Inputs(jax.lax.stop_gradient(carry.state), batch, key)

    def make_step(self, objective: Objective, gradient: Gradient) -> Step:
        """Make the step that trains with this way to take the inner gradient."""
        tx = self.tx

        def step(carry: Carry, x: X) -> tuple[Carry, Y]:
            params = carry.params
            if x.perturbation is not None:
                params = jax.tree.map(jnp.add, params, x.perturbation)
                carry = carry._replace(params=params)
            inputs = self.inputs(carry, x)
            (loss, extra), grads = gradient(params, inputs)
            if self.grad_callback is not None:
                grads = _same_tree(self.grad_callback(grads), grads)

            def value_fn(params: PyTree) -> jax.Array:
                return objective.pure(objective.captured, params, inputs)[0]

            extras = _wanted(tx, {"value": loss, "grad": grads, "value_fn": value_fn})
            before = override(carry.opt_state, self.overrides, x.step, x.hyperparams)
            updates, opt_state = tx.update(grads, before, params, **extras)
            opt_state = restore(opt_state, carry.opt_state, self.overrides)
            new = Carry(
                optax.apply_updates(params, updates),
                _like_opt_state(opt_state, carry.opt_state),
                extra.state,
            )
            if self.active is not None:
                on = x.step < jnp.asarray(self.active, x.step.dtype)
                new = jax.tree.map(lambda a, b: jnp.where(on, a, b), new, carry)
                loss = jnp.where(on, loss, 0)
            return new, Y(loss, extra.aux, params if self.history else None)

        return step


def _wanted(tx, extras):
    """The extra arguments that the transform's `update` takes by name."""
    if not isinstance(tx, optax.GradientTransformationExtraArgs):
        return {}
    parameters = inspect.signature(tx.update).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return extras
    return {p.name: extras[p.name] for p in parameters if p.name in extras}


def _same_tree(grads, before):
    if jax.tree.structure(grads) != jax.tree.structure(before):
        raise ValueError(
            "`grad_callback` must give gradients like those it gets; got"
            f" {jax.tree.structure(grads)} for {jax.tree.structure(before)}."
        )
    for (path, grad), like in zip(
        tree_leaves_with_path(grads), jax.tree.leaves(before), strict=True
    ):
        if jnp.shape(grad) != like.shape:
            raise ValueError(
                f"`grad_callback` must keep the shapes of the gradients; leaf"
                f" {keystr(path)!r} went from {like.shape} to {jnp.shape(grad)}."
            )
    return cast_like(grads, before)


def _like_opt_state(opt_state, before):
    """The new optimizer state with the old one's dtypes, for a loop's carry."""
    if jax.tree.structure(opt_state) != jax.tree.structure(before):
        raise ValueError(
            "`tx.update` must keep the structure of its state; it went from"
            f" {jax.tree.structure(before)} to {jax.tree.structure(opt_state)}."
        )
    return cast_like(opt_state, before)
