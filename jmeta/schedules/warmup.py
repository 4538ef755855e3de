"""A rate that warms up and then follows a cosine."""

import chex
import jax.numpy as jnp

from jmeta.schedules._base import (
    Schedule,
    as_floats,
    as_step,
    check_counts,
    check_share,
    cosine_wave,
    with_any_precision,
)


def warmup_cosine(
    peak: chex.Numeric,
    total_iters: int,
    T_max: int,
    *,
    start_factor: chex.Numeric = 1.0 / 3,
    end_factor: chex.Numeric = 1.0,
    eta_min: chex.Numeric = 0.0,
) -> Schedule:
    """Raise the rate linearly to its peak, then let it fall along a cosine.

    This is torch's SequentialLR of a LinearLR and a CosineAnnealingLR in one call:

        peak * (start_factor + (end_factor - start_factor) * step / total_iters)
        eta_min + (peak - eta_min) * (1 + cos(pi * (step - total_iters) / T_max)) / 2

    The first formula holds before step `total_iters`, the second from there on. Past
    `total_iters + T_max` the wave continues and the rate rises again.

    Args:
        peak: Highest rate, at step `total_iters`. `peak`, both factors and `eta_min`
            may be traced; they are differentiable.
        total_iters: Number of steps of the rise, at least 1.
        T_max: Number of steps of the fall, at least 1.
        start_factor: Share of the peak at step 0, above 0 and at most 1.
        end_factor: Share of the peak that the rise approaches, from 0 to 1.
        eta_min: Lowest rate, at step `total_iters + T_max`.

    Returns:
        `step -> rate`.

    Raises:
        TypeError: A count is no Python integer, or another argument is no number.
        ValueError: A factor lies outside its range, or a count is less than 1.

    Example:
        >>> import jax.numpy as jnp
        >>> schedule = warmup_cosine(1.0, total_iters=2, T_max=4, start_factor=0.5)
        >>> [round(rate, 3) for rate in schedule(jnp.arange(7)).tolist()]
        [0.5, 0.75, 1.0, 0.854, 0.5, 0.146, 0.0]

    References:
        Goyal et al. (2017), Accurate, large minibatch SGD, arXiv:1706.02677, for the
        warm-up. Loshchilov and Hutter (2017), SGDR, arXiv:1608.03983, for the fall.
    """
    check_counts(total_iters=total_iters, T_max=T_max)
    check_share(positive=True, start_factor=start_factor)
    check_share(end_factor=end_factor)
    peak, start, end, low = as_floats(
        peak=peak, start_factor=start_factor, end_factor=end_factor, eta_min=eta_min
    )

    def schedule(step):
        step = as_step(step)
        risen = jnp.minimum(step, total_iters) / total_iters
        fallen = jnp.maximum(step - total_iters, 0)
        return jnp.where(
            step < total_iters,
            peak * (start + (end - start) * risen),
            cosine_wave(peak, low, fallen, T_max),
        )

    return with_any_precision(schedule, peak, start, end, low)
