"""The seam between a loop and the ways to differentiate it.

The loop is handed over as data and as functions; an adjoint runs it and decides what is
stored, what is recomputed and how the inner gradient is transposed. The loop never
names an adjoint, an adjoint never imports the loop.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jmeta._typing import PyTree

Gradient = Callable[[PyTree, PyTree], tuple[tuple[jax.Array, PyTree], PyTree]]
"""`(params, inputs) -> ((loss, extra), grads)`."""

Step = Callable[[Any, PyTree], tuple[Any, PyTree]]
"""`(carry, x) -> (carry, y)`, as `jax.lax.scan` takes it."""


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
        make_any_step: The same, for a step that is taken whatever its number is.
        inputs: `(carry, x) -> inputs` of the objective at a step.
        carry: Where it starts: `params`, `opt_state`, `state`.
        xs: What differs between steps, leading axis `steps`.
        steps: How many.
        constant: `carry -> carry` without derivative, except for the hyperparameters
            in the optimizer's state: they are settings of every later step too.
        perturbations: What `xs` adds to the parameters at each step, or None.
    """

    objective: Objective
    make_step: Callable[[Gradient], Step]
    make_any_step: Callable[[Gradient], Step]
    inputs: Callable[[Any, PyTree], PyTree]
    carry: Any
    xs: PyTree
    steps: int
    constant: Callable[[Any], Any]
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
    """`jax.lax.scan`, except that a single step is called, not compiled as a loop."""
    if steps == 1:
        carry, y = step(carry, jax.tree.map(lambda x: x[0], xs))
        return carry, jax.tree.map(lambda y: jnp.asarray(y)[None], y)
    return jax.lax.scan(step, carry, xs, length=steps, unroll=unroll)
