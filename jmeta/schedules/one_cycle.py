"""One cycle of the rate, and an inverted one of momentum."""

import math

import chex
import jax.numpy as jnp

from jmeta._core import validate
from jmeta._core.tree import allow_mixed_dtypes
from jmeta.schedules._base import (
    Schedule,
    as_floats,
    as_step,
    check_counts,
    with_any_precision,
)


def one_cycle_lr(
    max_lr: chex.Numeric,
    total_steps: int | None = None,
    *,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    div_factor: chex.Numeric = 25.0,
    final_div_factor: chex.Numeric = 1e4,
    three_phase: bool = False,
) -> Schedule:
    """Raise the rate to `max_lr`, then let it fall far below, as torch's OneCycleLR.

        max_lr / div_factor -> max_lr -> max_lr / div_factor / final_div_factor

    With `three_phase` the rate first falls back to its initial value, and then to the
    last. torch changes momentum at the same time; here that is `one_cycle_momentum`.

    Args:
        max_lr: Highest rate. `max_lr` and both factors may be traced; they are
            differentiable.
        total_steps: Number of steps of the cycle. None is
            `epochs * steps_per_epoch`.
        epochs: Number of epochs of the cycle, if `total_steps` is not given.
        steps_per_epoch: Number of steps of an epoch, if `total_steps` is not given.
        pct_start: Share of the steps in which the rate rises.
        anneal_strategy: Shape of each phase, `"cos"` or `"linear"`.
        div_factor: Quotient of `max_lr` and the first rate.
        final_div_factor: Quotient of the first rate and the last.
        three_phase: Fall to the first rate in as many steps as the rise took, then to
            the last rate.

    Returns:
        `step -> rate`, which is NaN past `total_steps`, where torch raises.

    Raises:
        ValueError: The steps are not positive integers or not given, `pct_start` or
            `anneal_strategy` is none of torch's, or the rise takes no time.

    Example:
        >>> import jax.numpy as jnp
        >>> schedule = one_cycle_lr(
        ...     1.0, 5, pct_start=0.6, anneal_strategy="linear", div_factor=2.0
        ... )
        >>> [round(rate, 2) for rate in schedule(jnp.arange(5)).tolist()]
        [0.5, 0.75, 1.0, 0.5, 0.0]

    References:
        Smith and Topin (2018), Super-convergence: very fast training of neural
        networks using large learning rates, arXiv:1708.07120.
    """
    total_steps = _total_steps(total_steps, epochs, steps_per_epoch)
    ends = _phase_ends(total_steps, pct_start, three_phase)
    max_lr, div_factor, final_div_factor = as_floats(
        max_lr=max_lr, div_factor=div_factor, final_div_factor=final_div_factor
    )
    with allow_mixed_dtypes(max_lr, div_factor, final_div_factor):
        first = max_lr / div_factor
        last = first / final_div_factor
    values = [first, max_lr, first, last] if three_phase else [first, max_lr, last]
    return _phases(ends, values, anneal_strategy)


def one_cycle_momentum(
    total_steps: int | None = None,
    *,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    base_momentum: chex.Numeric = 0.85,
    max_momentum: chex.Numeric = 0.95,
    three_phase: bool = False,
) -> Schedule:
    """Lower momentum while `one_cycle_lr` raises the rate, as torch's OneCycleLR.

        max_momentum -> base_momentum -> max_momentum

    With an optimizer that has `betas`, use it as the first of them.

    Args:
        total_steps: Number of steps of the cycle. None is
            `epochs * steps_per_epoch`.
        epochs: Number of epochs of the cycle, if `total_steps` is not given.
        steps_per_epoch: Number of steps of an epoch, if `total_steps` is not given.
        pct_start: Share of the steps in which the momentum falls.
        anneal_strategy: Shape of each phase, `"cos"` or `"linear"`.
        base_momentum: Lowest momentum. `base_momentum` and `max_momentum` may be
            traced; they are differentiable.
        max_momentum: Highest momentum, at the start of the cycle.
        three_phase: Rise in as many steps as the fall took, then stay constant.

    Returns:
        `step -> momentum`, which is NaN past `total_steps`.

    Raises:
        ValueError: The steps are not positive integers or not given, `pct_start` or
            `anneal_strategy` is none of torch's, or the fall takes no time.

    Example:
        >>> import jmeta
        >>> tx = jmeta.optim.sgd(one_cycle_lr(0.5, 10), one_cycle_momentum(10))
        >>> tx = jmeta.optim.adam(
        ...     one_cycle_lr(0.5, 10), betas=(one_cycle_momentum(10), 0.999)
        ... )
    """
    total_steps = _total_steps(total_steps, epochs, steps_per_epoch)
    ends = _phase_ends(total_steps, pct_start, three_phase)
    low, high = as_floats(base_momentum=base_momentum, max_momentum=max_momentum)
    values = [high, low, high, high] if three_phase else [high, low, high]
    return _phases(ends, values, anneal_strategy)


def _total_steps(total_steps, epochs, steps_per_epoch):
    """The number of steps of the cycle, from either way to give it."""
    if total_steps is not None:
        check_counts(total_steps=total_steps)
        return total_steps
    if epochs is None or steps_per_epoch is None:
        raise ValueError(
            "Give `total_steps`, or both `epochs` and `steps_per_epoch`; got"
            f" epochs={epochs}, steps_per_epoch={steps_per_epoch}."
        )
    check_counts(epochs=epochs, steps_per_epoch=steps_per_epoch)
    return epochs * steps_per_epoch


def _phase_ends(total_steps, pct_start, three_phase):
    """The step, a float, at which each phase ends."""
    validate.flag("three_phase", three_phase)
    if not isinstance(pct_start, float) or not 0 <= pct_start <= 1:
        raise ValueError(
            f"`pct_start` must be a Python float between 0 and 1; got {pct_start!r}."
        )
    rise = pct_start * total_steps - 1
    if rise == 0:
        raise ValueError(
            "The rise to `pct_start` of `total_steps` must not end at step 0, where it"
            f" begins; got {pct_start} of {total_steps}. Change either."
        )
    middle = [2 * rise] if three_phase else []
    return [rise, *middle, total_steps - 1]


def _phases(ends, values, anneal_strategy):
    """Make the schedule that goes from each of `values` to the next by its end."""
    validate.one_of("anneal_strategy", anneal_strategy, ("cos", "linear"))
    anneal = _anneal_cos if anneal_strategy == "cos" else _anneal_linear
    # torch continues the last phase for one step beyond its end.
    bounds = [*ends[:-1], ends[-1] + 1]
    starts = [0.0, *ends[:-1]]
    phases = list(zip(starts, ends, bounds, values[:-1], values[1:], strict=True))

    def schedule(step):
        step = as_step(step).astype(jnp.result_type(float))
        value = jnp.array(jnp.nan)
        # A step belongs to the first phase whose bound it does not exceed. Earlier
        # phases overwrite later ones, so the loop runs backwards.
        for start, end, bound, a, b in reversed(phases):
            # A phase of length 0 has no step of its own, but must not divide by 0.
            pct = (step - start) / (end - start or math.inf)
            value = jnp.where(step <= bound, anneal(a, b, pct), value)
        return value

    return with_any_precision(schedule, *values)


def _anneal_cos(start, end, pct):
    return end + (start - end) / 2 * (1 + jnp.cos(jnp.pi * pct))


def _anneal_linear(start, end, pct):
    return (end - start) * pct + start
