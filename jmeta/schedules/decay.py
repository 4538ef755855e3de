"""Rates that follow a formula of the step: exponential, linear or polynomial."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from jmeta._core import validate
from jmeta._core.numerics import integer_power
from jmeta._core.tree import allow_mixed_dtypes
from jmeta.schedules._base import (
    Schedule,
    as_float,
    as_floats,
    as_step,
    check_counts,
    check_share,
    with_any_precision,
)


def exponential_lr(lr: chex.Numeric, gamma: chex.Numeric) -> Schedule:
    """Multiply the rate by `gamma` at every step, as torch's ExponentialLR.

        lr * gamma ** step

    Args:
        lr: Rate at step 0. `lr` and `gamma` may be traced; they are differentiable.
        gamma: Factor that each step applies.

    Returns:
        `step -> rate`.

    Example:
        >>> import jax.numpy as jnp
        >>> exponential_lr(1.0, gamma=0.5)(jnp.arange(4)).tolist()
        [1.0, 0.5, 0.25, 0.125]
    """
    lr, gamma = as_floats(lr=lr, gamma=gamma)
    schedule = lambda step: lr * integer_power(gamma, as_step(step))
    return with_any_precision(schedule, lr, gamma)


def linear_lr(
    lr: chex.Numeric,
    start_factor: chex.Numeric = 1.0 / 3,
    end_factor: chex.Numeric = 1.0,
    total_iters: int = 5,
) -> Schedule:
    """Go linearly from one share of the rate to another, as torch's LinearLR.

        lr * (start_factor + (end_factor - start_factor) * step / total_iters)

    From `total_iters` on the rate is constant. This is the usual warm-up.

    Args:
        lr: Base rate. `lr` and both factors may be traced; they are differentiable.
        start_factor: Share of `lr` at step 0, above 0 and at most 1.
        end_factor: Share of `lr` at step `total_iters`, from 0 to 1.
        total_iters: Number of steps between the two.

    Returns:
        `step -> rate`.

    Raises:
        ValueError: A factor lies outside its range, or `total_iters` is not a
            positive integer.

    Example:
        >>> import jax.numpy as jnp
        >>> linear_lr(1.0, start_factor=0.5, total_iters=2)(jnp.arange(4)).tolist()
        [0.5, 0.75, 1.0, 1.0]

    Note:
        At `total_iters=0` torch stays at `start_factor * lr` for ever; here it is an
        error.
    """
    check_share(positive=True, start_factor=start_factor)
    check_share(end_factor=end_factor)
    check_counts(total_iters=total_iters)
    lr, start, end = as_floats(lr=lr, start_factor=start_factor, end_factor=end_factor)

    def schedule(step):
        done = jnp.minimum(as_step(step), total_iters) / total_iters
        return lr * (start + (end - start) * done)

    return with_any_precision(schedule, lr, start, end)


def polynomial_lr(
    lr: chex.Numeric, total_iters: int = 5, power: chex.Numeric = 1.0
) -> Schedule:
    """Let the rate fall to 0 as a power of the steps left, as torch's PolynomialLR.

        lr * (1 - step / total_iters) ** power

    From `total_iters` on the rate is 0.

    Args:
        lr: Rate at step 0. `lr` and `power` may be traced; they are differentiable,
            also at the end.
        total_iters: Number of steps until the rate is 0.
        power: Exponent of the share of steps that is left.

    Returns:
        `step -> rate`.

    Raises:
        ValueError: `total_iters` is not a positive integer.

    Example:
        >>> import jax.numpy as jnp
        >>> polynomial_lr(1.0, total_iters=2, power=2.0)(jnp.arange(4)).tolist()
        [1.0, 0.25, 0.0, 0.0]

    Note:
        At `total_iters=0` torch stays at `lr` for ever; here it is an error.
    """
    check_counts(total_iters=total_iters)
    lr, power = as_floats(lr=lr, power=power)

    def schedule(step):
        # As an integer it is exactly 0 at the end, however the compiler divides.
        left = total_iters - jnp.minimum(as_step(step), total_iters)
        ended = left == 0
        # The derivative of 0 ** power has log(0) in it, so the value at the end is
        # taken as a constant.
        at_end = 0.0 ** jax.lax.stop_gradient(power)
        return lr * jnp.where(
            ended, at_end, jnp.where(ended, 1, left / total_iters) ** power
        )

    return with_any_precision(schedule, lr, power)


def lambda_lr(
    lr: chex.Numeric, lr_lambda: Callable[[jax.Array], chex.Numeric]
) -> Schedule:
    """Multiply the rate by a function of the step, as torch's LambdaLR.

    Args:
        lr: Base rate. It and what `lr_lambda` captures may be traced.
        lr_lambda: Function `step -> factor`. It must use jax operations, since the step
            may be traced.

    Returns:
        `step -> rate`.

    Raises:
        TypeError: `lr_lambda` is not a function.

    Example:
        >>> import jax.numpy as jnp
        >>> lambda_lr(1.0, lambda step: 1 / (1 + step))(jnp.array([0, 1, 3])).tolist()
        [1.0, 0.5, 0.25]
    """
    validate.function(
        *("lr_lambda", lr_lambda),
        use="Give one `step -> factor`, such as `lambda step: 0.9**step`.",
    )
    (lr,) = as_floats(lr=lr)

    def schedule(step):
        factor = as_float("lr_lambda(step)", lr_lambda(as_step(step)))
        with allow_mixed_dtypes(lr, factor):
            return lr * factor

    return schedule
