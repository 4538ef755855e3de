"""Rates that fall or rise by a formula of the step: exponential, linear, ..."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

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
    promoted,
)


def exponential_lr(lr: ArrayLike, gamma: ArrayLike) -> Schedule:
    """Multiply the rate by `gamma` at every step, as torch's ExponentialLR.

        lr * gamma ** step

    Args:
        lr: Base rate. It and `gamma` may be traced: they are differentiable.
        gamma: Factor of a step.

    Returns:
        `step -> rate`.

    Example:
        >>> import jax.numpy as jnp
        >>> exponential_lr(1.0, gamma=0.5)(jnp.arange(4)).tolist()
        [1.0, 0.5, 0.25, 0.125]
    """
    lr, gamma = as_floats(lr=lr, gamma=gamma)
    schedule = lambda step: lr * integer_power(gamma, as_step(step))
    return promoted(schedule, lr, gamma)


def linear_lr(
    lr: ArrayLike,
    start_factor: ArrayLike = 1.0 / 3,
    end_factor: ArrayLike = 1.0,
    total_iters: int = 5,
) -> Schedule:
    """Go linearly from one share of the rate to another, as torch's LinearLR.

        lr * (start_factor + (end_factor - start_factor) * step / total_iters)

    From `total_iters` on it stays where it is. The usual warm-up.

    Args:
        lr: Base rate. It and the factors may be traced: they are differentiable.
        start_factor: Share at step 0, above 0 and at most 1.
        end_factor: Share at step `total_iters`, from 0 to 1.
        total_iters: Steps it takes.

    Returns:
        `step -> rate`.

    Raises:
        ValueError: A factor lies outside its range, or `total_iters` is not a
            positive integer.

    Example:
        >>> import jax.numpy as jnp
        >>> linear_lr(1.0, start_factor=0.5, total_iters=2)(jnp.arange(4)).tolist()
        [0.5, 0.75, 1.0, 1.0]

    Differs from torch:
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

    return promoted(schedule, lr, start, end)


def polynomial_lr(
    lr: ArrayLike, total_iters: int = 5, power: ArrayLike = 1.0
) -> Schedule:
    """Let the rate fall to 0 as a power of the steps left, as torch's PolynomialLR.

        lr * (1 - step / total_iters) ** power

    From `total_iters` on it stays 0.

    Args:
        lr: Base rate. It and `power` may be traced: they are differentiable, at the
            end too.
        total_iters: Steps it takes.
        power: Exponent.

    Returns:
        `step -> rate`.

    Raises:
        ValueError: `total_iters` is not a positive integer.

    Example:
        >>> import jax.numpy as jnp
        >>> polynomial_lr(1.0, total_iters=2, power=2.0)(jnp.arange(4)).tolist()
        [1.0, 0.25, 0.0, 0.0]

    Differs from torch:
        At `total_iters=0` torch stays at `lr` for ever; here it is an error.
    """
    check_counts(total_iters=total_iters)
    lr, power = as_floats(lr=lr, power=power)

    def schedule(step):
        # an integer, so that it ends at 0 exactly whatever the compiler makes of 1 / n
        left = total_iters - jnp.minimum(as_step(step), total_iters)
        ended = left == 0
        # The logarithm in the derivative of 0 ** power is not finite.
        at_end = 0.0 ** jax.lax.stop_gradient(power)
        return lr * jnp.where(
            ended, at_end, jnp.where(ended, 1, left / total_iters) ** power
        )

    return promoted(schedule, lr, power)


def lambda_lr(lr: ArrayLike, lr_lambda: Callable[[jax.Array], ArrayLike]) -> Schedule:
    """Multiply the rate by a function of the step, as torch's LambdaLR.

    Args:
        lr: Base rate, may be traced. So may whatever `lr_lambda` captures.
        lr_lambda: `step -> factor`, of jax operations, since the step may be traced.

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
