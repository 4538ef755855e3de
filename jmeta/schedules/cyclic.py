"""Triangle waves of the rate, and inverted ones of momentum."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from jmeta._core import validate
from jmeta._core.numerics import integer_power
from jmeta._core.tree import allow_mixed_dtypes
from jmeta.schedules._base import (
    Schedule,
    as_floats,
    as_step,
    with_any_precision,
)


def cyclic_lr(
    base_lr: chex.Numeric,
    max_lr: chex.Numeric,
    step_size_up: float = 2000,
    step_size_down: float | None = None,
    *,
    mode: str = "triangular",
    gamma: chex.Numeric = 1.0,
    scale_fn: Callable[[jax.Array], chex.Numeric] | None = None,
    scale_mode: str = "cycle",
) -> Schedule:
    """Raise the rate linearly and let it fall, over and over, as torch's CyclicLR.

    The height of the triangles is `max_lr - base_lr` times a scale. The scale is 1 in
    the mode `"triangular"`, is halved after each cycle in `"triangular2"`, and is
    `gamma ** step` in `"exp_range"`. torch changes momentum at the same time; here that
    is `cyclic_momentum`.

    Args:
        base_lr: Lowest rate. `base_lr`, `max_lr` and `gamma` may be traced; they are
            differentiable.
        max_lr: Highest rate, at scale 1.
        step_size_up: Number of steps of a rise.
        step_size_down: Number of steps of a fall. None is `step_size_up`.
        mode: `"triangular"`, `"triangular2"` or `"exp_range"`: how the scale changes.
        gamma: Factor of the scale at each step in the mode `"exp_range"`.
        scale_fn: Function that returns the scale, in place of `mode`. It must use jax
            operations.
        scale_mode: Argument of `scale_fn`: `"cycle"` is the number of the cycle,
            counted from 1, `"iterations"` is the step.

    Returns:
        `step -> rate`.

    Raises:
        ValueError: A step size is not a positive number, or a mode is none of torch's.

    Example:
        >>> import jax.numpy as jnp
        >>> cyclic_lr(0.0, 1.0, 2, mode="triangular2")(jnp.arange(8)).tolist()
        [0.0, 0.5, 1.0, 0.5, 0.0, 0.25, 0.5, 0.25]

    References:
        Smith (2017), Cyclical learning rates for training neural networks,
        arXiv:1506.01186.
    """
    height = _height(step_size_up, step_size_down, mode, gamma, scale_fn, scale_mode)
    low, high = as_floats(base_lr=base_lr, max_lr=max_lr)
    schedule = lambda step: low + (high - low) * height(as_step(step))
    return with_any_precision(schedule, low, high)


def cyclic_momentum(
    base_momentum: chex.Numeric = 0.8,
    max_momentum: chex.Numeric = 0.9,
    step_size_up: float = 2000,
    step_size_down: float | None = None,
    *,
    mode: str = "triangular",
    gamma: chex.Numeric = 1.0,
    scale_fn: Callable[[jax.Array], chex.Numeric] | None = None,
    scale_mode: str = "cycle",
) -> Schedule:
    """Lower momentum while `cyclic_lr` raises the rate, as torch's CyclicLR.

    With an optimizer that has `betas`, use it as the first of them.

    Args:
        base_momentum: Lowest momentum, at scale 1. `base_momentum`, `max_momentum` and
            `gamma` may be traced; they are differentiable.
        max_momentum: Highest momentum, at the start of a cycle.
        step_size_up: Number of steps in which the momentum falls.
        step_size_down: Number of steps in which it rises. None is `step_size_up`.
        mode: `"triangular"`, `"triangular2"` or `"exp_range"`: how the height of the
            triangles changes (see `cyclic_lr`).
        gamma: Factor of the scale at each step in the mode `"exp_range"`.
        scale_fn: Function that returns the scale, in place of `mode`. It must use jax
            operations.
        scale_mode: Argument of `scale_fn`: `"cycle"` is the number of the cycle,
            counted from 1, `"iterations"` is the step.

    Returns:
        `step -> momentum`.

    Raises:
        ValueError: A step size is not a positive number, or a mode is none of torch's.

    Example:
        >>> import jax.numpy as jnp
        >>> cyclic_momentum(0.5, 1.0, 2)(jnp.arange(5)).tolist()
        [1.0, 0.75, 0.5, 0.75, 1.0]
    """
    height = _height(step_size_up, step_size_down, mode, gamma, scale_fn, scale_mode)
    low, high = as_floats(base_momentum=base_momentum, max_momentum=max_momentum)
    schedule = lambda step: high - (high - low) * height(as_step(step))
    return with_any_precision(schedule, low, high)


def _height(step_size_up, step_size_down, mode, gamma, scale_fn, scale_mode):
    """Make `step -> height`, the height of the scaled triangle.

    The height is from 0 to 1 unless `scale_fn` or `gamma` exceeds 1.
    """
    up = step_size_up
    down = up if step_size_down is None else step_size_down
    for name, size in {"step_size_up": up, "step_size_down": down}.items():
        validate.number(name, size, above=0)
    validate.one_of("mode", mode, ("triangular", "triangular2", "exp_range"))
    validate.one_of("scale_mode", scale_mode, ("cycle", "iterations"))
    if scale_fn is not None:
        validate.function(
            *("scale_fn", scale_fn),
            use="Give one of the cycle or the step, such as `lambda n: 1 / n`.",
        )
    (gamma,) = as_floats(gamma=gamma)

    def scale(step, cycle):
        if scale_fn is not None:
            return scale_fn(cycle if scale_mode == "cycle" else step)
        if mode == "exp_range":
            return integer_power(gamma, step)
        if mode == "triangular2":
            return integer_power(jnp.asarray(0.5), cycle - 1)
        return 1.0

    def height(step):
        # Integers split off whole cycles exactly, before anything is rounded.
        whole = isinstance(up + down, int)
        count = step if whole else step.astype(jnp.result_type(float))
        cycle, position = jnp.divmod(count, up + down)
        rising = position <= up
        triangle = jnp.where(rising, position / up, (up + down - position) / down)
        factor = scale(step, cycle.astype(step.dtype) + 1)
        with allow_mixed_dtypes(triangle, factor):
            return triangle * factor

    return height
