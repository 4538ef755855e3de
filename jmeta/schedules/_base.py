"""What the schedules share: their type, the step, checks of structural arguments."""

import numbers
from collections.abc import Callable, Iterable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jmeta._core import validate
from jmeta._core.settings import PerLeaf, as_hyperparam, is_plain
from jmeta._core.tree import allow_mixed_dtypes

Schedule: TypeAlias = Callable[[ArrayLike], jax.Array]
"""`step -> value`, elementwise in an integer step that counts updates from 0."""


def as_float(name: str, value: ArrayLike) -> jax.Array:
    """A number as a strongly typed array of at least float32."""
    if isinstance(value, PerLeaf | tuple):
        raise TypeError(
            f"`{name}` of a schedule must be a number or an array; got"
            f" {validate.kind(value)}. Make a schedule for each parameter group"
            " instead."
        )
    return as_hyperparam(value, name, "a number or an array, which may be traced")


def as_floats(**values: ArrayLike) -> tuple[jax.Array, ...]:
    """Numbers by name as strongly typed arrays of at least float32."""
    return tuple(as_float(name, value) for name, value in values.items())


def as_step(step: ArrayLike) -> jax.Array:
    """The step as an array of the default integer type.

    The quotient of two int32 is a float32 even where rates are float64.
    """
    dtype = getattr(step, "dtype", None)
    if not (is_integer(step) if dtype is None else jnp.issubdtype(dtype, jnp.integer)):
        raise TypeError(
            "`step` must be an integer, the number of updates so far; got"
            f" {validate.kind(step)}."
        )
    return jnp.asarray(step).astype(jnp.result_type(int))


def promoted(schedule: Schedule, *settings: jax.Array) -> Schedule:
    """The schedule, also of settings whose precision is not that of the step's share.

    Args:
        schedule: `step -> value`, which divides the step, or not.
        *settings: What it is made of, as strongly typed arrays.
    """

    def at(step):
        with allow_mixed_dtypes(settings, 0.0):
            return schedule(step)

    return at


def check_counts(**counts: int) -> None:
    """Refuse what is not a positive integer known before tracing."""
    for name, count in counts.items():
        validate.count(name, count, minimum=1)


def check_milestones(
    milestones: Iterable[int], in_order: bool = True
) -> tuple[int, ...]:
    """The steps in their order; refuse what is no row of steps known before tracing."""
    increasing = "increasing " if in_order else ""
    must = f"`milestones` must be {increasing}Python integers from 0"
    if isinstance(milestones, str | bytes) or not isinstance(milestones, Iterable):
        raise TypeError(
            f"{must}; got {validate.kind(milestones)}. Write them as a list, such as"
            " `[30, 60]`."
        )
    steps = tuple(milestones)
    is_steps = all(is_integer(step) and step >= 0 for step in steps)
    if not is_steps or (in_order and list(steps) != sorted(steps)):
        raise ValueError(f"{must}; got {list(steps)}.")
    return tuple(sorted(steps))


def check_share(positive: bool = False, **shares: ArrayLike) -> None:
    """Refuse numbers outside [0, 1], or (0, 1]; arrays may be learned: they pass."""
    for name, share in shares.items():
        if is_plain(share) and (not 0 <= share <= 1 or (positive and share == 0)):
            low = "greater than 0 and at most 1" if positive else "between 0 and 1"
            raise ValueError(f"`{name}` must be {low}; got {share}.")


def cosine_wave(
    high: jax.Array, low: jax.Array, step: jax.Array, T_max: ArrayLike
) -> jax.Array:
    """A wave that falls from `high` to `low` in `T_max` steps, and rises again."""
    # the remainder, which is exact, keeps the wave exact at late steps in float32
    half_turns = step % (2 * T_max) / T_max
    return low + (high - low) * (1 + jnp.cos(jnp.pi * half_turns)) / 2


def is_integer(value: object) -> bool:
    """Whether a value is an integer of Python's or numpy's, and no bool."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
