"""What the schedules share: their type, the step, checks of structural arguments."""

import numbers
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jmeta._settings import as_hyperparam

Schedule: TypeAlias = Callable[[ArrayLike], jax.Array]
"""`step -> value`, elementwise in an integer step that counts updates from 0."""


def as_floats(*values: ArrayLike) -> tuple[jax.Array, ...]:
    """Numbers as strongly typed arrays of at least float32."""
    return as_hyperparam(values)


def as_step(step: ArrayLike) -> jax.Array:
    """The step as an array of the default integer type.

    The quotient of two int32 is a float32 even where rates are float64.
    """
    step = jnp.asarray(step)
    if not jnp.issubdtype(step.dtype, jnp.integer):
        raise TypeError(
            f"`step` must be an integer, the number of updates so far; got {step}."
        )
    return step.astype(jnp.result_type(int))


def check_counts(**counts: int) -> None:
    """Refuse what is not a positive integer known before tracing."""
    for name, count in counts.items():
        if not is_integer(count) or count < 1:
            raise ValueError(
                f"`{name}` must be a positive Python integer; got {count!r}."
            )


def check_milestones(milestones: tuple[int, ...]) -> None:
    """Refuse what is not a sorted row of steps known before tracing."""
    steps = all(is_integer(milestone) and milestone >= 0 for milestone in milestones)
    if not steps or list(milestones) != sorted(milestones):
        raise ValueError(
            "`milestones` must be increasing Python integers from 0;"
            f" got {milestones!r}."
        )


def check_share(positive: bool = False, **shares: ArrayLike) -> None:
    """Refuse numbers outside [0, 1], or (0, 1]; arrays may be learned: they pass."""
    for name, share in shares.items():
        if isinstance(share, int | float) and (
            not 0 <= share <= 1 or (positive and share == 0)
        ):
            low = "greater than 0 and at most 1" if positive else "between 0 and 1"
            raise ValueError(f"`{name}` must be {low}; got {share}.")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a word that is not one of torch's."""
    if value not in choices:
        words = ", ".join(f"`{choice!r}`" for choice in choices)
        raise ValueError(f"`{name}` must be one of {words}; got {value!r}.")


def is_integer(value: object) -> bool:
    """Whether a value is an integer of Python's or numpy's, and no bool."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
