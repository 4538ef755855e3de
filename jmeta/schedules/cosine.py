"""Rates that follow half waves of a cosine, with restarts or without."""

import chex
import jax.numpy as jnp

from jmeta.schedules._base import (
    Schedule,
    as_floats,
    as_step,
    check_counts,
    cosine_wave,
    with_any_precision,
)


def cosine_annealing_lr(
    lr: chex.Numeric, T_max: int, eta_min: chex.Numeric = 0.0
) -> Schedule:
    """Let the rate fall along a cosine, as torch's CosineAnnealingLR.

        eta_min + (lr - eta_min) * (1 + cos(pi * step / T_max)) / 2

    Past `T_max` the wave continues: the rate rises again and is `lr` at `2 * T_max`.

    Args:
        lr: Rate at step 0. `lr` and `eta_min` may be traced; they are differentiable.
        T_max: Number of steps until the rate is `eta_min`.
        eta_min: Lowest rate.

    Returns:
        `step -> rate`.

    Raises:
        ValueError: `T_max` is not a positive integer.

    Example:
        >>> import jax.numpy as jnp
        >>> schedule = cosine_annealing_lr(1.0, T_max=2)
        >>> [round(rate, 3) for rate in schedule(jnp.arange(5)).tolist()]
        [1.0, 0.5, 0.0, 0.5, 1.0]

    References:
        Loshchilov and Hutter (2017), SGDR: stochastic gradient descent with warm
        restarts, arXiv:1608.03983.
    """
    check_counts(T_max=T_max)
    lr, eta_min = as_floats(lr=lr, eta_min=eta_min)
    schedule = lambda step: cosine_wave(lr, eta_min, as_step(step), T_max)
    return with_any_precision(schedule, lr, eta_min)


def cosine_annealing_warm_restarts(
    lr: chex.Numeric, T_0: int, T_mult: int = 1, eta_min: chex.Numeric = 0.0
) -> Schedule:
    """Let the rate fall along a cosine over and over, as CosineAnnealingWarmRestarts.

    The first fall takes `T_0` steps, each later one `T_mult` times as many as the one
    before it. Then the rate jumps back to `lr`.

    Args:
        lr: Rate after a restart. `lr` and `eta_min` may be traced; they are
            differentiable.
        T_0: Number of steps of the first fall.
        T_mult: Factor by which each fall is longer than the one before it.
        eta_min: Rate that each fall approaches.

    Returns:
        `step -> rate`.

    Raises:
        ValueError: `T_0` or `T_mult` is not a positive integer.

    Example:
        >>> import jax.numpy as jnp
        >>> schedule = cosine_annealing_warm_restarts(1.0, T_0=2, T_mult=2)
        >>> [round(rate, 3) for rate in schedule(jnp.arange(7)).tolist()]
        [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0]

    References:
        Loshchilov and Hutter (2017), SGDR: stochastic gradient descent with warm
        restarts, arXiv:1608.03983.
    """
    check_counts(T_0=T_0, T_mult=T_mult)
    lr, eta_min = as_floats(lr=lr, eta_min=eta_min)

    def schedule(step):
        step = as_step(step)
        if T_mult == 1:
            return cosine_wave(lr, eta_min, step % T_0, T_0)
        starts = jnp.array(_restarts(T_0, T_mult), step.dtype)
        cycle = jnp.searchsorted(starts, step, side="right", method="compare_all") - 1
        T_i = T_0 * T_mult ** cycle.astype(step.dtype)
        return cosine_wave(lr, eta_min, step - starts[cycle], T_i)

    return with_any_precision(schedule, lr, eta_min)


def _restarts(T_0, T_mult):
    """First step of each fall, up to the largest int32."""
    starts, T_i = [0], T_0
    while starts[-1] + T_i < 2**31:
        starts.append(starts[-1] + T_i)
        T_i *= T_mult
    return starts
