"""The type of schedules, their step, and checks of their arguments."""

import numbers
from collections.abc import Callable, Iterable
from typing import TypeAlias

import chex
import jax
import jax.numpy as jnp

from jmeta._core import validate
from jmeta._core.settings import PerLeaf, as_hyperparam, is_plain
from jmeta._core.tree import allow_mixed_dtypes

Schedule: TypeAlias = Callable[[chex.Numeric], jax.Array]
"""`step -> value`, elementwise in an integer step that counts updates from 0."""


def as_float(name: str, value: chex.Numeric) -> jax.Array:
    """Convert a number to a strongly typed array of at least float32.

    Args:
        name: Name of the argument, for messages.
        value: Number or array, which may be traced.
    """
    if isinstance(value, PerLeaf | tuple):
        raise TypeError(
            f"`{name}` of a schedule must be a number or an array; got"
            f" {validate.kind(value)}. Make a schedule for each parameter group"
            " instead."
        )
    return as_hyperparam(value, name, "a number or an array, which may be traced")


def as_floats(**values: chex.Numeric) -> tuple[jax.Array, ...]:
    """Convert numbers by name to strongly typed arrays of at least float32."""
    return tuple(as_float(name, value) for name, value in values.items())


def as_step(step: chex.Numeric) -> jax.Array:
    """Convert the step to an array of the default integer type.

    With 64 bits enabled this is int64. The quotient of two int32 would be a float32
    even where rates are float64.
    """
    dtype = getattr(step, "dtype", None)
    if not (is_integer(step) if dtype is None else jnp.issubdtype(dtype, jnp.integer)):
        raise TypeError(
            "`step` must be an integer, the number of updates so far; got"
            f" {validate.kind(step)}."
        )
    return jnp.asarray(step).astype(jnp.result_type(int))


def with_any_precision(schedule: Schedule, *settings: jax.Array) -> Schedule:
    """Let a schedule combine settings and quotients of the step of any precision.

    Args:
        schedule: Function `step -> value`.
        *settings: Strongly typed arrays that `schedule` computes with.
    """

    def at(step):
        with allow_mixed_dtypes(settings, 0.0):
            return schedule(step)

    return at


def check_counts(**counts: int) -> None:
    """Refuse counts that are not positive integers known before tracing."""
    for name, count in counts.items():
        validate.count(name, count, minimum=1)


def check_milestones(
    milestones: Iterable[int], in_order: bool = True
) -> tuple[int, ...]:
    """Sort the milestones; refuse what is no sequence of steps known before tracing.

    Args:
        milestones: Steps, counted from 0.
        in_order: Refuse milestones that do not increase.
    """
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


def check_share(positive: bool = False, **shares: chex.Numeric) -> None:
    """Refuse numbers outside [0, 1]. Arrays pass, since they may be learned.

    Args:
        positive: Refuse 0 too.
        **shares: Values to check, by the name of their argument.
    """
    for name, share in shares.items():
        if is_plain(share) and (not 0 <= share <= 1 or (positive and share == 0)):
            low = "greater than 0 and at most 1" if positive else "between 0 and 1"
            raise ValueError(f"`{name}` must be {low}; got {share}.")


def cosine_wave(
    high: jax.Array, low: jax.Array, step: jax.Array, T_max: chex.Numeric
) -> jax.Array:
    """A wave that falls from `high` to `low` in `T_max` steps and rises again.

    Args:
        high: Value at step 0 and at every multiple of `2 * T_max`.
        low: Value half a wave later.
        step: Integer step, an array of any shape.
        T_max: Number of steps of half a wave.

    Returns:
        Values in the shape of `step`.
    """
    # The remainder of integers is exact, so late steps lose no precision in float32.
    half_turns = step % (2 * T_max) / T_max
    return low + (high - low) * (1 + jnp.cos(jnp.pi * half_turns)) / 2


def is_integer(value: object) -> bool:
    """Whether a value is an integer of Python's or numpy's, and no bool."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
