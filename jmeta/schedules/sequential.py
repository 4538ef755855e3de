"""One schedule after another."""

from collections.abc import Sequence

import jax.numpy as jnp

from jmeta._core import validate
from jmeta._core.tree import allow_mixed_dtypes
from jmeta.schedules._base import Schedule, as_step, check_milestones


def sequential_lr(schedules: Sequence[Schedule], milestones: Sequence[int]) -> Schedule:
    """Follow schedules one after another, as torch's SequentialLR.

    Each schedule starts at its own step 0 when its milestone is reached.

    Args:
        schedules: Functions `step -> rate`, each with its own base rate.
        milestones: Increasing steps at which the second and each later schedule begins,
            one fewer than schedules.

    Returns:
        `step -> rate`.

    Raises:
        ValueError: There is no schedule, the number of milestones is not one less than
            that of schedules, or the milestones do not increase.
        TypeError: A schedule is not a function.

    Example:
        >>> import jax.numpy as jnp
        >>> from jmeta.schedules import exponential_lr, linear_lr
        >>> warm_up = linear_lr(1.0, start_factor=0.5, total_iters=2)
        >>> schedule = sequential_lr([warm_up, exponential_lr(1.0, 0.5)], [2])
        >>> schedule(jnp.arange(5)).tolist()
        [0.5, 0.75, 1.0, 0.5, 0.25]

    Note:
        In torch the schedulers share the optimizer's rate as their base, and building
        a OneCycleLR or CyclicLR changes it for those that are built after it.
    """
    validate.instance(
        *("schedules", schedules, Sequence, "a list of functions `step -> rate`"),
        use="Write `sequential_lr([warmup, decay], milestones=[100])`.",
    )
    schedules, milestones = tuple(schedules), check_milestones(milestones)
    if not schedules or len(milestones) != len(schedules) - 1:
        raise ValueError(
            "`schedules` must be one more than `milestones`, and at least one; got"
            f" {len(schedules)} schedules and {len(milestones)} milestones."
        )
    for i, schedule in enumerate(schedules):
        validate.function(
            *(f"schedules[{i}]", schedule),
            use="Give a schedule `step -> rate`, such as `constant_lr(0.1)`.",
        )

    spans = list(zip((0, *milestones), (*milestones, None), schedules, strict=True))

    def sequence(step):
        step = as_step(step)
        rate = jnp.zeros(())
        for start, end, schedule in spans:
            # Each schedule sees only its own steps. Elsewhere it need not be finite,
            # and a branch that is not taken would spoil the derivative.
            last = None if end is None else max(end - start - 1, 0)
            own_step = jnp.clip(step - start, 0, last)
            own_rate = jnp.asarray(schedule(own_step))
            with allow_mixed_dtypes(own_rate, rate):
                rate = jnp.where(step >= start, own_rate, rate)
        return rate

    return sequence
