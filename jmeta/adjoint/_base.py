"""The interface between a loop and the ways to differentiate it.

`inner_loop` passes the loop to an adjoint as a `Loop`: data and functions. The adjoint
runs it and decides what is stored, what is recomputed and how the inner gradient is
transposed. The loop names no adjoint, and no adjoint imports the loop.
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
    """The number of steps that are taken, and the point where the others are computed.

    Attributes:
        active: Number of steps that are taken, an integer scalar; steps with this index
            and later ones do nothing.
        carry: The carry that the first step starts from.
        x: The first step's slices.
    """

    active: jax.Array
    carry: Any
    x: Any


class MakeStep(Protocol):
    """Makes a loop's step for one way to compute the inner gradient."""

    def __call__(self, gradient: Gradient, start: Start | None = None) -> Step:
        """Make the step.

        Args:
            gradient: Computes the inner gradient.
            start: Which steps are taken, and where the others are computed; None takes
                every step.

        Returns:
            A function for `jax.lax.scan`.
        """
        ...


class Objective(NamedTuple):
    """The inner objective with what it captures made explicit.

    Attributes:
        pure: `(captured, params, inputs) -> (loss, extra)`; captures nothing itself.
        captured: The values that the user's functions close over.
        frozen: The captured values that are parameters which are not trained.
        foreign_rules: Names of the derivative rules in the objective that need not be
            true derivatives.
    """

    pure: Callable[[list[Any], PyTree, PyTree], tuple[jax.Array, PyTree]]
    captured: list[Any]
    frozen: list[Any]
    foreign_rules: tuple[str, ...]


class Loop(NamedTuple):
    """A training loop that has not run yet.

    Attributes:
        objective: The inner objective, which the steps minimise.
        make_step: Makes the step for one way to compute the inner gradient.
        inputs: `(carry, x) -> inputs`, the objective's inputs at a step.
        carry: Where the loop starts: `params`, `opt_state`, `state`.
        xs: What differs between steps: `step` (the index), `batch`, `hyperparams` and
            `perturbation`, each with leading axis `steps`.
        steps: Number of steps, a Python integer.
        active: Number of steps that are taken, a scalar array; None for all.
        without_derivative: `carry -> carry`, the same values without derivative, except
            for the hyperparameters in the optimizer's state: every later step uses them
            too.
        perturbations: What is added to the parameters at each time, leading axis
            `steps + 1`; None without perturbations.
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
        carry: Where the loop ended: `params`, `opt_state`, `state`.
        ys: What the steps gave: `loss`, `aux` and `params`, each with leading axis
            `steps`; None for `params` without history.
        steps_taken: Number of steps that ran where the adjoint decides it, else None.
        residual: Norm of a condition's residual at the end; None without a condition.
    """

    carry: Any
    ys: PyTree
    steps_taken: jax.Array | None = None
    residual: jax.Array | None = None


class Adjoint(Protocol):
    """A way to differentiate a loop."""

    def __call__(self, loop: Loop) -> Outcome:
        """Run the loop so that its outcome can be differentiated this way.

        Args:
            loop: The loop, which has not run yet.

        Returns:
            What the loop gave.
        """
        ...


class Condition(Protocol):
    """What `Implicit` takes as its `condition`: its residual is 0 at the solution.

    An object of your own with this method serves as well as `StationaryPoint`,
    `FixedPoint` and `Root`. For a function of the parameters alone, use `Root(fn)`.
    """

    def residual(self, loop: Loop, carry: Any, x: Any, params: PyTree, /) -> PyTree:
        """Compute the residual at `params`; it is traced and differentiated.

        Args:
            loop: The loop that is being differentiated.
            carry: Where the loop is: `params`, `opt_state` and `state`.
            x: The last step's slices of `loop.xs`.
            params: The trained parameters at which to compute the residual.

        Returns:
            A tree like `params`, with its shapes and dtypes.
        """
        ...


def scan(
    step: Step, carry: Any, xs: PyTree, steps: int, unroll: int = 1
) -> tuple[Any, PyTree]:
    """Scan as `jax.lax.scan` does, but without a compiled loop for 0 or 1 steps.

    Args:
        step: `(carry, x) -> (carry, y)`.
        carry: What the first step starts from.
        xs: The slices of the steps, leading axis `steps`.
        steps: Number of steps.
        unroll: Steps in one iteration of the compiled loop.

    Returns:
        The last carry, and what the steps gave with leading axis `steps`.
    """
    if steps == 0:
        _, y = jax.eval_shape(step, carry, first_slice(xs))
        return carry, jax.tree.map(lambda y: missing_output(y, 0), y)
    if steps == 1:
        carry, y = step(carry, first_slice(xs))
        return carry, jax.tree.map(lambda y: jnp.asarray(y)[None], y)
    return jax.lax.scan(step, carry, xs, length=steps, unroll=unroll)


def first_slice(xs: PyTree) -> Any:
    """Take the first step's slices.

    Args:
        xs: A tree of arrays with a leading steps axis.

    Returns:
        The slices; without any step, their shapes and dtypes.
    """

    def one(x):
        if len(x):
            return x[0]
        return jax.ShapeDtypeStruct(x.shape[1:], x.dtype)

    return jax.tree.map(one, xs)


def missing_output(y: Any, *leading: int) -> jax.Array:
    """Make what stands for the output of a step that is not taken: NaN or 0.

    Args:
        y: The output's array, or its shape and dtype.
        *leading: Sizes of axes to put before the output's shape.

    Returns:
        An array of NaN, or of 0 for integers.

    Example:
        >>> (
        ...     missing_output(jnp.ones(2)).tolist(),
        ...     missing_output(jnp.arange(2), 1).tolist(),
        ... )
        ([nan, nan], [[0, 0]])
    """
    nothing = jnp.nan if jnp.issubdtype(y.dtype, jnp.inexact) else 0
    return jnp.full((*leading, *y.shape), nothing, y.dtype)
