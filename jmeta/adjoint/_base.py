"""The seam between a loop and the ways to differentiate it.

The loop is handed over as data and as functions; an adjoint runs it and decides what is
stored, what is recomputed and how the inner gradient is transposed. The loop never
names an adjoint, an adjoint never imports the loop.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jmeta._core.typing import PyTree

Gradient = Callable[[PyTree, PyTree], tuple[tuple[jax.Array, PyTree], PyTree]]
"""`(params, inputs) -> ((loss, extra), grads)`."""

Step = Callable[[Any, PyTree], tuple[Any, PyTree]]
"""`(carry, x) -> (carry, y)`, as `jax.lax.scan` takes it."""


class Start(NamedTuple):
    """How many steps are taken, and where the others look: at the loop's start.

    Attributes:
        active: Steps with this index and later ones do nothing.
        carry: What the first step starts from.
        x: The first step's slices.
    """

    active: jax.Array
    carry: Any
    x: Any


class MakeStep(Protocol):
    """Makes the step of a way to take the inner gradient."""

    def __call__(self, gradient: Gradient, start: Start | None = None) -> Step:
        """The step; without `start` it is taken whatever its index is."""
        ...


class Objective(NamedTuple):
    """The inner objective with what it captures made explicit.

    Attributes:
        pure: `(captured, params, inputs) -> (loss, extra)`; captures nothing itself.
        captured: The values that the user's functions close over.
        frozen: Those of them that are parameters which are not trained.
        foreign_rules: The derivative rules in it that need not be derivatives, by name.
    """

    pure: Callable[[list[Any], PyTree, PyTree], tuple[jax.Array, PyTree]]
    captured: list[Any]
    frozen: list[Any]
    foreign_rules: tuple[str, ...]


class Loop(NamedTuple):
    """A training loop that has not run yet.

    Attributes:
        objective: What is minimised.
        make_step: Makes the step of a way to take the inner gradient.
        inputs: `(carry, x) -> inputs` of the objective at a step.
        carry: Where it starts: `params`, `opt_state`, `state`.
        xs: What differs between steps, leading axis `steps`.
        steps: How many.
        active: How many of them are taken, or None for all.
        without_derivative: `carry -> carry`, the same values without derivative, except
            for the hyperparameters in the optimizer's state: every later step uses them
            too.
        perturbations: What `xs` adds to the parameters at each step, or None.
    """

    objective: Objective
    make_step: MakeStep
    inputs: Callable[[Any, PyTree], PyTree]
    carry: Any
    xs: Any
    steps: int
    active: jax.Array | None
    without_derivative: Callable[[Any], Any]
    perturbations: PyTree


class Outcome(NamedTuple):
    """What running a loop gave.

    Attributes:
        carry: Where it ended.
        ys: What the steps gave, leading axis `steps`.
        steps_taken: How many steps ran, where that was left to the loop, else None.
        residual: Norm of the condition at the end, where there is one, else None.
    """

    carry: Any
    ys: PyTree
    steps_taken: jax.Array | None = None
    residual: jax.Array | None = None


class Adjoint(Protocol):
    """A way to differentiate a loop."""

    def __call__(self, loop: Loop) -> Outcome:
        """Run the loop so that its outcome can be differentiated this way."""
        ...


def scan(
    step: Step, carry: Any, xs: PyTree, steps: int, unroll: int = 1
) -> tuple[Any, PyTree]:
    """`jax.lax.scan`, except that fewer than two steps are not compiled as a loop."""
    if steps == 0:
        _, y = jax.eval_shape(step, carry, first_slice(xs))
        return carry, jax.tree.map(lambda y: missing_output(y, 0), y)
    if steps == 1:
        carry, y = step(carry, first_slice(xs))
        return carry, jax.tree.map(lambda y: jnp.asarray(y)[None], y)
    return jax.lax.scan(step, carry, xs, length=steps, unroll=unroll)


def first_slice(xs: PyTree) -> Any:
    """The first step's slices; of no steps, what their shapes and dtypes would be."""

    def one(x):
        if len(x):
            return x[0]
        return jax.ShapeDtypeStruct(x.shape[1:], x.dtype)

    return jax.tree.map(one, xs)


def missing_output(y: Any, *leading: int) -> jax.Array:
    """What stands for the output of a step that is not taken: NaN, 0 for integers.

    Args:
        y: An array, or its shape and dtype.
        *leading: Axes to put before its shape.

    Example:
        >>> (
        ...     missing_output(jnp.ones(2)).tolist(),
        ...     missing_output(jnp.arange(2), 1).tolist(),
        ... )
        ([nan, nan], [[0, 0]])
    """
    nothing = jnp.nan if jnp.issubdtype(y.dtype, jnp.inexact) else 0
    return jnp.full((*leading, *y.shape), nothing, y.dtype)
