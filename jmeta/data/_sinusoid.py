"""Sine curves, the regression tasks of MAML."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jmeta._core import validate
from jmeta._core.typing import Key
from jmeta.data import _checks
from jmeta.tasks import Task


def sinusoid(
    *,
    shots: int = 10,
    queries: int = 10,
    amplitude: tuple[float, float] = (0.1, 5.0),
    phase: tuple[float, float] = (0.0, float(jnp.pi)),
    inputs: tuple[float, float] = (-5.0, 5.0),
) -> Callable[[Key], Task]:
    """Regress a sine curve of unknown amplitude and phase from a few of its points.

        y = amplitude * sin(x - phase)

    Amplitude, phase and inputs are uniform in their ranges. The default ranges are
    those of the paper.

    Args:
        shots: Number of points to adapt to.
        queries: Number of points to judge by.
        amplitude: Lowest and highest amplitude.
        phase: Lowest and highest phase.
        inputs: Lowest and highest input.

    Returns:
        `sample(key) -> Task`. The support has x and y of shape `[shots, 1]`, the query
        of shape `[queries, 1]`, in JAX's default float type.

    Raises:
        TypeError: A count, a number or a key is of the wrong kind.
        ValueError: `shots` or `queries` is below 1, or a range has its lowest last.

    Example:
        >>> sample = jax.jit(sinusoid(shots=5, queries=20))
        >>> task = sample(jax.random.key(0))
        >>> task.support[0].shape, task.query[1].shape
        ((5, 1), (20, 1))

    References:
        Finn, Abbeel, Levine (2017), Model-agnostic meta-learning for fast adaptation
        of deep networks, arXiv:1703.03400, section 5.1.
    """
    _checks.counts(shots=shots, queries=queries)
    _checks.interval("amplitude", amplitude)
    _checks.interval("phase", phase)
    _checks.interval("inputs", inputs)

    def sample(key: Key) -> Task:
        validate.key("key", key)
        amplitude_key, phase_key, x_key = jax.random.split(key, 3)
        a = jax.random.uniform(amplitude_key, minval=amplitude[0], maxval=amplitude[1])
        b = jax.random.uniform(phase_key, minval=phase[0], maxval=phase[1])
        low, high = inputs
        x = jax.random.uniform(x_key, (shots + queries, 1), minval=low, maxval=high)
        y = a * jnp.sin(x - b)
        return Task(support=(x[:shots], y[:shots]), query=(x[shots:], y[shots:]))

    return sample
