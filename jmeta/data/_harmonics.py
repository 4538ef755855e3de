"""Sums of two sine waves: tasks that differ in more than amplitude and phase."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jmeta._core import validate
from jmeta._core.typing import Key
from jmeta.data import _checks
from jmeta.tasks import Task


def harmonics(
    *, shots: int = 10, queries: int = 10, noise: float = 0.0
) -> Callable[[Key], Task]:
    """Regress a sum of two sine waves, one of twice the other's frequency.

        y = a_1 sin(frequency * x + b_1) + a_2 sin(2 * frequency * x + b_2)

    Each task draws a frequency, uniform from 5 to 7; two amplitudes, normal; two
    phases, uniform over the circle; and a centre, uniform from -4 to 4, around which
    its inputs are normal. It is harder than `sinusoid`: a wave has a period of about 1.

    Args:
        shots: Number of points to adapt to.
        queries: Number of points to judge by.
        noise: Standard deviation of the normal noise on y, in support and query.

    Returns:
        `sample(key) -> Task`. The support has x and y of shape `[shots, 1]`, the query
        of shape `[queries, 1]`, in JAX's default float type.

    Raises:
        TypeError: A count, a number or a key is of the wrong kind.
        ValueError: `shots` or `queries` is below 1, or `noise` below 0.

    Example:
        >>> task = harmonics(shots=5, queries=20)(jax.random.key(0))
        >>> task.support[0].shape, task.query[1].shape
        ((5, 1), (20, 1))

    References:
        Lacoste et al. (2018), Uncertainty in multitask transfer learning,
        arXiv:1806.07528.
    """
    _checks.counts(shots=shots, queries=queries)
    validate.number("noise", noise, low=0.0)

    def sample(key: Key) -> Task:
        validate.key("key", key)
        keys = jax.random.split(key, 6)
        center = jax.random.uniform(keys[0], minval=-4.0, maxval=4.0)
        frequency = jax.random.uniform(keys[1], minval=5.0, maxval=7.0)
        a_1, a_2 = jax.random.normal(keys[2], (2,))
        b_1, b_2 = jax.random.uniform(keys[3], (2,), maxval=2 * jnp.pi)
        x = center + jax.random.normal(keys[4], (shots + queries, 1))
        y = a_1 * jnp.sin(frequency * x + b_1) + a_2 * jnp.sin(2 * frequency * x + b_2)
        y = y + noise * jax.random.normal(keys[5], y.shape)
        return Task(support=(x[:shots], y[:shots]), query=(x[shots:], y[shots:]))

    return sample
