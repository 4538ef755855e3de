"""Rates that are constant between given steps."""

from collections.abc import Iterable

import chex
import jax.numpy as jnp

from jmeta._core.numerics import integer_power
from jmeta.schedules._base import (
    Schedule,
    as_floats,
    as_step,
    check_counts,
    check_milestones,
    check_share,
    with_any_precision,
)


def step_lr(lr: chex.Numeric, step_size: int, gamma: chex.Numeric = 0.1) -> Schedule:
    """Multiply the rate by `gamma` every `step_size` steps, as torch's StepLR.

        lr * gamma ** (step // step_size)

    Args:
        lr: Rate at step 0. `lr` and `gamma` may be traced; they are differentiable.
        step_size: Number of steps between two drops.
        gamma: Factor that each drop applies.

    Returns:
        `step -> rate`.

    Raises:
        ValueError: `step_size` is not a positive integer.

    Example:
        >>> import jax.numpy as jnp
        >>> step_lr(1.0, 2, gamma=0.5)(jnp.arange(6)).tolist()
        [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    """
    check_counts(step_size=step_size)
    lr, gamma = as_floats(lr=lr, gamma=gamma)
    schedule = lambda step: lr * integer_power(gamma, as_step(step) // step_size)
    return with_any_precision(schedule, lr, gamma)


def multi_step_lr(
    lr: chex.Numeric, milestones: Iterable[int], gamma: chex.Numeric = 0.1
) -> Schedule:
    """Multiply the rate by `gamma` at each milestone, as torch's MultiStepLR.

    Args:
        lr: Base rate. `lr` and `gamma` may be traced; they are differentiable.
        milestones: Steps of the drops in any order. A step that is listed twice drops
            the rate twice.
        gamma: Factor that each drop applies.

    Returns:
        `step -> rate`.

    Raises:
        ValueError: A milestone is not an integer from 0.

    Example:
        >>> import jax.numpy as jnp
        >>> multi_step_lr(1.0, [1, 3], gamma=0.5)(jnp.arange(5)).tolist()
        [1.0, 0.5, 0.5, 0.25, 0.25]
    """
    drops_at = check_milestones(milestones, in_order=False)
    lr, gamma = as_floats(lr=lr, gamma=gamma)

    def schedule(step):
        step = as_step(step)
        drops = sum(((step >= m).astype(step.dtype) for m in drops_at), 0 * step)
        return lr * integer_power(gamma, drops)

    return with_any_precision(schedule, lr, gamma)


def constant_lr(
    lr: chex.Numeric, factor: chex.Numeric = 1.0 / 3, total_iters: int = 5
) -> Schedule:
    """Multiply the rate by `factor` for the first steps, as torch's ConstantLR.

    Args:
        lr: Base rate. `lr` and `factor` may be traced; they are differentiable.
        factor: Share of `lr` in the first steps, from 0 to 1.
        total_iters: Number of these steps. From then on the rate is `lr`.

    Returns:
        `step -> rate`.

    Raises:
        ValueError: `factor` lies outside [0, 1], or `total_iters` is not a positive
            integer.

    Example:
        >>> import jax.numpy as jnp
        >>> constant_lr(1.0, factor=0.5, total_iters=2)(jnp.arange(4)).tolist()
        [0.5, 0.5, 1.0, 1.0]

    Note:
        At `total_iters=0` torch stays at `factor * lr` for ever; here it is an error.
        A factor of 0 ends at `lr`; torch divides by it and raises.
    """
    check_share(factor=factor)
    check_counts(total_iters=total_iters)
    lr, factor = as_floats(lr=lr, factor=factor)
    schedule = lambda step: jnp.where(as_step(step) < total_iters, lr * factor, lr)
    return with_any_precision(schedule, lr, factor)
