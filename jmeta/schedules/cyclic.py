"""Triangle waves of the rate and, the other way round, of momentum."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jmeta._core import validate
from jmeta._core.numerics import integer_power
from jmeta._core.tree import allow_mixed_dtypes
from jmeta.schedules._base import (
    Schedule,
    as_floats,
    as_step,
    promoted,
)


def cyclic_lr(
    base_lr: ArrayLike,
    max_lr: ArrayLike,
    step_size_up: float = 2000,
    step_size_down: float | None = None,
    *,
    mode: str = "triangular",
    gamma: ArrayLike = 1.0,
    scale_fn: Callable[[jax.Array], ArrayLike] | None = None,
    scale_mode: str = "cycle",
) -> Schedule:
    """Raise the rate linearly and let it fall, over and over, as torch's CyclicLR.

    The height of the triangles is `max_lr - base_lr` times a scale: 1 in the mode
    `"triangular"`, half of the one before in each cycle in `"triangular2"`,
    `gamma ** step` in `"exp_range"`. What torch does to momentum at the same time is
    `cyclic_momentum`.

    Args:
        base_lr: Lowest rate. It, `max_lr` and `gamma` may be traced: they are
            differentiable.
        max_lr: Highest rate, at scale 1.
        step_size_up: Steps of a rise.
        step_size_down: Steps of a fall; None is as many as of a rise.
        mode: `"triangular"`, `"triangular2"` or `"exp_range"`.
        gamma: Decay of the scale in the mode `"exp_range"`.
        scale_fn: A scale of your own in place of `mode`, of jax operations.
        scale_mode: What `scale_fn` is given: `"cycle"`, counted from 1, or
            `"iterations"`, the step.

    Returns:
        `step -> rate`.

    Raises:
        ValueError: A size is not a positive number, or a mode is none of torch's.

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
    return promoted(schedule, low, high)


def cyclic_momentum(
    base_momentum: ArrayLike = 0.8,
    max_momentum: ArrayLike = 0.9,
    step_size_up: float = 2000,
    step_size_down: float | None = None,
    *,
    mode: str = "triangular",
    gamma: ArrayLike = 1.0,
    scale_fn: Callable[[jax.Array], ArrayLike] | None = None,
    scale_mode: str = "cycle",
) -> Schedule:
    """Lower momentum while `cyclic_lr` raises the rate, as torch's CyclicLR.

    For an optimizer with `betas` it is the first of them.

    Args:
        base_momentum: Lowest momentum, at scale 1. Both momenta may be traced: they
            are differentiable.
        max_momentum: Highest momentum, at the start of a cycle.
        step_size_up: Steps in which it falls.
        step_size_down: Steps in which it rises; None is as many.
        mode: `"triangular"`, `"triangular2"` or `"exp_range"`, as in `cyclic_lr`.
        gamma: Decay of the scale in the mode `"exp_range"`.
        scale_fn: A scale of your own in place of `mode`, as in `cyclic_lr`.
        scale_mode: What `scale_fn` is given: `"cycle"` or `"iterations"`.

    Returns:
        `step -> momentum`.

    Raises:
        ValueError: As in `cyclic_lr`.

    Example:
        >>> import jax.numpy as jnp
        >>> cyclic_momentum(0.5, 1.0, 2)(jnp.arange(5)).tolist()
        [1.0, 0.75, 0.5, 0.75, 1.0]
    """
    height = _height(step_size_up, step_size_down, mode, gamma, scale_fn, scale_mode)
    low, high = as_floats(base_momentum=base_momentum, max_momentum=max_momentum)
    schedule = lambda step: high - (high - low) * height(as_step(step))
    return promoted(schedule, low, high)


def _height(step_size_up, step_size_down, mode, gamma, scale_fn, scale_mode):
    """`step -> height` of the scaled triangle, from 0 to 1."""
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
        # whole cycles are split off exactly, before anything is rounded
        whole = isinstance(up + down, int)
        count = step if whole else step.astype(jnp.result_type(float))
        cycle, position = jnp.divmod(count, up + down)
        rising = position <= up
        triangle = jnp.where(rising, position / up, (up + down - position) / down)
        factor = scale(step, cycle.astype(step.dtype) + 1)
        with allow_mixed_dtypes(triangle, factor):
            return triangle * factor

    return height
